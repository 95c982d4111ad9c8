"""Purpose, data class and place: what a request states reaches the decision, the choice of upstream and the journal."""

from collections.abc import Mapping
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.raw import Answer, chat, exchange, request
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant

TERMS = Terms(grant={"purposes": ["general", "research"], "data_classes": ["public", "restricted", "secret"]})


@pytest_asyncio.fixture
async def partner(up: Stack) -> Tenant:
    """May ask for two purposes, with data of every class."""
    return await add_tenant(up, TERMS)


async def _ask(up: Stack, tenant: Tenant, model: str = "scripted-small", **headers: str) -> Answer:
    return await exchange(up, request(tenant, chat(model, max_tokens=2), **headers))


async def _change(up: Stack, statement: str, *arguments: object) -> None:
    connection = await up.connect()
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def _row(up: Stack, answer: Answer) -> dict[str, Any]:
    return await up.row(answer.headers["x-request-id"])


async def test_key_defaults_stand_where_the_request_states_nothing(up: Stack, partner: Tenant) -> None:
    row = await _row(up, await _ask(up, partner))
    assert (row["purpose"], row["data_class"]) == ("general", "restricted")
    assert (row["region"], row["country"], row["model_version"]) == ("jp-east", "JP", "1.0.0")


async def test_stated_purpose_is_decided_on_and_written_down(up: Stack, partner: Tenant) -> None:
    answer = await _ask(up, partner, x_sekisho_purpose="research")
    assert answer.status == 200
    assert (await _row(up, answer))["purpose"] == "research"


@pytest.mark.parametrize(
    ("headers", "code", "param"),
    [
        ({"x_sekisho_purpose": "medical"}, "purpose_not_licensed", "X-Sekisho-Purpose"),
        ({"x_sekisho_purpose": "no-such-purpose"}, "unknown_purpose", "X-Sekisho-Purpose"),
        ({"x_sekisho_data_class": "no-such-class"}, "unknown_data_class", "X-Sekisho-Data-Class"),
        ({"x_sekisho_data_class": "secret"}, "secret_needs_own_site", "X-Sekisho-Data-Class"),
    ],
)
async def test_what_the_licence_does_not_cover_is_refused_by_name_and_written_down(
    up: Stack, partner: Tenant, headers: Mapping[str, str], code: str, param: str
) -> None:
    answer = await _ask(up, partner, **headers)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (403, code, param)
    assert answer.error["rule"] == f"{partner.licence_id}/g1"
    assert answer.error["licence"] == f"{partner.licence_id}@1"
    assert answer.error["cure"] and answer.headers["x-sekisho-outcome"] == "refused_licence"
    row = await _row(up, answer)
    assert (row["outcome"], row["code"], row["micro_yen"]) == ("refused_licence", code, 0)
    assert next(iter(headers.values())) in (row["purpose"], row["data_class"])


@pytest.mark.parametrize("class_of_key", ["restricted", "secret"])
async def test_request_cannot_lower_the_class_of_its_key(up: Stack, partner: Tenant, class_of_key: str) -> None:
    await _change(up, "UPDATE api_key SET data_class = $2 WHERE key_id = $1", partner.key_id, class_of_key)

    async def raised() -> Answer | None:
        answer = await _ask(up, partner, x_sekisho_data_class="public")
        return answer if (await _row(up, answer))["data_class"] == class_of_key else None

    answer = await until(raised, 2.0, "the key's class does not stand")
    assert answer.status == (403 if class_of_key == "secret" else 200)


async def test_secret_goes_to_the_tenants_own_site_and_nowhere_else(up: Stack, partner: Tenant) -> None:
    assert (await _ask(up, partner, x_sekisho_data_class="secret")).error["code"] == "secret_needs_own_site"
    await _change(up, "UPDATE tenant SET sites = '{local}' WHERE tenant_id = $1", partner.tenant_id)

    async def served() -> Answer | None:
        answer = await _ask(up, partner, x_sekisho_data_class="secret")
        return answer if answer.status == 200 else None

    row = await _row(up, await until(served, 2.0, "the own site does not serve"))
    assert (row["data_class"], row["site"]) == ("secret", "local")
    other = await add_tenant(up, TERMS)
    assert (await _ask(up, other, x_sekisho_data_class="secret")).status == 403


