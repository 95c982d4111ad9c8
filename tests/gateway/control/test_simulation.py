"""A simulation tells from the journal what a changed licence would have decided otherwise, and changes nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils

from tests.gateway.control.admin import Administration, licence_document, tenant_body
from tests.gateway.control.parties import Parties
from tests.gateway.control.world import an_upstream

INSERT = """
INSERT INTO journal (request_id, tenant_id, key_id, model, model_version, action, purpose, data_class, country, region,
  tier, site, rule_id, licence_id, epoch, instance_id, state, outcome, code, opened_at, settled_at,
  booked_at)
VALUES ($1, $2, 'k', $3, $4, $5, $6, 'restricted', 'JP', 'jp-east', 'heavy', 'dc-1', $7, $8, 1, 'i', 'settled', $9, $10,
  $11, $11, $11)
"""
GRANT = {"id": "g1", "models": ["m1"], "actions": ["chat"], "purposes": ["general", "research"]}


class Journal:
    """Rows of one tenant's decisions."""

    def __init__(self, database: Any, tenant: str, licence: str) -> None:
        self._database, self._tenant, self._licence = database, tenant, licence

    async def add(
        self, n: int, *, purpose: str = "general", action: str = "chat", outcome: str = "completed", code: str = "",
        rule: str = "g1", model: str = "m1", version: str = "1.0.0", ago: timedelta = timedelta(minutes=1),
    ) -> list[str]:  # fmt: skip
        """`n` equal rows; their ids, the last first."""
        ids = [str(uuid_utils.uuid7()) for _ in range(n)]
        for number, request_id in enumerate(ids):
            at = datetime.now(UTC) - ago + timedelta(milliseconds=number)
            rule_id = f"{self._licence}/{rule}" if rule == "g1" else rule
            await self._database.execute(INSERT, request_id, self._tenant, model, version, action, purpose, rule_id,
                                         self._licence, outcome, code, at)  # fmt: skip
        return ids[::-1]


@pytest.fixture
async def document(admin: Administration, parties: Parties, tenant: str) -> Any:
    """The tenant's licence in force: chat with m1, for general and research."""
    await admin.root.good("POST", "/upstreams", an_upstream())
    made = licence_document(tenant, parties.issuer, grants=[GRANT])
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(made)})
    return made


