"""Rate cards, agreements, credits and parties: dated rows that nobody edits in the past, checked field by field."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from billing.invoices.service import preview
from tests.conftest import Stores, read_snapshot
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.control.billed import PERIOD, Billed
from tests.gateway.control.world import a_credit, a_rate_card, an_agreement, an_issuer

STEPS = [{"up_to": 1_000_000, "price": 120}, {"up_to": None, "price": 100}]
TERMS: dict[str, Any] = {
    "image": 200, "tiers": {"input": {"model": "graduated", "steps": STEPS}}, "tax": "standard",
    "batch": {"input": 60, "cached_input": 30, "output": 240},
    "off_peak": {"zone": "Asia/Tokyo", "begins": "22:00", "ends": "06:00",
                 "prices": {"input": 80, "cached_input": 40, "output": 300}},
}  # fmt: skip
PRICES: dict[str, Any] = {"input_price": 120, "cached_input_price": 60, "output_price": 480}


def soon(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


async def test_card_with_every_price_model_is_kept_and_reaches_the_gateway(
    admin: Administration, tenant: str, database: Any
) -> None:
    body = a_rate_card(**PRICES, family="gold", tenant_id=tenant, terms=TERMS)
    card = await admin.root.good("POST", "/rate-cards", body)
    off_peak = {**TERMS["off_peak"], "days": []}
    assert card["terms"] == {name: TERMS[name] for name in ("image", "tiers", "batch")} | {"off_peak": off_peak}
    (known,) = (await read_snapshot(database)).rate_cards[card["model"]]
    assert (known.family, known.tenant_id, known.image_price) == ("gold", tenant, 200)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"terms": {"tiers": {"input": {"model": "graduated", "steps": []}}}}, "terms.tiers.input.steps"),
        ({"terms": {"tiers": {"input": {"model": "graduated", "steps": [{"up_to": 5, "price": 120}]}}}},
         "terms.tiers.input.steps[0].up_to"),
        ({"terms": {"tiers": {"input": {"model": "stairs", "steps": STEPS}}}}, "terms.tiers[...].model"),
        ({"terms": {"tiers": {"input": {"model": "volume", "steps": STEPS}}}, "input_price": 1}, "terms.tiers.input"),
        ({"terms": {"tiers": {"smell": {"model": "volume", "steps": STEPS}}}}, "terms.tiers.smell"),
        ({"terms": {"colour": 1}}, "terms"),
        ({"terms": {"image": -1}}, "terms.image"),
        ({"terms": {"off_peak": {**TERMS["off_peak"], "zone": "Mars/Base"}}}, "terms.off_peak.zone"),
        ({"terms": {"off_peak": {**TERMS["off_peak"], "begins": "22:07"}}}, "terms.off_peak.begins"),
        ({"terms": {"tax": 8}}, "terms.tax"), ({"terms": []}, "terms"), ({"terms": {"image": 0.5}}, "terms"),
        ({"input_price": 10**9 + 1}, "input_price"), ({"family": "a b"}, "family"),
        ({"tenant_id": "no-such-tenant"}, "tenant_id"), ({"effective_to": "2025-01-01T00:00:00Z"}, "effective_to"),
    ],
)  # fmt: skip
async def test_price_that_means_nothing_is_named(admin: Administration, changes: dict[str, Any], param: str) -> None:
    _, error = await admin.root.error("POST", "/rate-cards", a_rate_card(**{**PRICES, **changes}))
    assert (error["code"] in ("invalid_value", "invalid_type", "object_not_found"), error["param"]) == (True, param)


async def test_prices_that_were_in_force_are_never_replaced_in_the_past(admin: Administration) -> None:
    first = await admin.root.good("POST", "/rate-cards", a_rate_card())
    model = first["model"]
    for start in ("2026-03-01T00:00:00Z", "2025-06-01T00:00:00Z", soon(minutes=-5)):
        status, error = await admin.root.error("POST", "/rate-cards", a_rate_card(model=model, effective_from=start))
        assert (status, error["code"], error["param"]) == (400, "invalid_value", "effective_from")
        assert first["rate_card_id"] in error["message"]
    for start in (soon(seconds=1), soon(days=30)):
        await admin.root.good("POST", "/rate-cards", a_rate_card(model=model, effective_from=start))
    # Another family has had no price yet, so nothing is replaced.
    await admin.root.good("POST", "/rate-cards", a_rate_card(model=model, family="gold"))


async def test_of_cards_that_begin_together_there_is_one_and_a_slip_can_be_withdrawn(admin: Administration) -> None:
    start = soon(days=30)
    first = await admin.root.good("POST", "/rate-cards", a_rate_card(effective_from=start))
    second = a_rate_card(model=first["model"], effective_from=start)
    status, error = await admin.root.error("POST", "/rate-cards", second)
    assert (status, error["code"], error["param"]) == (409, "already_exists", "effective_from")
    assert first["rate_card_id"] in error["message"]
    await admin.root.good("PATCH", f"/rate-cards/{first['rate_card_id']}", {"effective_to": first["effective_from"]})
    await admin.root.good("POST", "/rate-cards", second)
    running = await admin.root.good("POST", "/rate-cards", a_rate_card())
    path = f"/rate-cards/{running['rate_card_id']}"
    status, error = await admin.root.error("PATCH", path, {"effective_to": running["effective_from"]})
    assert (status, error["param"]) == (400, "effective_to")


async def test_agreement_that_has_not_begun_is_withdrawn_and_charges_nothing(
    admin: Administration, tenant: str, database: Any
) -> None:
    start = "2099-04-01T00:00:00+09:00"
    made = await admin.root.good("POST", f"/tenants/{tenant}/agreements", an_agreement(effective_from=start))
    path = f"/agreements/{made['agreement_id']}"
    await admin.root.good("PATCH", path, {"effective_to": made["effective_from"]})
    invoice = await preview(database, tenant, "2099-04")
    assert invoice.total_yen == 0


async def test_price_of_ones_own_does_not_replace_everybodys_in_the_past(admin: Administration, tenant: str) -> None:
    model = (await admin.root.good("POST", "/rate-cards", a_rate_card()))["model"]
    own = a_rate_card(model=model, tenant_id=tenant)
    assert (await admin.root.error("POST", "/rate-cards", own))[1]["param"] == "effective_from"
    await admin.root.good("POST", "/rate-cards", {**own, "effective_from": soon(days=1)})


async def test_card_ends_now_or_later_and_only_once(admin: Administration, database: Any) -> None:
    card = await admin.root.good("POST", "/rate-cards", a_rate_card())
    path = f"/rate-cards/{card['rate_card_id']}"
    assert (await admin.root.error("PATCH", path, {"effective_to": soon(days=-1)}))[1]["param"] == "effective_to"
    for end in (soon(days=30), soon(days=20), None, soon(seconds=0)):
        await admin.root.good("PATCH", path, {"effective_to": end})
    for end in (None, soon(days=1)):
        status, error = await admin.root.error("PATCH", path, {"effective_to": end})
        assert (status, error["param"]) == (400, "effective_to") and "stays so" in error["message"]
    for field in ("input_price", "terms", "effective_from"):
        status, error = await admin.root.error("PATCH", path, {"effective_to": None, field: 1})
        assert (status, error["code"]) == (400, "unknown_field")


async def test_engineer_sees_everybodys_cards_and_those_of_its_own_tenants(admin: Administration, tenant: str) -> None:
    other = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    cards = [
        (await admin.root.good("POST", "/rate-cards", a_rate_card(tenant_id=of)))["rate_card_id"]
        for of in (None, tenant, other)
    ]
    engineer = await admin.somebody("si_engineer", tenant)
    seen = [(await engineer.ask("GET", f"/rate-cards/{card}")).status_code for card in cards]
    assert seen == [200, 200, 404]
    listed = await engineer.good("GET", "/rate-cards", params={"limit": 1000})
    assert {row["tenant_id"] for row in listed["data"]} <= {None, tenant} and other not in str(listed)


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"kind": "commitment", "minimum_yen": 0}, "terms.minimum_yen"), ({"kind": "gift"}, "terms.kind"),
        ({"kind": "provisioned", "model": "m", "units": 1, "unit_price": 1, "per": "day"}, "terms.per"),
        ({"kind": "provisioned", "model": "m", "units": 0, "unit_price": 1, "per": "hour"}, "terms.units"),
        ({"kind": "commitment", "minimum_yen": "1"}, "terms.minimum_yen"), ({"kind": "commitment"}, "terms"),
        ({}, "terms"),
        ({"kind": "provisioned", "model": "m", "units": 20_000, "unit_price": 10**6, "per": "hour"},
         "terms.unit_price"),
        ({"kind": "provisioned", "model": "m\n", "units": 1, "unit_price": 1, "per": "hour"}, "terms.model"),
        ({"kind": "commitment", "minimum_yen": 1, "models": ["m", "\u202e"]}, "terms.models[1]"),
        ({"kind": "commitment", "minimum_yen": 1, "models": ["m", "m"]}, "terms.models"),
        ({"kind": "commitment", "minimum_yen": 1, "models": [f"m{n}" for n in range(257)]}, "terms.models"),
    ],
)  # fmt: skip
async def test_agreement_that_means_nothing_is_named(
    admin: Administration, tenant: str, terms: dict[str, Any], param: str
) -> None:
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/agreements", an_agreement(terms=terms))
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


async def test_agreement_and_credit_do_not_reach_into_closed_months(admin: Administration, stores: Stores) -> None:
    billed = await Billed.made(admin, stores, 2)
    own = f"/tenants/{billed.tenant}"
    before = await admin.root.good(
        "POST", f"{own}/agreements", an_agreement(effective_from="2026-01-01T00:00:00+09:00")
    )
    await admin.root.good("POST", f"{own}/invoices/{PERIOD}/close")
    late = {"effective_from": "2026-01-31T23:59:59+09:00"}
    for path, body in ((f"{own}/agreements", an_agreement(**late)), (f"{own}/credits", a_credit(**late))):
        status, error = await admin.root.error("POST", path, body)
        assert (status, error["code"]) == (409, "period_closed")
        assert not any(word in error["message"] for word in ("billing_agreement", "prepaid_credit", "trigger"))
    in_time = {"effective_from": "2026-02-01T00:00:00+09:00"}
    await admin.root.good("POST", f"{own}/agreements", an_agreement(**in_time))
    await admin.root.good("POST", f"{own}/credits", a_credit(**in_time))
    ended = await admin.root.good("PATCH", f"/agreements/{before['agreement_id']}", {"effective_to": soon(days=1)})
    assert ended["effective_to"] is not None


async def test_credit_is_booked_on_both_sides_and_shows_what_is_left(
    admin: Administration, stores: Stores, database: Any
) -> None:
    billed = await Billed.made(admin, stores, 4)
    own = f"/tenants/{billed.tenant}"
    credit = a_credit(yen=50, effective_from="2026-01-01T00:00:00+09:00")
    made = await admin.root.good("POST", f"{own}/credits", credit)
    assert (made["yen"], made["left_yen"]) == (50, 50)
    assert (await admin.root.error("POST", f"{own}/credits", credit))[1]["code"] == "already_exists"
    sides = await database.fetch(
        "SELECT account, debit, credit FROM ledger_entry WHERE tenant_id = $1 AND source = 'prepaid'", billed.tenant
    )
    assert {tuple(row) for row in sides} == {("cash", 50_000_000, 0), (f"prepaid:{billed.tenant}", 0, 50_000_000)}
    head = await admin.root.good("POST", f"{own}/invoices/{PERIOD}/close")
    assert (head["prepaid_yen"], head["payable_yen"]) == (50, head["total_yen"] - 50)
    assert [row["left_yen"] for row in (await admin.root.good("GET", f"{own}/credits"))["data"]] == [0]


async def test_recipient_is_the_legal_name_until_another_is_entered(admin: Administration, tenant: str) -> None:
    path = f"/tenants/{tenant}/billing-party"
    first = await admin.root.good("GET", path)
    assert (first["entered"], first["name"]) == (False, "例 株式会社")
    issuer = (await admin.root.good("POST", "/billing-issuers", an_issuer()))["issuer_id"]
    status, error = await admin.root.error("POST", path, {"issuer_id": "nobody", "name": "x"})
    assert (status, error["param"]) == (404, "issuer_id")
    for name in ("経理部 御中", "購買部 御中"):
        await admin.root.good("POST", path, {"issuer_id": issuer, "name": name})
    entered = await admin.root.good("GET", path)
    assert (entered["entered"], entered["name"], entered["issuer_id"]) == (True, "購買部 御中", issuer)


@pytest.mark.parametrize("number", ["T1234567890123", "8700110005901", "T870011000590", "T８700110005901", ""])
async def test_issuer_needs_a_registration_number_with_its_check_digit(admin: Administration, number: str) -> None:
    good = await admin.root.good("POST", "/billing-issuers", an_issuer())
    status, error = await admin.root.error("POST", "/billing-issuers", an_issuer(registration_number=number))
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "registration_number")
    path = f"/billing-issuers/{good['issuer_id']}"
    assert (await admin.root.error("PATCH", path, {"registration_number": number}))[1]["param"] == "registration_number"
    taken = an_issuer(number_prefix=good["number_prefix"])
    assert (await admin.root.error("POST", "/billing-issuers", taken))[1]["code"] == "already_exists"


async def test_numbers_of_an_issuer_go_on_as_they_began(admin: Administration) -> None:
    path = f"/billing-issuers/{(await admin.root.good('POST', '/billing-issuers', an_issuer()))['issuer_id']}"
    for field, value in (("number_prefix", "X"), ("year_begins", 4)):
        status, error = await admin.root.error("PATCH", path, {field: value})
        assert (status, error["param"]) == (400, field)
    changed = await admin.root.good("PATCH", path, {"due_months": 2, "bank_account": "見本銀行 0000000"})
    assert (changed["due_months"], changed["bank_account"]) == (2, "見本銀行 0000000")


async def test_cards_and_agreements_in_files_are_written_once_with_a_models_history(
    admin: Administration, tenant: str
) -> None:
    model, ids = f"m-{uuid4().hex[:8]}", [f"card-{uuid4().hex[:8]}" for _ in range(2)]
    cards = [
        a_rate_card(ids[0], model=model, effective_to="2026-04-01T00:00:00+09:00"),
        a_rate_card(ids[1], model=model, effective_from="2026-04-01T00:00:00+09:00", **PRICES, terms=TERMS),
    ]
    entry = {**tenant_body(tenant), "agreements": [an_agreement()]}
    desired = {"desired": {"tenants": [entry], "rate_cards": cards}}
    assert (await admin.root.good("POST", "/apply", desired))["summary"]["create"] == 3
    again = await admin.root.good("POST", "/plan", desired)
    assert {change["effect"] for change in again["changes"] if change["name"] in (*ids, tenant)} == {"unchanged"}
    state = await admin.root.good("GET", "/export")
    plan = await admin.root.good("POST", "/plan", {"desired": state})
    assert set(plan["summary"]) == {"unchanged"}
    late = [*cards, a_rate_card(model=model, effective_from="2026-05-01T00:00:00+09:00")]
    _, error = await admin.root.error("POST", "/plan", {"desired": {"rate_cards": late}})
    assert [problem["path"] for problem in error["problems"]] == ["rate_cards[2].effective_from"]
    entry["agreements"][0]["terms"]["minimum_yen"] = 0
    _, error = await admin.root.error("POST", "/plan", {"desired": {"tenants": [entry]}})
    assert [problem["path"] for problem in error["problems"]] == ["tenants[0].agreements[0].terms.minimum_yen"]


async def test_engineer_reads_its_tenants_agreements_and_writes_none(admin: Administration, tenant: str) -> None:
    agreement = await admin.root.good("POST", f"/tenants/{tenant}/agreements", an_agreement())
    engineer = await admin.somebody("si_engineer", tenant)
    stranger = await admin.somebody(
        "si_engineer", (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    )
    path = f"/agreements/{agreement['agreement_id']}"
    assert (await engineer.good("GET", path)) == agreement
    assert (await stranger.error("GET", path))[0] == 404
    desired = {"desired": {"tenants": [{**tenant_body(tenant), "agreements": [an_agreement()]}]}}
    _, error = await engineer.error("POST", "/apply", desired)
    assert [(problem["path"], problem["code"]) for problem in error["problems"]] == [
        ("tenants[0].agreements", "permission_denied")
    ]
