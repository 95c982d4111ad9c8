"""What comes in: bounded, strict, refused with a code, the field and a cure; nothing of the inside comes out."""

import json
from typing import Any

import pytest

from gateway.control.door import BODY_BYTES_MAX
from gateway.licensing.keys import SigningKey
from tests.gateway.control.admin import Administration, Administrator, tenant_body
from tests.gateway.control.parties import trust_body
from tests.gateway.control.world import a_jwks, a_rate_card, an_issuer, an_upstream

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"color": 1}, "unknown_field", "color"),
        ({"rpm": "60"}, "invalid_type", "rpm"),
        ({"rpm": True}, "invalid_type", "rpm"),
        ({"rpm": 1.5}, "invalid_type", "rpm"),
        ({"rpm": 2**31}, "invalid_value", "rpm"),
        ({"tokens_month": 2**53}, "invalid_value", "tokens_month"),
        ({"tokens_month": None}, "invalid_type", "tokens_month"),
        ({"tenant_id": "a\n"}, "invalid_value", "tenant_id"),
        ({"tenant_id": "../etc"}, "invalid_value", "tenant_id"),
        ({"zone": "Asia/Nowhere"}, "invalid_value", "zone"),
        ({"zone": "../../etc/passwd"}, "invalid_value", "zone"),
        ({"legal_name": ""}, "invalid_value", "legal_name"),
        ({"legal_name": "a\u202eb"}, "invalid_value", "legal_name"),
        ({"legal_name": "a\x00b"}, "invalid_value", "legal_name"),
        ({"sites": ["a", "a"]}, "invalid_value", "sites"),
        ({"sites": "a"}, "invalid_type", "sites"),
        ({"sites": ["a b"]}, "invalid_value", "sites[0]"),
        ({"hojin_bangou": "123"}, "invalid_value", "hojin_bangou"),
        ({"hojin_bangou": "1234567890123"}, "invalid_value", "hojin_bangou"),
        ({"legal_name": "\u3000"}, "invalid_value", "legal_name"),
        ({"zone": "localtime"}, "invalid_value", "zone"),
        ({"zone": "Factory"}, "invalid_value", "zone"),
        ({"zone": "posixrules"}, "invalid_value", "zone"),
        ({"zone": "right/Asia/Tokyo"}, "invalid_value", "zone"),
        ({"zone": "posix/Asia/Tokyo"}, "invalid_value", "zone"),
    ],
)
async def test_field_that_does_not_fit_is_named(
    admin: Administration, change: dict[str, Any], code: str, param: str
) -> None:
    status, error = await admin.root.error("POST", "/tenants", {**tenant_body(), **change})
    assert (status, error["code"], error["param"]) == (400, code, param)
    assert error["cure"]


async def test_missing_field_is_named_in_both_languages(admin: Administration) -> None:
    body = tenant_body()
    del body["rpm"]
    for language, text in (("en", "The field rpm is missing."), ("ja", "フィールド rpm がありません。")):
        status, error = await admin.root.error("POST", "/tenants", body, language=language)
        assert (status, error["code"], error["param"], error["message"]) == (400, "missing_parameter", "rpm", text)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_type"), (b"{", "invalid_json"), (b"[]", "invalid_type"), (b'"x"', "invalid_type"),
        (b'{"rpm": 1, "rpm": 2}', "duplicate_key"), (b'{"rpm": NaN}', "invalid_json"), (b"\xff{}", "invalid_json"),
        (b"[" * 100_000, "too_many_values"), (b'{"a":' + b"[" * 400 + b"]" * 400 + b"}", "nesting_too_deep"),
        (b'{"rpm": 1e999}', "invalid_value"),
    ],
)  # fmt: skip
async def test_body_that_is_no_plain_json_object_is_refused(admin: Administration, raw: bytes, code: str) -> None:
    status, error = await admin.root.error("POST", "/tenants", content=raw, extra_headers=JSON)
    assert (status, error["code"]) == (400, code)


