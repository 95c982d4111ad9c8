"""Contributions, lineages and policies in the book, and the snapshot that gateways make of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.licensing.decide import Ask, decide
from gateway.licensing.envelope import open_envelope, seal
from gateway.licensing.findings import Finding
from gateway.licensing.keys import SigningKey
from gateway.licensing.trust import Trust, TrustKey
from gateway.priority.policy import PAYLOAD_TYPE, PolicyDocument, admit_policy, open_policy
from gateway.priority.register import BUILT_IN
from gateway.tenancy.parties import LocalParties
from gateway.tenancy.store import Configuration
from tests.conftest import read_snapshot
from tests.gateway.priority.world import KIKAI, SHIMA, us
from tests.gateway.test_snapshot import database
from tests.licences import a_licence

_TENANT = (
    "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
    " VALUES ($1, 'x', 1, 1, 1, 1)"
)
_UPSTREAM = (
    "INSERT INTO upstream (upstream_id, model, base_url, served_model, tier, region, site, profile)"
    " VALUES ($1, $1, 'http://x/v1', 'm', 'edge', 'jp', 's', '{\"context_tokens\": 1, \"max_output_tokens\": 1}')"
)
_CONTRIBUTION = (
    "INSERT INTO contribution (contribution_id, contributor, hojin_bangou, industry, data_contract, data_class,"
    " contributed_at) VALUES ($1, 'x', $2, 'manufacturing', 'DC-1', 'restricted', '2026-03-01T00:00:00+09:00')"
)
_LINEAGE = (
    "INSERT INTO model_lineage (model, model_version, origin, contributions) VALUES ('own-7b', '1.0.0', 'derived', $1)"
)
_WITHDRAWN = "UPDATE contribution SET withdrawn_at = '2026-11-01T00:00:00Z' WHERE contribution_id = 'c-own'"
NOW = us("2026-11-24T09:00:00+09:00")
__all__ = ["database"]  # the fixture whose writes are undone


async def licensed(database: Any, folder: Path, tenant: str, owner: str, **changes: Any) -> None:
    """A tenant with a licence on the model that claims priority."""
    await database.execute(_TENANT, tenant)
    grant = {"id": "g1", "models": ["own-7b"], "actions": ["chat"], "priority": {"class": "investor", "weight": 10}}
    licensee = {"tenant": tenant, "legal_name": tenant, "class": "investor", "hojin_bangou": owner}
    document = a_licence(tenant, f"lic-{tenant}", [grant], licensee=licensee, **changes)
    await LocalParties(folder).store(database, document)


def ask(tenant: str) -> Ask:
    return Ask(tenant, "own-7b", "1.0.0", "chat", "general", "restricted", "JP", "jp", "edge", "", False)


async def test_snapshot_knows_standing_and_window_and_follows_the_register(database: Any, tmp_path: Path) -> None:
    await database.execute(_UPSTREAM, "own-7b")
    exclusive = [{"model": "own-7b", "until": "2026-12-01T00:00:00Z", "scope": "all", "basis": "c-own"}]
    await licensed(database, tmp_path, "kikai", KIKAI, ip={"contributions": ["c-own"], "exclusive": exclusive})
    await licensed(database, tmp_path, "kikai-2", KIKAI)
    await licensed(database, tmp_path, "town", SHIMA)
    configuration = Configuration()
    snapshot = await configuration.read(database)
    assert decide(snapshot.licences, ask("town"), NOW).allowed  # no lineage is registered yet
    standing = snapshot.priorities.standing(snapshot.licences, "kikai", "own-7b@1.0.0", NOW)
    assert standing is not None and (standing.group, standing.weight) == ("open", 1)
    await database.execute(_CONTRIBUTION, "c-own", KIKAI)
    await database.execute(_LINEAGE, ["c-own"])
    snapshot = await configuration.read(database)
    assert decide(snapshot.licences, ask("town"), NOW).refusal == "exclusive_to_another"
    assert decide(snapshot.licences, ask("town"), us("2026-12-01T00:00:00Z")).allowed
    for tenant in ("kikai", "kikai-2"):  # one owner, one weight: also for the tenant whose licence names nothing
        assert decide(snapshot.licences, ask(tenant), NOW).allowed
        found = snapshot.priorities.standing(snapshot.licences, tenant, "own-7b@1.0.0", NOW)
        assert found is not None and (found.group, found.owner, found.weight) == ("priority", KIKAI, 10)
    await database.execute(_WITHDRAWN)
    snapshot = await configuration.read(database)
    assert decide(snapshot.licences, ask("town"), NOW).allowed
    assert snapshot.priorities.windows == (await read_snapshot(database)).priorities.windows
    assert snapshot.priorities.standing(snapshot.licences, "nobody", "own-7b@1.0.0", NOW) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contribution SET hojin_bangou = '5835678256246' WHERE contribution_id = 'c-own'",
        "UPDATE contribution SET contributed_at = now() WHERE contribution_id = 'c-own'",
        "UPDATE contribution SET withdrawn_at = NULL WHERE contribution_id = 'c-own'",
        "DELETE FROM contribution",
        "UPDATE priority_policy SET effective_from = '2020-01-01T00:00:00Z'",
        "DELETE FROM priority_policy",
    ],
)
async def test_application_cannot_change_what_priority_rests_on(database: Any, statement: str) -> None:
    await database.execute(_CONTRIBUTION, "c-own", KIKAI)
    await database.execute(_WITHDRAWN)
    await database.execute("INSERT INTO priority_policy (version, effective_from, document, envelope)"
                           " VALUES (1001, '2026-11-01T00:00:00Z', '{}', '')")  # fmt: skip
    with pytest.raises((asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError)):
        await database.execute(statement)


def policy_document(**changes: Any) -> dict[str, Any]:
    return {
        "v": 1, "version": 1, "supersedes": None, "issuer": "sekisho", "approver": "office",
        "signed_at": "2026-11-01T00:00:00Z", "effective_from": "2027-01-01T00:00:00+09:00", "floors": {"open": 350},
        **changes,
    }  # fmt: skip


KEYS = {party: SigningKey.generate() for party in ("sekisho", "office", "stranger")}
TRUST = Trust({key.key_id: TrustKey(key.key_id, "issuer", party, key.public_bytes, 0) for party, key in KEYS.items()})


def signed(*parties: str, **changes: Any) -> str:
    return seal(policy_document(**changes), [KEYS[party] for party in parties], PAYLOAD_TYPE)


def newest(**changes: Any) -> PolicyDocument:
    return open_policy(signed(**changes)).document


def test_policy_of_two_signatures_with_notice_is_admitted() -> None:
    policy = admit_policy(signed("sekisho", "office"), TRUST, None, NOW).document.policy
    assert (policy.floor("open"), policy.notice_days, policy.weights["priority"]) == (350, 30, 100)
    following = signed("sekisho", "office", version=2, supersedes=1, effective_from="2027-02-01T00:00:00Z")
    assert admit_policy(following, TRUST, newest(), NOW).document.version == 2


@pytest.mark.parametrize(
    ("text", "before", "code"),
    [
        (signed("sekisho"), None, "signature_missing"),
        (signed("sekisho", "stranger"), None, "signature_foreign"),
        (signed("sekisho", approver="sekisho"), None, "same_party"),
        (signed("sekisho", "office").replace('"sig":"', '"sig":"A', 1), None, "malformed_envelope"),
        (signed("sekisho", "office", floors={"open": 299}), None, "floor_too_low"),
        (signed("sekisho", "office", floors={"open": 500, "priority": 501}), None, "floors_exceed_whole"),
        (signed("sekisho", "office", floors={"open": 1001}), None, "schema_invalid"),
        (signed("sekisho", "office", effective_from="2026-12-01T00:00:00Z"), None, "notice_too_short"),
        (signed("sekisho", "office", version=2, supersedes=1), None, "version_not_next"),
        (signed("sekisho", "office", version=2), newest(), "supersession_mismatch"),
        (signed("sekisho", "stranger", version=2, supersedes=1, approver="stranger"), newest(),
         "supersession_mismatch"),
        (signed("sekisho", "office", version=2, supersedes=1), newest(notice_days=90), "supersession_mismatch"),
        (
            signed("sekisho", "office", version=2, supersedes=1, effective_from="2027-01-02T00:00:00Z"),
            newest(notice_days=90),
            "notice_too_short",
        ),
    ],
)  # fmt: skip
def test_policy_is_refused_with_the_reason(text: str, before: PolicyDocument | None, code: str) -> None:
    with pytest.raises(Finding) as refused:
        admit_policy(text, TRUST, before, NOW)
    assert refused.value.code == code


def test_licence_is_no_policy_and_a_policy_no_licence() -> None:
    with pytest.raises(Finding) as refused:
        open_envelope(signed("sekisho", "office"))
    assert refused.value.code == "wrong_payload_type"
    with pytest.raises(Finding) as refused:
        open_policy(seal(policy_document(), [KEYS["sekisho"]]))
    assert refused.value.code == "wrong_payload_type"


async def test_gateways_go_by_signed_policies_only(database: Any) -> None:
    begins = datetime.now(UTC) - timedelta(days=1)
    at = int(datetime.now(UTC).timestamp() * 1_000_000)
    for party in ("sekisho", "office"):
        await database.execute(
            "INSERT INTO trust_key (key_id, role, party, public_key, not_before) VALUES ($1, 'issuer', $2, $3, $4)",
            KEYS[party].key_id, party, KEYS[party].public_bytes, datetime(2020, 1, 1, tzinfo=UTC),
        )  # fmt: skip
    for version, parties in ((1001, ("sekisho", "office")), (1002, ("sekisho",))):
        text = signed(*parties, version=version, effective_from=(begins + timedelta(minutes=version)).isoformat(),
                      supersedes=version - 1, floors={"open": version - 700})  # fmt: skip
        await database.execute(
            "INSERT INTO priority_policy (version, effective_from, document, envelope)"
            " VALUES ($1, $2, '{}', $3)", version, begins, text,
        )  # fmt: skip
    register = (await read_snapshot(database)).priorities.register
    assert (register.policy_at(at).version, register.policy_at(at).floor("open")) == (1001, 301)
    assert register.policy_at(0) == BUILT_IN
    await database.execute("UPDATE trust_key SET revoked_at = now() WHERE party = 'office'")
    assert (await read_snapshot(database)).priorities.register.policy_at(at) == BUILT_IN
