"""Tenants as code over the API: a plan tells what an application does; it does all of it or nothing, and only once."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from gateway.identity.keys import key_id_of
from tests.gateway.control.admin import Administration, licence_document, tenant_body
from tests.gateway.control.parties import Parties, trust_body
from tests.gateway.control.world import Estate, a_jwks, a_rate_card, an_upstream


async def a_state(parties: Parties, tenant_id: str) -> dict[str, Any]:
    """A desired state with one of everything."""
    licence = await parties.sealed(licence_document(tenant_id, parties.issuer))
    signer = parties.keys[tenant_id]
    return {
        "v": 1,
        "tenants": [{
            **tenant_body(tenant_id), "sites": ["acme-hq"],
            "projects": [{"project_id": "p1", "rpm": 10}],
            "keys": [{"label": "app", "project_id": "p1", "purposes": ["research"], "purpose": "research", "rpm": 5}],
            "clients": [{"label": "robot", "jwks": a_jwks()}],
            "issuers": [{"issuer": f"https://{uuid4().hex}.example", "audience": "sekisho"}],
            "licences": [{"envelope": licence}],
        }],
        "trust_keys": [trust_body(signer, "licensee", tenant_id)],
        "upstreams": [an_upstream()],
        "rate_cards": [a_rate_card()],
    }  # fmt: skip


@pytest.fixture
def tenant_id() -> str:
    """A name that is not taken."""
    return f"t-{uuid4().hex[:12]}"


def effects(answer: Mapping[str, Any], *kinds: str) -> set[tuple[str, str]]:
    """Effect and kind of every change that is not `unchanged` or `not_in_files`."""
    quiet = {"unchanged", "not_in_files"} - set(kinds)
    return {(change["effect"], change["kind"]) for change in answer["changes"] if change["effect"] not in quiet}


async def counts(database: Any) -> list[int]:
    """How many rows there are of everything that an application may write."""
    tables = ("tenant", "project", "api_key", "oauth_client", "oidc_issuer", "licence", "trust_key", "upstream",
              "rate_card", "audit_pending")  # fmt: skip
    return [await database.fetchval(f"SELECT count(*) FROM {table}") for table in tables]  # noqa: S608 # constants


async def test_plan_writes_nothing_and_application_does_what_it_told(
    admin: Administration, parties: Parties, tenant_id: str, database: Any
) -> None:
    state = {"desired": await a_state(parties, tenant_id)}
    before, epoch = await counts(database), await database.fetchval("SELECT epoch FROM config_epoch")
    plan = await admin.root.good("POST", "/plan", state)
    assert await counts(database) == before
    assert await database.fetchval("SELECT epoch FROM config_epoch") == epoch == plan["epoch"]
    assert effects(plan) == {("create", kind) for kind in ("tenant", "project", "key", "client", "issuer", "licence",
                                                           "upstream", "rate_card")}  # fmt: skip
    done = await admin.root.good("POST", "/apply", {**state, "plan_digest": plan["plan_digest"]})
    assert effects(done) == effects(plan)
    assert [(key["label"], key_id_of(key["key"])) for key in done["issued"]] == [("app", done["issued"][0]["key_id"])]
    after = await counts(database)
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1, 1, 1, 1, 0, 1, 1, 8]


async def test_second_application_changes_nothing(
    admin: Administration, parties: Parties, tenant_id: str, database: Any
) -> None:
    state = {"desired": await a_state(parties, tenant_id)}
    await admin.root.good("POST", "/apply", state)
    before, epoch = await counts(database), await database.fetchval("SELECT epoch FROM config_epoch")
    again = await admin.root.good("POST", "/apply", state)
    assert (effects(again), again["issued"]) == (set(), [])
    assert (await counts(database), await database.fetchval("SELECT epoch FROM config_epoch")) == (before, epoch)


async def test_one_bad_entry_refuses_all_and_every_problem_is_told(
    admin: Administration, parties: Parties, tenant_id: str, database: Any
) -> None:
    desired = await a_state(parties, tenant_id)
    other = (await parties.sealed(licence_document(tenant_id, parties.issuer, licence_id=f"o-{tenant_id}")))[:-9]
    desired["tenants"][0]["keys"].append({"label": "b", "project_id": "p9"})
    desired["tenants"][0]["keys"].append({"label": "c", "key_id": "0" * 12})
    desired["tenants"][0]["licences"].append({"envelope": other})
    desired["upstreams"].append(an_upstream(base_url="http://127.0.0.1:9/v1"))
    before = await counts(database)
    for route in ("/plan", "/apply"):
        status, error = await admin.root.error("POST", route, {"desired": desired})
        assert (status, error["code"]) == (422, "plan_refused")
        assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
            ("tenants[0].keys[1].project_id", "invalid_value"),
            ("tenants[0].keys[2].key_id", "object_not_found"),
            ("tenants[0].licences[1].envelope", "malformed_envelope"),
        ]
    assert await counts(database) == before


async def test_names_given_twice_are_refused(admin: Administration, parties: Parties, tenant_id: str) -> None:
    desired = await a_state(parties, tenant_id)
    tenant = desired["tenants"][0]
    tenant["keys"].append({"label": "app"})
    tenant["keys"].append({})
    desired["tenants"].append(tenant_body(tenant_id))
    _, error = await admin.root.error("POST", "/plan", {"desired": desired})
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("tenants[0].keys[1].label", "already_exists"),
        ("tenants[0].keys[2].label", "missing_parameter"),
        ("tenants[1].tenant_id", "already_exists"),
    ]


async def test_what_no_file_mentions_is_told_and_left_alone(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    desired = await a_state(parties, tenant_id)
    await admin.root.good("POST", "/apply", {"desired": desired})
    extra = await admin.root.good("POST", f"/tenants/{tenant_id}/keys", {"label": "by hand"})
    desired["tenants"][0]["projects"] = []
    desired["tenants"][0]["licences"] = []
    del desired["upstreams"]
    done = await admin.root.good("POST", "/apply", {"desired": desired})
    left = {(change["kind"], change["name"]) for change in done["changes"] if change["effect"] == "not_in_files"}
    assert {("key", f"{tenant_id}/by hand"), ("project", f"{tenant_id}/p1")} <= left
    assert any(kind == "licence" for kind, _ in left)
    assert not any(kind == "upstream" for kind, _ in left)  # no file speaks of upstreams
    assert (await admin.root.good("GET", f"/keys/{extra['key_id']}"))["revoked_at"] is None
    assert (await admin.root.good("GET", f"/tenants/{tenant_id}/projects/p1"))["project_id"] == "p1"


async def test_change_and_end_are_shown_field_by_field(admin: Administration, parties: Parties, tenant_id: str) -> None:
    desired = await a_state(parties, tenant_id)
    await admin.root.good("POST", "/apply", {"desired": desired})
    tenant = desired["tenants"][0]
    tenant["rpm"] = 61
    del tenant["keys"][0]["rpm"]
    tenant["clients"][0]["state"] = "revoked"
    tenant["licences"][0] |= {"state": "revoked", "reason": "契約終了"}
    desired["upstreams"][0]["state"] = "retired"
    done = await admin.root.good("POST", "/apply", {"desired": desired})
    told = {(change["effect"], change["kind"]): (change["before"], change["after"]) for change in done["changes"]}
    assert told["update", "tenant"] == ({"rpm": 60}, {"rpm": 61})
    assert told["update", "key"] == ({"rpm": 5}, {"rpm": None})
    assert told["revoke", "client"] == ({"state": "active"}, {"state": "revoked"})
    assert told["revoke", "licence"][1] == {"state": "revoked", "reason": "契約終了"}
    assert told["retire", "upstream"] == ({"state": "active"}, {"state": "retired"})
    again = await admin.root.good("POST", "/apply", {"desired": desired})
    assert effects(again) == set()
    desired["upstreams"][0]["state"] = "active"
    assert effects(await admin.root.good("POST", "/apply", {"desired": desired})) == {("update", "upstream")}


async def test_revoked_key_and_licence_never_come_back_by_a_file(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    state = {"desired": await a_state(parties, tenant_id)}
    done = await admin.root.good("POST", "/apply", state)
    await admin.root.good("POST", f"/keys/{done['issued'][0]['key_id']}/revoke")
    licence_id = next(change["name"] for change in done["changes"] if change["kind"] == "licence")
    await admin.root.good("POST", f"/licences/{licence_id}/revoke", {"reason": "breach"})
    again = await admin.root.good("POST", "/apply", state)
    assert effects(again) == {("drift", "key"), ("drift", "licence")}
    assert again["issued"] == []
    assert (await admin.root.good("GET", f"/licences/{licence_id}"))["revoked_at"] is not None


async def test_rotated_key_is_still_the_one_of_its_label(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    state = {"desired": await a_state(parties, tenant_id)}
    done = await admin.root.good("POST", "/apply", state)
    await admin.root.good("POST", f"/keys/{done['issued'][0]['key_id']}/rotate", {"overlap_s": 600})
    again = await admin.root.good("POST", "/apply", state)
    assert effects(again) == set()
    assert not any(change["effect"] == "not_in_files" and change["kind"] == "key" for change in again["changes"])


async def test_price_of_a_card_and_owner_of_a_trust_key_never_change(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    desired = await a_state(parties, tenant_id)
    await admin.root.good("POST", "/apply", {"desired": desired})
    desired["rate_cards"][0]["input_price"] += 1
    desired["trust_keys"][0]["party"] = "somebody-else"
    _, error = await admin.root.error("POST", "/apply", {"desired": desired})
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("trust_keys[0].party", "invalid_value"),
        ("rate_cards[0].input_price", "invalid_value"),
    ]


async def test_child_licence_may_stand_before_its_parent_in_the_files(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    sub = f"{tenant_id}-s"
    parent = licence_document(tenant_id, parties.issuer, delegation={"allowed": True, "max_depth": 1, "to": [sub]})
    child = licence_document(
        sub, tenant_id, parent={"licence_id": parent["licence_id"], "version": 1}, validity=parent["validity"]
    )
    signed = [(sub, await parties.licensee(tenant_id)), (tenant_id, await parties.licensee(sub))]
    assert signed
    tenants = [
        {**tenant_body(sub), "licences": [{"envelope": await parties.sealed(child)}]},
        {**tenant_body(tenant_id), "licences": [{"envelope": await parties.sealed(parent)}]},
    ]
    done = await admin.root.good("POST", "/apply", {"desired": {"tenants": tenants}})
    assert [change["name"] for change in done["changes"] if change["kind"] == "licence"] == [
        parent["licence_id"], child["licence_id"],
    ]  # fmt: skip


async def test_application_of_a_plan_is_refused_when_the_book_has_moved(
    admin: Administration, parties: Parties, tenant_id: str, database: Any
) -> None:
    desired = await a_state(parties, tenant_id)
    await admin.root.good("POST", "/apply", {"desired": desired})
    desired["tenants"][0]["rpm"] = 100
    plan = await admin.root.good("POST", "/plan", {"desired": desired})
    await admin.root.good("PATCH", f"/tenants/{tenant_id}", {"rpm": 70})
    before = await counts(database)
    for condition in ({"plan_digest": plan["plan_digest"]}, {"epoch": plan["epoch"]}):
        status, error = await admin.root.error("POST", "/apply", {"desired": desired, **condition})
        assert (status, error["code"]) == (409, "book_moved")
    assert await counts(database) == before
    assert (await admin.root.good("GET", f"/tenants/{tenant_id}"))["rpm"] == 70


async def test_applications_at_once_come_one_after_the_other(
    admin: Administration, parties: Parties, tenant_id: str, database: Any
) -> None:
    state = {"desired": await a_state(parties, tenant_id)}
    answers = await asyncio.gather(*(admin.root.good("POST", "/apply", state) for _ in range(6)))
    assert sorted(len(answer["issued"]) for answer in answers) == [0, 0, 0, 0, 0, 1]
    assert await database.fetchval("SELECT count(*) FROM api_key WHERE tenant_id = $1", tenant_id) == 1


async def test_export_is_a_state_that_a_plan_finds_unchanged(
    admin: Administration, parties: Parties, tenant_id: str
) -> None:
    estate = await Estate.made(admin, parties)
    await admin.root.good("POST", f"/tenants/{estate.tenant}/keys", {"label": "app", "cidrs": ["192.0.2.0/24"]})
    await admin.root.good("POST", f"/tenants/{estate.tenant}/keys", {"expires_at": "2099-01-01T00:00:00+09:00"})
    engineer = await admin.somebody("si_engineer", estate.tenant)
    state = await engineer.good("GET", "/export")
    assert [tenant["tenant_id"] for tenant in state["tenants"]] == [estate.tenant]
    assert set(state) == {"v", "tenants"}  # what an engineer may not change is not in its files
    plan = await engineer.good("POST", "/plan", {"desired": state})
    assert plan["summary"] == {"unchanged": len(plan["changes"])}
    assert {change["kind"] for change in plan["changes"]} == {"tenant", "project", "key", "client", "issuer",
                                                              "licence"}  # fmt: skip


async def test_engineer_applies_to_its_own_tenant_only(
    admin: Administration, parties: Parties, tenant: str, tenant_id: str
) -> None:
    engineer = await admin.somebody("si_engineer", tenant)
    own = {**tenant_body(tenant), "rpm": 77, "keys": [{"label": "app"}]}
    done = await engineer.good("POST", "/apply", {"desired": {"tenants": [own]}})
    assert effects(done) == {("update", "tenant"), ("create", "key")}
    _, error = await engineer.error("POST", "/apply", {"desired": {"tenants": [own, tenant_body(tenant_id)]}})
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("tenants[1].tenant_id", "object_not_found")
    ]