@pytest.mark.parametrize(
    ("headers", "raw", "status", "code"),
    [
        (JSON, b" " * (BODY_BYTES_MAX + 1), 413, "body_too_large"),
        ({"content-type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ({**JSON, "content-encoding": "gzip"}, b"{}", 415, "unsupported_encoding"),
    ],
)
async def test_body_of_another_size_or_kind_is_refused(
    admin: Administration, headers: dict[str, str], raw: bytes, status: int, code: str
) -> None:
    assert (await admin.root.ask("POST", "/tenants", content=raw, extra_headers=headers)).status_code == status
    _, error = await admin.root.error("POST", "/tenants", content=raw, extra_headers=headers)
    assert error["code"] == code


async def test_body_is_not_read_before_the_caller_is_known(admin: Administration) -> None:
    read = []

    async def receive() -> Any:
        read.append(True)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/admin/v1/tenants", "headers": [], "scheme": "http",
             "client": ("192.0.2.1", 1), "query_string": b""}  # fmt: skip
    await admin.app(scope, receive, send)
    assert (sent[0]["status"], read) == (401, [])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "route_not_found"), ("DELETE", "/tenants", 405, "method_not_allowed"),
     ("GET", "/tenants/", 404, "route_not_found"), ("PUT", "/whoami", 405, "method_not_allowed"),
     *[("GET", f"/{kind}/{name}", 404, "object_not_found")
       for kind in ("tenants", "keys", "clients", "issuers", "licences", "trust-keys", "upstreams", "rate-cards")
       for name in ("%00", "a%00b", "%ff")],
     ("POST", "/admin-keys/%00/revoke", 404, "object_not_found"),
     ("GET", "/tenants/%00/usage", 404, "object_not_found")],
)  # fmt: skip
async def test_route_that_is_not_there_is_told_in_the_form_of_all_errors(
    admin: Administration, method: str, path: str, status: int, code: str
) -> None:
    assert (await admin.root.error(method, path))[0] == status
    assert (await admin.root.error(method, path))[1]["code"] == code


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [("/tenants", {"limit": "0"}, "limit"), ("/tenants", {"limit": "1001"}, "limit"), ("/tenants", {"x": "1"}, "x"),
     ("/tenants", {"after": "a/b"}, "after"), ("/audit", {"from": "yesterday"}, "from"),
     ("/audit", {"before": "0"}, "before"), ("/licences", {"tenant": "A"}, "tenant"),
     ("/licences", {"after": "\0"}, "after"), ("/audit", {"from": "0001-01-01T00:00:00+14:00"}, "from"),
     ("/audit", {"object": "\0"}, "object")],
)  # fmt: skip
async def test_query_that_does_not_fit_is_named(
    admin: Administration, path: str, query: dict[str, str], param: str
) -> None:
    status, error = await admin.root.error("GET", path, params=query)
    assert (status, error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"from": "x"}, "from"), ({"to": "0001-01-01"}, "to"), ({"zone": "Mars/Base"}, "zone"),
     ({"group_by": "colour"}, "group_by"), ({"from": "2026-02-01", "to": "2026-01-01"}, "to"),
     ({"from": "2026-02-01", "to": "2026-02-01"}, "to"), ({"from": "2020-01-01", "to": "2026-01-01"}, "to")],
)  # fmt: skip
async def test_usage_query_that_does_not_fit_is_named(
    admin: Administration, tenant: str, query: dict[str, str], param: str
) -> None:
    status, error = await admin.root.error("GET", f"/tenants/{tenant}/usage", params=query)
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"base_url": "ftp://x/v1"}, "base_url"), ({"base_url": "http://x"}, "base_url"), ({"tier": "x"}, "tier"),
        ({"region": "mars"}, "region"), ({"country": "jp"}, "country"), ({"model_version": "1.0rc1"}, "model_version"),
        ({"profile": {"context_tokens": 1}}, "profile"), ({"supply_chain": {"x": 0.5}}, "supply_chain"),
        ({"supply_chain": {"x": "y" * 20_000}}, "supply_chain"),
        ({"profile": {"context_tokens": 1, "max_output_tokens": 1, "extra_params": ["cache_salt"]}}, "profile"),
        ({"profile": {"context_tokens": 1, "max_output_tokens": 0}}, "profile"),
        ({"profile": {"context_tokens": 2**53, "max_output_tokens": 1}}, "profile"),
        ({"profile": {"context_tokens": 1, "max_output_tokens": 1, "image_tokens": -1}}, "profile"),
        ({"profile": {"context_tokens": 1, "max_output_tokens": 1, "modalities": ["smell", "text"]}}, "profile"),
        ({"supply_chain": {"x": [2**53]}}, "supply_chain"),
        ({"base_url": "http://a:0/v1"}, "base_url"), ({"base_url": "http:///v1"}, "base_url"),
        ({"base_url": "http://u:p@a/v1"}, "base_url"), ({"base_url": "http://a?/v1"}, "base_url"),
        ({"witness_url": "http://[::1"}, "witness_url"), ({"witness_url": "http://a#b"}, "witness_url"),
    ],
)  # fmt: skip
async def test_upstream_that_could_not_be_used_is_refused(
    admin: Administration, changes: dict[str, Any], param: str
) -> None:
    status, error = await admin.root.error("POST", "/upstreams", an_upstream(**changes))
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize("base_url", ["http://[::1]:8000/v1", "https://a_b.example:65535/x/v1", "http://192.0.2.1/v1"])
async def test_upstream_may_have_an_address_and_a_port(admin: Administration, base_url: str) -> None:
    assert (await admin.root.good("POST", "/upstreams", an_upstream(base_url=base_url)))["base_url"] == base_url


