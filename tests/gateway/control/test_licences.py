"""Licences through the admin plane: admitted by their signatures, recorded by their digest, ended for good."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.licensing.decide import models_of
from gateway.licensing.envelope import open_envelope, seal
from gateway.licensing.keys import SigningKey
from tests.conftest import read_snapshot
from tests.gateway.control.admin import Administration, licence_document
from tests.gateway.control.parties import Parties
from tests.gateway.control.world import an_upstream

NOW = int(datetime.now(UTC).timestamp() * 1_000_000)


async def models(database: Any, tenant: str) -> list[str]:
    """What the tenant may use, as a gateway reads the book."""
    return models_of((await read_snapshot(database)).licences, tenant, NOW)


async def test_submitted_licence_permits_and_revoked_one_does_not(
    admin: Administration, parties: Parties, tenant: str, database: Any
) -> None:
    await admin.root.good("POST", "/upstreams", an_upstream())
    envelope = await parties.sealed(licence_document(tenant, parties.issuer))
    row = await admin.root.good("POST", "/licences", {"envelope": envelope + "\n"})
    assert row["digest"] == open_envelope(envelope).digest
    assert await models(database, tenant) == ["m1"]
    again = await admin.root.good("POST", "/licences", {"envelope": envelope})
    assert again == row
    approver = await admin.somebody("approver")
    revoked = await approver.good("POST", f"/licences/{row['licence_id']}/revoke", {"reason": "契約終了"})
    assert revoked["revoked_at"] is not None and revoked["revoke_reason"] == "契約終了"
    assert await models(database, tenant) == []
    status, error = await admin.root.error("POST", "/licences", {"envelope": envelope})
    assert (status, error["code"]) == (422, "revoked")


async def test_finding_is_the_errors_code_with_path_and_cure_in_the_readers_language(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    document = dict(licence_document(tenant, parties.issuer))
    document["grants"] = [{"id": "g1", "models": ["m1"], "actions": ["fly"]}]
    envelope = await parties.sealed(document)
    status, error = await admin.root.error("POST", "/licences", {"envelope": envelope}, language="ja")
    assert (status, error["param"]) == (422, "grants[0].actions[0]")
    assert error["code"] != "internal" and "。" in error["message"] and "。" in error["cure"]


async def test_flipped_byte_and_foreign_signer_are_refused_and_nothing_is_stored(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    document = licence_document(tenant, parties.issuer)
    envelope = await parties.sealed(document)
    stranger = await Parties.trusted(admin.root)
    stranger.keys[parties.issuer] = stranger.keys[stranger.issuer]
    for text in (envelope.replace('"sig":"', '"sig":"A', 1), await stranger.sealed(document), "{}"):
        status, error = await admin.root.error("POST", "/licences", {"envelope": text})
        assert status == 422, error
        assert error["code"] in ("malformed_envelope", "signature_malformed", "signature_foreign", "signature_invalid")
    status, _ = await admin.root.error("GET", f"/licences/{document['licence_id']}")
    assert status == 404


async def test_child_is_bound_to_its_parent_and_falls_with_it(
    admin: Administration, parties: Parties, tenant: str, database: Any
) -> None:
    await admin.root.good("POST", "/upstreams", an_upstream())
    sub = (await admin.root.good("POST", "/tenants", {**_tenant(tenant)}))["tenant_id"]
    delegating = licence_document(tenant, parties.issuer, delegation={"allowed": True, "max_depth": 1, "to": [sub]})
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(delegating)})
    parent = {"licence_id": delegating["licence_id"], "version": 1}
    validity = delegating["validity"]
    child = licence_document(sub, tenant, parent=parent, validity=validity)
    wider = {**child, "grants": [{"id": "g1", "models": ["*"], "actions": ["chat"]}]}
    status, error = await admin.root.error("POST", "/licences", {"envelope": await parties.sealed(wider)})
    assert status == 422 and error["param"].startswith("grants[0]")
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(child)})
    assert await models(database, sub) == ["m1"]
    await admin.root.good("POST", f"/licences/{delegating['licence_id']}/revoke", {"reason": "over"})
    assert await models(database, sub) == []


async def test_of_two_next_versions_submitted_at_once_exactly_one_is_admitted(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    first = licence_document(tenant, parties.issuer)
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(first)})
    rivals = [
        await parties.sealed({**first, "version": 2, "supersedes": 1, "validity": _longer(first, days)})
        for days in range(1, 5)
    ]
    answers = await asyncio.gather(*(admin.root.ask("POST", "/licences", {"envelope": rival}) for rival in rivals))
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]
    assert {answer.json()["error"]["code"] for answer in answers if answer.is_error} == {"version_replayed"}


async def test_record_of_a_licence_holds_digests_and_not_the_contract(
    admin: Administration, parties: Parties, tenant: str, database: Any
) -> None:
    envelope = await parties.sealed(licence_document(tenant, parties.issuer))
    row = await admin.root.good("POST", "/licences", {"envelope": envelope})
    text = await database.fetchval(
        "SELECT record FROM audit_pending WHERE log = 'administration' AND record::jsonb->>'object' = $1",
        f"{row['licence_id']}/1",
    )
    record = json.loads(text)
    assert record["after"]["envelope"] == {"sha256": row["digest"]}
    assert set(record["after"]["document"]) == {"sha256"}
    assert "payload" not in text and "grants" not in text


async def test_revoked_trust_key_ends_every_licence_that_it_signed(
    admin: Administration, parties: Parties, tenant: str, database: Any
) -> None:
    await admin.root.good("POST", "/upstreams", an_upstream())
    envelope = await parties.sealed(licence_document(tenant, parties.issuer))
    await admin.root.good("POST", "/licences", {"envelope": envelope})
    assert await models(database, tenant) == ["m1"]
    await admin.root.good("POST", f"/trust-keys/{parties.keys[parties.issuer].key_id}/revoke")
    assert await models(database, tenant) == []


async def test_trust_key_ends_once_and_never_later(admin: Administration, parties: Parties) -> None:
    path = f"/trust-keys/{parties.keys[parties.issuer].key_id}/retire"
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (1, 2))
    await admin.root.good("POST", path, {"not_after": soon.isoformat()})
    status, error = await admin.root.error("POST", path, {"not_after": later.isoformat()})
    assert (status, error["code"]) == (409, "wrong_state")
    ended = await admin.root.good("POST", path, {})
    assert datetime.fromisoformat(ended["not_after"]) <= datetime.now(UTC)


def _tenant(name: str) -> dict[str, Any]:
    return {"tenant_id": f"{name}-s", "legal_name": "s", "tokens_month": 1, "micro_yen_month": 1, "rpm": 1,
            "concurrency": 1}  # fmt: skip


def _longer(document: Any, days: int) -> dict[str, str]:
    end = datetime.fromisoformat(document["validity"]["not_after"]) + timedelta(days=days)
    return {**document["validity"], "not_after": end.isoformat()}


async def test_engineer_is_not_told_whose_a_taken_licence_id_is(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    taken = licence_document(tenant, parties.issuer)
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(taken)})
    other = (await admin.root.good("POST", "/tenants", _tenant(tenant)))["tenant_id"]
    engineer = await admin.somebody("si_engineer", other)
    same_id = {**licence_document(other, parties.issuer), "licence_id": taken["licence_id"]}
    status, error = await engineer.error("POST", "/licences", {"envelope": await parties.sealed(same_id)})
    assert (status, error["code"], error["param"]) == (422, "tenant_mismatch", "licence_id")
    assert tenant not in str(error)


@pytest.mark.parametrize("version", [1, 2])
async def test_taken_id_reads_like_a_free_one_to_who_has_not_every_signature(
    admin: Administration, parties: Parties, tenant: str, version: int
) -> None:
    taken = licence_document(tenant, parties.issuer)
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(taken)})
    other = (await admin.root.good("POST", "/tenants", _tenant(tenant)))["tenant_id"]
    engineer = await admin.somebody("si_engineer", other)
    own_keys = [SigningKey.generate(), SigningKey.generate()]
    told = []
    for licence_id in (taken["licence_id"], f"free-{tenant}"):
        probe = {**licence_document(other, parties.issuer), "licence_id": licence_id, "version": version}
        status, error = await engineer.error("POST", "/licences", {"envelope": seal(probe, own_keys)})
        told.append((status, {**error, "request_id": ""}))
    assert told[0] == told[1]


async def test_signed_licence_of_a_taken_id_is_refused_like_a_free_one_as_long_as_it_would_be_refused(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    other = (await admin.root.good("POST", "/tenants", _tenant(tenant)))["tenant_id"]
    engineer = await admin.somebody("si_engineer", other)
    names = [f"l-{tenant}", f"r-{tenant}"]
    for name in names:
        taken = {**licence_document(tenant, parties.issuer), "licence_id": name}
        await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(taken)})
    await admin.root.good("POST", f"/licences/{names[1]}/revoke", {"reason": "over"})
    keys = [parties.keys[parties.issuer], await parties.licensee(other)]
    own = licence_document(other, parties.issuer)
    past = {"not_before": "2020-01-01T00:00:00Z", "not_after": "2021-01-01T00:00:00Z"}
    unknown = [{"id": "g1", "models": ["m1"], "actions": ["fly"]}]
    for number, change in (
        (1, {}), (2, {"version": 2, "supersedes": 1}), (2, {"grants": unknown}), (2, {"validity": past}),
    ):  # fmt: skip
        answers = set()
        for name in (*names, f"f-{tenant}"):
            envelope = seal({**own, **change, "licence_id": name}, keys[:number])
            status, error = await engineer.error("POST", "/licences", {"envelope": envelope})
            del error["request_id"]
            answers.add((status, json.dumps(error).replace(name, "NAME")))
        assert len(answers) == 1, answers


async def test_engineer_is_answered_alike_for_foreign_and_free_parents(
    admin: Administration, parties: Parties, tenant: str
) -> None:
    foreign = licence_document(tenant, parties.issuer, delegation={"allowed": True, "max_depth": 1})
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(foreign)})
    own = (await admin.root.good("POST", "/tenants", _tenant(tenant)))["tenant_id"]
    engineer, third = await admin.somebody("si_engineer", own), f"{tenant}-t"
    await parties.licensee(third)
    answers = set()
    for name in (foreign["licence_id"], f"free-{tenant}"):
        parent = {"licence_id": name, "version": 1}
        envelope = await parties.sealed(licence_document(own, third, parent=parent, licence_id=f"c-{tenant}"))
        status, error = await engineer.error("POST", "/licences", {"envelope": envelope})
        del error["request_id"]
        answers.add((status, json.dumps(error).replace(name, "NAME")))
    assert len(answers) == 1 and "parent_missing" in str(answers), answers
