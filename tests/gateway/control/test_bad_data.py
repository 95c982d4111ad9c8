"""What no row can hold or mean is the caller's error, named with its field; it never reads as an outage."""

from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.control.admin import Administration
from tests.gateway.control.world import a_rate_card, an_upstream

YEAR_ONE = "0001-01-01T00:00:00Z"
PROFILE = {"context_tokens": 2048, "max_output_tokens": 256}


def an_issuer(url: str) -> dict[str, str]:
    return {"issuer": url, "audience": "sekisho"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/rate-cards", a_rate_card(effective_from=YEAR_ONE), "effective_from"),
        ("/admin-keys", {"role": "auditor", "expires_at": YEAR_ONE}, "expires_at"),
        ("/tenants/{tenant}/keys", {"label": "x", "expires_at": YEAR_ONE}, "expires_at"),
        ("/upstreams", an_upstream(profile={**PROFILE, "context_tokens": -1}), "profile"),
        ("/upstreams", an_upstream(profile={**PROFILE, "modalities": []}), "profile"),
        ("/upstreams", an_upstream(base_url="http://127.0.0.1:99999/v1"), "base_url"),
        ("/upstreams", an_upstream(base_url="http://[/v1"), "base_url"),
        ("/tenants/{tenant}/issuers", an_issuer("https://["), "issuer"),
        ("/tenants/{tenant}/issuers", an_issuer("https://a:99999"), "issuer"),
        ("/tenants/{tenant}/issuers", an_issuer("https://user@login.example"), "issuer"),
        ("/tenants/{tenant}/issuers", an_issuer("https://login.example/#x"), "issuer"),
    ],
)
async def test_field_that_means_nothing_is_named(
    admin: Administration, tenant: str, path: str, body: Any, param: str
) -> None:
    status, error = await admin.root.error("POST", path.format(tenant=tenant), body)
    assert (status, error["param"]) == (400, param)
    assert error["cure"]


@pytest.mark.parametrize("path", ["/tenants/%00", "/keys/%00", "/licences/%00", "/upstreams/%00"])
async def test_id_that_no_row_can_have_is_not_found(admin: Administration, path: str) -> None:
    assert (await admin.root.ask("GET", path)).status_code == 404


@pytest.mark.parametrize("path", ["/tenants?after=%00", "/audit?to=9999-12-31T23:59:59-14:00"])
async def test_query_that_means_nothing_is_refused(admin: Administration, path: str) -> None:
    assert (await admin.root.ask("GET", path)).status_code == 400


async def test_method_that_is_not_taken_is_told_which_are(admin: Administration) -> None:
    answer = await admin.root.ask("DELETE", "/tenants")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_key_that_was_rotated_out_is_not_revived(admin: Administration, tenant: str) -> None:
    old = await admin.root.good("POST", f"/tenants/{tenant}/keys", {"label": uuid4().hex})
    await admin.root.good("POST", f"/keys/{old['key_id']}/rotate", {"overlap_s": 60})
    status, error = await admin.root.error("PATCH", f"/keys/{old['key_id']}", {"expires_at": None})
    assert (status, error["code"], error["param"]) == (409, "wrong_state", "expires_at")