async def test_narrowed_licence_shows_what_would_be_lost_and_widened_one_what_would_be_gained(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    journal = Journal(database, tenant, document["licence_id"])
    await journal.add(3)
    research = await journal.add(5, purpose="research")
    refused = await journal.add(2, action="completion", outcome="refused_licence", code="action_not_licensed")
    grants = [{**GRANT, "actions": ["chat", "completion"], "purposes": ["general"]}]
    answer = await admin.root.good("POST", "/licences/simulate", {"document": {**document, "grants": grants}})
    assert (answer["replayed"], answer["changed"]) == (10, 7)
    lost, gained = answer["changes"]
    assert (lost["kind"], lost["n"], lost["purpose"], lost["after"]["refusal"]) == (
        "lost", 5, "research", "purpose_not_licensed",
    )  # fmt: skip
    assert lost["examples"] == research[:3]
    assert (gained["kind"], gained["n"], gained["examples"]) == ("gained", 2, refused)
    assert gained["after"] == {"refusal": "", "rule": f"{document['licence_id']}/g1"}
    assert "7 of 10" in answer["text"]


async def test_unchanged_licence_changes_nothing_whatever_else_refused(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    journal = Journal(database, tenant, document["licence_id"])
    await journal.add(1)
    await journal.add(1, outcome="refused_quota", code="insufficient_quota", rule="tenant:tokens_month")
    await journal.add(1, outcome="refused_licence", code="purpose_not_allowed", rule="key:purposes")
    await journal.add(1, action="completion", outcome="refused_licence", code="action_not_licensed")
    await journal.add(1, model="", version="", outcome="refused_invalid", code="model_not_found", rule="")
    answer = await admin.root.good("POST", "/licences/simulate", {"document": document})
    assert (answer["replayed"], answer["changes"]) == (4, [])


async def test_version_that_is_no_longer_served_is_judged_as_it_was(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    await Journal(database, tenant, document["licence_id"]).add(1, version="0.9.0")
    answer = await admin.root.good("POST", "/licences/simulate", {"document": document})
    assert (answer["replayed"], answer["changed"]) == (1, 0)


async def test_licence_of_tomorrow_is_asked_at_its_own_time(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    await Journal(database, tenant, document["licence_id"]).add(4)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    validity = {**document["validity"], "not_before": tomorrow.isoformat()}
    later = {"document": {**document, "validity": validity}}
    answer = await admin.root.good("POST", "/licences/simulate", later)
    assert [change["after"]["refusal"] for change in answer["changes"]] == ["licence_not_yet_valid"]
    at = (tomorrow + timedelta(hours=1)).isoformat()
    assert (await admin.root.good("POST", "/licences/simulate", {**later, "at": at}))["changed"] == 0


async def test_span_bounds_what_is_replayed_and_nothing_is_written(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    journal = Journal(database, tenant, document["licence_id"])
    await journal.add(1)
    await journal.add(2, ago=timedelta(hours=2))
    epoch = await database.fetchval("SELECT epoch FROM config_epoch")
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    body = {"document": document, "to": hour_ago}
    assert (await admin.root.good("POST", "/licences/simulate", body))["replayed"] == 2
    assert (await admin.root.good("POST", "/licences/simulate", {**body, "from": hour_ago, "to": None}))[
        "replayed"
    ] == 1
    assert await database.fetchval("SELECT epoch FROM config_epoch") == epoch


@pytest.mark.parametrize("body", [{}, {"envelope": "{}", "document": {}}])
async def test_either_envelope_or_document_is_needed(admin: Administration, body: dict[str, Any]) -> None:
    status, error = await admin.root.error("POST", "/licences/simulate", body)
    assert (status, error["param"]) == (400, "document")


async def test_document_that_is_no_licence_is_a_finding(admin: Administration, document: Any) -> None:
    status, error = await admin.root.error("POST", "/licences/simulate", {"document": {**document, "grants": []}})
    assert (status, error["code"], error["param"]) == (422, "schema_invalid", "grants")


async def test_model_that_was_asked_for_in_vain_is_gained_by_the_licence_that_grants_it(
    admin: Administration, tenant: str, document: Any, database: Any
) -> None:
    await admin.root.good("POST", "/upstreams", {**an_upstream(), "upstream_id": "u-new", "model": "m-new"})
    journal = Journal(database, tenant, document["licence_id"])
    asked = await journal.add(2, model="m-new", version="", outcome="refused_invalid", code="model_not_found", rule="")
    await journal.add(1, model="m-none", version="", outcome="refused_invalid", code="model_not_found", rule="")
    grants = [{**GRANT, "models": ["m1", "m-*"]}]
    answer = await admin.root.good("POST", "/licences/simulate", {"document": {**document, "grants": grants}})
    assert (answer["replayed"], answer["changed"]) == (3, 2)
    (gained,) = answer["changes"]
    assert (gained["kind"], gained["model"], gained["region"], gained["examples"]) == (
        "gained", "m-new", "jp-east", asked,
    )  # fmt: skip
    assert gained["before"] == {"refusal": "no_grant", "rule": ""}
    assert (await admin.root.good("POST", "/licences/simulate", {"document": document}))["changed"] == 0


async def test_what_another_licence_lost_since_is_no_change_of_the_licence_tried(
    admin: Administration, parties: Parties, tenant: str, document: Any, database: Any
) -> None:
    other = licence_document(
        tenant, parties.issuer, licence_id=f"old-{tenant}", grants=[{**GRANT, "purposes": ["legal"]}]
    )
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(other)})
    await Journal(database, tenant, document["licence_id"]).add(3)
    asked = await Journal(database, tenant, other["licence_id"]).add(2, purpose="legal")
    unchanged = {"document": document}
    assert (await admin.root.good("POST", "/licences/simulate", unchanged))["moved"] == 0
    await admin.root.good("POST", f"/licences/{other['licence_id']}/revoke", {"reason": "over"})
    answer = await admin.root.good("POST", "/licences/simulate", unchanged)
    assert (answer["replayed"], answer["changed"], answer["moved"]) == (5, 0, 2)
    assert "2 were decided otherwise since then" in answer["text"]
    japanese = await admin.root.good("POST", "/licences/simulate", unchanged, language="ja")
    assert "すでに結果が異なる判定が2件" in japanese["text"]
    wider = {**document, "grants": [{**GRANT, "purposes": ["general", "research", "legal"]}]}
    (gained,) = (await admin.root.good("POST", "/licences/simulate", {"document": wider}))["changes"]
    assert (gained["kind"], gained["n"], gained["examples"]) == ("gained", 2, asked)
    assert gained["before"]["refusal"] != ""


async def test_engineer_does_not_learn_from_a_simulation_whether_a_parent_exists(
    admin: Administration, parties: Parties, tenant: str, document: Any, database: Any
) -> None:
    foreign = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    delegating = licence_document(
        foreign, parties.issuer, grants=[GRANT], delegation={"allowed": True, "max_depth": 1, "to": [tenant]}
    )
    await admin.root.good("POST", "/licences", {"envelope": await parties.sealed(delegating)})
    await Journal(database, tenant, document["licence_id"]).add(1)
    engineer = await admin.somebody("si_engineer", tenant)
    changed = []
    for asking in (engineer, admin.root):
        for name in (delegating["licence_id"], "lic-free"):
            parent = {"licence_id": name, "version": 1}
            child = {**document, "issuer": foreign, "parent": parent, "validity": delegating["validity"]}
            changed.append((await asking.good("POST", "/licences/simulate", {"document": child}))["changed"])
    assert changed == [1, 1, 0, 1]