@pytest.mark.parametrize(
    "issuer",
    ["https://[", "https://a:99999", "https://u:p@a.example", "https://@a.example", "https://a.example#x",
     "https://a.example?x", "https://a.example?", "https://", "https://a\\b", "http://a.example"],
)  # fmt: skip
async def test_issuer_that_is_no_plain_url_is_refused(admin: Administration, tenant: str, issuer: str) -> None:
    body = {"issuer": issuer, "audience": "a"}
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/issuers", body)
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "issuer")
    assert error["cure"]


@pytest.mark.parametrize(
    "at",
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00",
     "9999-01-01T00:00:00Z"],
)  # fmt: skip
async def test_time_beyond_the_years_that_are_kept_is_refused(admin: Administration, tenant: str, at: str) -> None:
    trust = {**trust_body(SigningKey.generate(), "issuer", "x"), "not_before": at}
    for path, body, param in (
        ("/rate-cards", a_rate_card(effective_from=at), "effective_from"), ("/trust-keys", trust, "not_before"),
        (f"/tenants/{tenant}/keys", {"expires_at": at}, "expires_at"),
    ):  # fmt: skip
        status, error = await admin.root.error("POST", path, body)
        assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


async def test_refused_method_names_every_one_that_is_taken(admin: Administration, tenant: str) -> None:
    for path, methods in (("/tenants", "GET, POST"), (f"/tenants/{tenant}", "GET, PATCH"), ("/apply", "POST")):
        assert (await admin.root.ask("DELETE", path)).headers["allow"] == methods


@pytest.mark.parametrize("raw", [b"", b"[]", b'"x"', b"1"])
async def test_body_that_is_no_object_is_told_as_the_body(admin: Administration, raw: bytes) -> None:
    _, error = await admin.root.error("POST", "/tenants", content=raw, extra_headers=JSON)
    assert (error["param"], error["message"]) == (
        "body", "The field body has the wrong type: a JSON object was expected.",
    )  # fmt: skip


@pytest.mark.parametrize(
    "jwks",
    [
        {}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AAAA"}]}, {"keys": "x"}, {"keys": [1]},
        {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "d": "A" * 43}]},
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
        {"keys": [{**a_jwks()["keys"][0], "foo": 1.5}]}, {"keys": [{**a_jwks()["keys"][0], "foo": [2**60]}]},
    ],
)  # fmt: skip
async def test_client_with_a_private_weak_or_symmetric_key_is_refused(
    admin: Administration, tenant: str, jwks: Any
) -> None:
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/clients", {"jwks": jwks})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "jwks")
    assert "A" * 43 not in json.dumps(error)


async def test_what_never_changes_is_named(admin: Administration) -> None:
    card = await admin.root.good("POST", "/rate-cards", a_rate_card())
    path = f"/rate-cards/{card['rate_card_id']}"
    status, error = await admin.root.error("PATCH", path, {"effective_to": "2025-01-01T00:00:00Z"})
    assert (status, error["param"]) == (400, "effective_to")
    status, error = await admin.root.error("PATCH", path, {"input_price": 0, "effective_to": None})
    assert (status, error["code"], error["param"]) == (400, "unknown_field", "input_price")


