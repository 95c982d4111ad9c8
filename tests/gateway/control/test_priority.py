"""Contributions, lineages and policies through the admin plane, refused licences, and how a tenant stands."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.control.code_files import dumped
from gateway.licensing.envelope import seal
from gateway.priority.policy import PAYLOAD_TYPE
from tests.gateway.control.admin import Administration, Administrator, licence_document, tenant_body
from tests.gateway.control.parties import Parties
from tests.gateway.control.test_commands import sekisho as sekisho
from tests.gateway.control.world import (
    POLICY_KEYS,
    a_contribution,
    a_model,
    a_policy,
    an_owner,
    an_upstream,
    next_policy,
)

CONTRIBUTED = datetime(2026, 6, 1, tzinfo=UTC)
A_YEAR_LATER = datetime(2027, 6, 1, tzinfo=UTC)
Sekisho = Callable[..., Any]


class Ground:
    """An owner with a tenant, a contribution, and a served model that derives from it."""

    def __init__(self, tenant: str, owner: str, contribution: str, model: str, parties: Parties) -> None:
        self.tenant, self.owner, self.contribution, self.model = tenant, owner, contribution, model
        self.parties = parties

    @classmethod
    async def made(cls, root: Administrator, parties: Parties) -> "Ground":
        """A new one."""
        owner, tenant = an_owner(), (await root.good("POST", "/tenants", tenant_body()))["tenant_id"]
        body = a_contribution(hojin_bangou=owner, contributed_at=CONTRIBUTED.isoformat())
        contribution = (await root.good("POST", "/contributions", body))["contribution_id"]
        model = (await root.good("POST", "/models", a_model(contributions=[contribution])))["model"]
        await root.good("POST", "/upstreams", an_upstream(model=model))
        return cls(tenant, owner, contribution, model, parties)

    def document(self, *, until: datetime | None = None, **changes: Any) -> dict[str, Any]:
        """A licence that claims priority on the model, and an exclusivity where `until` says so."""
        window = {"model": self.model, "scope": "all", "basis": self.contribution}
        exclusive = [{**window, "until": until.isoformat()}] if until else []
        grant = {
            "id": "g1",
            "models": [self.model],
            "actions": ["chat"],
            "priority": {"class": "investor", "weight": 10},
        }
        return {
            **licence_document(self.tenant, self.parties.issuer), "grants": [grant],
            "licensee": {"tenant": self.tenant, "legal_name": "例", "class": "investor", "hojin_bangou": self.owner},
            "ip": {"contributions": [self.contribution], "exclusive": exclusive}, **changes,
        }  # fmt: skip

    async def refused(self, root: Administrator, document: dict[str, Any]) -> tuple[str, str]:
        """Code and field of a licence that must be refused; it says its rule, in both languages."""
        envelope = {"envelope": await self.parties.sealed(document)}
        for language, rule in (("en", "rule R"), ("ja", "規則R")):
            status, error = await root.error("POST", "/licences", envelope, language=language)
            assert status == 422 and rule in error["message"] and error["cure"], error
        return error["code"], error["param"]


@pytest.fixture
async def ground(admin: Administration, parties: Parties) -> Ground:
    """What priority follows from."""
    return await Ground.made(admin.root, parties)


async def submitted(root: Administrator, parties: Parties, document: Any) -> Any:
    return await root.good("POST", "/licences", {"envelope": await parties.sealed(document)})


async def standing(admin: Administration, tenant: str, model: str, **query: str) -> Any:
    return await admin.root.good("GET", f"/tenants/{tenant}/priority", params={"model": model, **query})


async def test_standing_tells_group_weight_window_and_why_as_gateways_decide(
    admin: Administration, ground: Ground
) -> None:
    row = await submitted(admin.root, ground.parties, ground.document(until=A_YEAR_LATER))
    assert row["notices"] == []
    found = await standing(admin, ground.tenant, ground.model)
    assert (found["group"], found["weight"], found["band"], found["open"]) == ("priority", 10, 0, True)
    assert (found["owner"], found["floor_permille"], found["policy"]) == (ground.owner, 300, 0)
    assert found["window"] == {"own": True, "until": "2027-06-01T00:00:00.000000Z"}
    assert [reason["rule"] for reason in found["why"]] == ["R1", "R2", "R4", "R8"]
    later = await standing(admin, ground.tenant, f"{ground.model}@1.0.0", at="2027-06-01T00:00:00Z")
    assert (later["window"], later["group"]) == (None, "priority")


async def test_tenant_beside_an_exclusivity_is_told_neither_holder_nor_end(
    admin: Administration, ground: Ground
) -> None:
    await submitted(admin.root, ground.parties, ground.document(until=A_YEAR_LATER))
    tenant = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    grants = [{"id": "g1", "models": [ground.model], "actions": ["chat"]}]
    await submitted(admin.root, ground.parties, licence_document(tenant, ground.parties.issuer, grants=grants))
    engineer = await admin.somebody("si_engineer", tenant)
    path = f"/tenants/{tenant}/priority"
    found = await engineer.good("GET", path, params={"model": ground.model}, language="ja")
    assert (found["open"], found["window"], found["group"]) == (False, {"own": False, "until": None}, "open")
    assert ground.owner not in json.dumps(found) and "2027" not in json.dumps(found)
    opened = await engineer.good("GET", path, params={"model": ground.model, "at": "2027-06-01T00:00:00Z"})
    assert (opened["open"], opened["window"]) == (True, None)
    for model in ("no-such-model", "m1"):  # one answer for what is not granted and what does not exist
        status, error = await engineer.error("GET", path, params={"model": model})
        assert (status, error["code"]) == (404, "object_not_found")
    assert (await engineer.error("GET", f"/tenants/{ground.tenant}/priority", params={"model": "m1"}))[0] == 404
    assert (await engineer.error("GET", path, params={"model": "a b"}))[1]["code"] == "invalid_value"


async def test_licence_that_the_rules_forbid_is_refused_by_rule_and_field(
    admin: Administration, ground: Ground
) -> None:
    root = admin.root
    other = await Ground.made(root, ground.parties)
    base = (await root.good("POST", "/models", a_model(origin="national_base")))["model"]
    soon = datetime.now(UTC) + timedelta(days=30)
    exclusive = {"model": ground.model, "until": soon.isoformat(), "scope": "all", "basis": ground.contribution}

    def with_ip(contributions: list[str], **changes: Any) -> dict[str, Any]:
        return ground.document(ip={"contributions": contributions, "exclusive": [{**exclusive, **changes}]})

    own = [ground.contribution]
    too_late = (A_YEAR_LATER + timedelta(microseconds=1)).isoformat()
    internal = {"id": "g1", "models": ["m1"], "actions": ["chat"], "priority": {"class": "internal", "weight": 1}}
    for document, code, path in (
        (with_ip(["c-nowhere"]), "unknown_contribution", "ip.contributions[0]"),
        (with_ip([*own, other.contribution]), "unknown_contribution", "ip.contributions[1]"),
        (with_ip(own, model=other.model), "exclusive_without_lineage", "ip.exclusive[0].basis"),
        (with_ip([]), "exclusive_without_lineage", "ip.exclusive[0].basis"),
        (with_ip(own, model=base), "exclusive_on_base_model", "ip.exclusive[0].model"),
        (with_ip(own, until=too_late), "exclusive_too_long", "ip.exclusive[0].until"),
        (ground.document(grants=[internal]), "floor_broken", "grants[0].priority.class"),
    ):
        assert await ground.refused(root, document) == (code, path)
    assert (await root.good("GET", "/licences", params={"tenant": ground.tenant}))["data"] == []
    await submitted(root, ground.parties, ground.document(until=A_YEAR_LATER))  # the very last moment is in time


async def test_claim_without_lineage_is_stored_and_reported(admin: Administration, ground: Ground) -> None:
    grant = {"id": "g1", "models": ["later-*"], "actions": ["chat"], "priority": {"class": "investor", "weight": 999}}
    row = await submitted(admin.root, ground.parties, ground.document(grants=[grant]))
    assert [(notice["path"], notice["code"]) for notice in row["notices"]] == [
        ("grants[0].priority", "priority_without_lineage"),
        ("grants[0].priority.weight", "weight_above_policy"),
    ]


async def test_model_keeps_what_a_running_exclusivity_rests_on(admin: Administration, ground: Ground) -> None:
    root = admin.root
    await submitted(root, ground.parties, ground.document(until=A_YEAR_LATER))
    body = a_model(model=ground.model, contributions=[ground.contribution])
    extra = (await root.good("POST", "/contributions", a_contribution()))["contribution_id"]
    for change, code, path in (
        ({"contributions": []}, "exclusive_without_lineage", "contributions"),
        ({"origin": "national_base"}, "exclusive_on_base_model", "origin"),
        ({"contributions": ["c-nowhere"]}, "unknown_contribution", "contributions[0]"),
    ):
        status, error = await root.error("POST", "/models", {**body, **change})
        assert (status, error["code"], error["param"]) == (422, code, path)
    both = sorted([ground.contribution, extra])
    assert (await root.good("POST", "/models", {**body, "contributions": both}))["contributions"] == both
    listed = await root.good("GET", "/models", params={"model": ground.model})
    assert [row["contributions"] for row in listed["data"]] == [both]
    entries = (await root.good("GET", "/audit", params={"object": f"{ground.model}/1.0.0"}))["data"]
    assert [entry["verb"] for entry in entries] == ["api:model:update", "api:model:create"]


async def test_withdrawn_contribution_ends_priority_and_exclusivity_for_good(
    admin: Administration, ground: Ground
) -> None:
    await submitted(admin.root, ground.parties, ground.document(until=A_YEAR_LATER))
    path = f"/contributions/{ground.contribution}"
    withdrawn = await admin.root.good("POST", f"{path}/withdraw")
    assert await admin.root.good("POST", f"{path}/withdraw") == withdrawn == await admin.root.good("GET", path)
    found = await standing(admin, ground.tenant, ground.model)
    assert (found["group"], found["window"]) == ("open", None)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"hojin_bangou": "1234567890123"}, "hojin_bangou"),
        ({"hojin_bangou": ""}, "hojin_bangou"),
        ({"contributed_at": "2999-01-01T00:00:00Z"}, "contributed_at"),
        ({"data_class": "huge"}, "data_class"),
        ({"contribution_id": "a b"}, "contribution_id"),
    ],
)
async def test_contribution_that_cannot_be_is_refused(admin: Administration, change: Any, param: str) -> None:
    status, error = await admin.root.error("POST", "/contributions", a_contribution(**change))
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


async def test_contributions_and_models_are_planned_applied_and_exported(admin: Administration) -> None:
    root = admin.root
    first, second = a_contribution(), a_contribution()
    model = a_model(contributions=[first["contribution_id"]])
    desired: dict[str, Any] = {"contributions": [first, second], "models": [model]}
    done = await root.good("POST", "/apply", {"desired": desired})
    made = [(change["effect"], change["kind"]) for change in done["changes"] if change["effect"] == "create"]
    assert made == [("create", "contribution"), ("create", "contribution"), ("create", "model")]
    exported = await root.good("GET", "/export")
    assert second["contribution_id"] in {row["contribution_id"] for row in exported["contributions"]}
    again = await root.good("POST", "/plan", {"desired": {**exported, "tenants": None, "trust_keys": None,
                                                         "upstreams": None, "rate_cards": None}})  # fmt: skip
    assert set(again["summary"]) == {"unchanged"}
    desired["contributions"][1] = {**second, "state": "withdrawn"}
    desired["models"][0] = {**model, "contributions": ["c-nowhere"]}
    _, error = await root.error("POST", "/apply", {"desired": desired})
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("models[0].contributions[0]", "unknown_contribution")
    ]
    desired["models"] = [model]
    done = await root.good("POST", "/apply", {"desired": desired})
    assert done["summary"]["revoke"] == 1
    left = {row["contribution_id"] for row in (await root.good("GET", "/export"))["contributions"]}
    assert first["contribution_id"] in left and second["contribution_id"] not in left
    _, error = await root.error("POST", "/apply", {"desired": {"contributions": [{**first, "industry": "x"}]}})
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("contributions[0].industry", "invalid_value")
    ]


async def test_policy_needs_both_signatures_and_notice_and_is_logged(
    admin: Administration, sekisho: Sekisho, tmp_path: Path
) -> None:
    root = admin.root
    version = await next_policy(root)
    for party, key in POLICY_KEYS.items():
        key.write(tmp_path / f"{party}.pem")
    (tmp_path / "policy.yaml").write_text(dumped(a_policy(version)))
    code, _, _ = await sekisho("priority", "sign", tmp_path / "policy.yaml", "--key", tmp_path / "policy-house.pem")
    envelope = tmp_path / "policy.dsse.json"
    assert code == 0 and (await sekisho("priority", "submit", envelope))[:2] == (1, "signature_missing\n")
    assert (await sekisho("priority", "sign", envelope, "--key", tmp_path / "policy-office.pem"))[0] == 0
    code, out, _ = await sekisho("priority", "submit", envelope)
    assert (code, out.split(",")[0]) == (0, f"policy {version}")
    assert (await sekisho("priority", "submit", envelope))[:2] == (0, out)  # what is stored already is answered
    listed = json.loads((await sekisho("priority", "policies", "--json"))[1])
    assert listed[-1]["floors"] == {"open": 400}
    [entry] = (await root.good("GET", "/audit", params={"verb": "api:priority_policy:*", "object": str(version)}))[
        "data"
    ]
    assert entry["after"]["effective_from"].startswith("2099-01")
    for change, refusal in (
        ({"floors": {"open": 299}}, ("floor_too_low", "floors.open")),
        ({"effective_from": datetime.now(UTC).isoformat()}, ("supersession_mismatch", "effective_from")),
        ({"approver": "policy-house"}, ("same_party", "approver")),
    ):
        text = seal(a_policy(version + 1, **change), list(POLICY_KEYS.values()), PAYLOAD_TYPE)
        status, error = await root.error("POST", "/priority/policies", {"envelope": text})
        assert (status, error["code"], error["param"]) == (422, *refusal)


async def test_command_line_from_the_contribution_to_the_explanation(
    sekisho: Sekisho, admin: Administration, parties: Parties, tenant: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    owner, name, model = an_owner(), f"c-{uuid4().hex[:8]}", f"m-{uuid4().hex[:8]}"
    body = a_contribution(contribution_id=name, hojin_bangou=owner)
    options = [part for field, value in body.items() if field != "contribution_id"
               for part in (f"--{field.replace('_', '-')}", value)]  # fmt: skip
    assert await sekisho("contribution", "add", name, *options) == (0, f"{name}\n", "")
    assert (await sekisho("model", "register", f"{model}@1.0.0", "--contribution", name))[:2] == (0, f"{model}@1.0.0\n")
    rows = json.loads((await sekisho("model", "list", "--model", model, "--json"))[1])
    assert rows[0]["contributions"] == [name]
    await admin.root.good("POST", "/upstreams", an_upstream(model=model))
    grounded = Ground(tenant, owner, name, model, parties)
    later = {"id": "g2", "models": ["later-*"], "actions": ["chat"], "priority": {"class": "investor", "weight": 1}}
    document = grounded.document(until=datetime(2027, 2, 1, tzinfo=UTC))
    document["grants"].append(later)
    (tmp_path / "lic.dsse.json").write_text(await parties.sealed(document))
    code, _, err = await sekisho("licence", "submit", tmp_path / "lic.dsse.json")
    assert code == 0 and "grants[1].priority: priority_without_lineage" in err
    code, out, _ = await sekisho("priority", "explain", tenant, model)
    assert code == 0 and "group priority, weight 10" in out and "exclusive until 2027-02-01" in out
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["R1", "R2", "R4", "R8"]
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    code, out, _ = await sekisho("priority", "explain", tenant, model, "--at", "2027-02-01T00:00:00Z")
    assert code == 0 and "枠 priority" in out and "まで独占" not in out
    assert json.loads((await sekisho("priority", "explain", tenant, model, "--json"))[1])["weight"] == 10
    assert (await sekisho("priority", "explain", tenant, "nothing"))[:2] == (1, "object_not_found\n")
    assert (await sekisho("contribution", "withdraw", name))[0] == 0
    assert json.loads((await sekisho("contribution", "list", "--json"))[1])