async def test_header_that_stands_twice_is_refused(up: Stack, partner: Tenant) -> None:
    data = request(partner, chat(max_tokens=2), x_sekisho_data_class="secret\r\nx-sekisho-data-class: public")
    answer = await exchange(up, data)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (
        400, "invalid_value", "x-sekisho-data-class",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("grant", "code"),
    [({"regions": ["jp-west"]}, "region_not_licensed"), ({"tiers": ["edge"]}, "tier_not_licensed")],
)
async def test_region_and_tier_are_hard_filters(up: Stack, grant: Mapping[str, Any], code: str) -> None:
    tenant = await add_tenant(up, Terms(grant=grant))
    answer = await _ask(up, tenant)
    assert (answer.status, answer.error["code"]) == (403, code)
    assert answer.error["rule"] == f"{tenant.licence_id}/g1"


async def test_of_several_places_the_licensed_one_serves_and_is_named(up: Stack) -> None:
    await add_model(up, "scripted-two-places", served_model="scripted-small")
    await _change(
        up,
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
        " SELECT 'two-places-west', model, base_url, served_model, witness_url, tier, 'jp-west', 'osaka', profile"
        " FROM upstream WHERE upstream_id = 'scripted-two-places' ON CONFLICT DO NOTHING",
    )
    for region in ("jp", "jp-west"):
        tenant = await add_tenant(up, Terms(models=("scripted-two-places",), grant={"regions": [region]}))

        async def served(tenant: Tenant = tenant) -> Answer | None:
            answer = await _ask(up, tenant, "scripted-two-places")
            return answer if answer.status == 200 else None

        answer = await until(served, 3.0, "the second place is not known")
        assert answer.headers["x-sekisho-region"] == region
        assert (await _row(up, answer))["region"] == region


async def test_place_outside_the_countries_of_processing_is_not_used(up: Stack) -> None:
    abroad = {"handling_mode": "entrusted", "processing_countries": ["FR"], "training_use": False}
    tenant = await add_tenant(up, personal_data=abroad)
    answer = await _ask(up, tenant)
    assert (answer.status, answer.error["code"]) == (403, "country_not_licensed")


async def test_version_that_is_pinned_must_be_served_and_licensed(up: Stack) -> None:
    tenant = await add_tenant(up, Terms(models=("scripted-small@>=1,<2",)))
    assert (await _ask(up, tenant, "scripted-small@1.0.0")).status == 200
    unknown = await _ask(up, tenant, "scripted-small@9.9")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    empty = await _ask(up, tenant, "scripted-small@")
    assert (empty.status, empty.error["code"], empty.error["param"]) == (400, "invalid_value", "model")
    outside = await add_tenant(up, Terms(models=("scripted-small@>=2",)))
    assert (await _ask(up, outside)).error["code"] == "model_not_found"


async def test_prohibition_is_stronger_than_a_grant(up: Stack) -> None:
    clause = {"id": "p1", "match": {"purposes": ["research"]}, "reason": "契約外"}
    tenant = await add_tenant(up, prohibitions=[clause])
    assert (await _ask(up, tenant)).status == 200
    answer = await _ask(up, tenant, x_sekisho_purpose="research")
    assert (answer.status, answer.error["code"]) == (403, "prohibited")
    assert answer.error["rule"] == f"{tenant.licence_id}/p1"


async def test_purposes_and_models_of_a_key_narrow_the_licence(up: Stack, partner: Tenant) -> None:
    await _change(
        up, "UPDATE api_key SET purposes = '{general}', models = '{scripted-small}' WHERE key_id = $1", partner.key_id
    )

    async def narrowed() -> Answer | None:
        answer = await _ask(up, partner, x_sekisho_purpose="research")
        return answer if answer.status == 403 else None

    answer = await until(narrowed, 2.0, "the key's purposes do not bind")
    assert (answer.error["code"], answer.error["licence"]) == ("purpose_not_allowed", f"{partner.licence_id}@1")
    assert (await _ask(up, partner)).status == 200
    await _change(up, "UPDATE api_key SET models = '{other}' WHERE key_id = $1", partner.key_id)

    async def hidden() -> Answer | None:
        answer = await _ask(up, partner)
        return answer if answer.status == 404 else None

    assert (await until(hidden, 2.0, "the key's models do not bind")).error["code"] == "model_not_found"