async def test_second_object_of_one_name_is_refused_without_a_word_of_sql(admin: Administration, tenant: str) -> None:
    issuer = {"issuer": f"https://{tenant}.example", "audience": "a"}
    await admin.root.good("POST", f"/tenants/{tenant}/issuers", issuer)
    for path, body in (("/tenants", tenant_body(tenant)), (f"/tenants/{tenant}/issuers", issuer)):
        status, error = await admin.root.error("POST", path, body)
        assert (status, error["code"]) == (409, "already_exists")
        assert not any(word in json.dumps(error).lower() for word in ("sql", "constraint", "duplicate key", "relation"))


async def test_answers_may_not_be_kept_by_caches(admin: Administration, tenant: str) -> None:
    for response in (
        await admin.root.ask("POST", f"/tenants/{tenant}/keys", {}), await admin.root.ask("GET", "/tenants/x"),
        await Administrator(admin.app, "").ask("GET", "/tenants"),
    ):  # fmt: skip
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-request-id"]


async def test_pages_follow_each_other_without_a_gap(admin: Administration, tenant: str) -> None:
    made = {(await admin.root.good("POST", f"/tenants/{tenant}/keys", {}))["key_id"] for _ in range(5)}
    seen: list[str] = []
    after = ""
    while True:
        query = {"limit": "2", "after": after}
        answer = await admin.root.good("GET", f"/tenants/{tenant}/keys", params=query)
        seen += [row["key_id"] for row in answer["data"]]
        if answer["next"] is None:
            break
        after = answer["next"]
    assert (len(seen), set(seen)) == (5, made)


async def test_full_width_space_is_part_of_a_name(admin: Administration) -> None:
    made = await admin.root.good("POST", "/tenants", {**tenant_body(), "legal_name": "関所\u3000株式会社"})
    assert made["legal_name"] == "関所\u3000株式会社"


async def test_raise_of_the_last_year_that_is_kept_is_refused_or_made_and_never_fails(
    admin: Administration, tenant: str
) -> None:
    body = {"level": "tenant", "limit_name": "rpm", "value": 10**6, "reason": "x",
            "starts_at": "9998-12-31T00:00:00Z"}  # fmt: skip
    path = f"/tenants/{tenant}/raises"
    await admin.root.good("POST", path, {**body, "ends_at": "9998-12-31T01:00:00Z"})
    status, error = await admin.root.error("POST", path, {**body, "ends_at": "9998-12-30T00:00:00Z"})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "ends_at")


async def test_word_or_number_is_no_boolean_of_a_webhook(admin: Administration, tenant: str) -> None:
    made = await admin.root.good("POST", f"/tenants/{tenant}/webhooks", {"url": "https://a.example/x"})
    for value in ("yes", 1):
        status, error = await admin.root.error("PATCH", f"/webhooks/{made['endpoint_id']}", {"disabled": value})
        assert (status, error["code"], error["param"]) == (400, "invalid_type", "disabled")


async def test_parameter_that_is_named_twice_is_refused(admin: Administration, tenant: str) -> None:
    for path in ("/tenants?limit=1&limit=2", f"/tenants/{tenant}/usage?from=2026-01-01&limit=&limit="):
        status, error = await admin.root.error("GET", path)
        assert (status, error["code"], error["param"]) == (400, "invalid_value", "limit")
    many = "&".join(f"a{number}=" for number in range(65))
    assert (await admin.root.error("GET", f"/tenants?{many}"))[1]["param"] == "query"


async def test_name_of_spaces_is_none(admin: Administration, tenant: str) -> None:
    issuer = (await admin.root.good("POST", "/billing-issuers", an_issuer()))["issuer_id"]
    for name in (" ", "   "):
        status, error = await admin.root.error("POST", "/tenants", tenant_body(legal_name=name))
        assert (status, error["code"], error["param"]) == (400, "invalid_value", "legal_name")
        party = {"name": name, "issuer_id": issuer}
        status, error = await admin.root.error("POST", f"/tenants/{tenant}/billing-party", party)
        assert (status, error["param"]) == (400, "name")
