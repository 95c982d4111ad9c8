"""Looking closer at what the official SDK made of an answer."""

import uuid
from collections.abc import Iterator

import httpx
import openai
from pydantic import BaseModel

from tests.e2e.stack import Stack
from tests.e2e.tenants import INPUT_PRICE, OUTPUT_PRICE, Tenant

REASONING = frozenset({"reasoning", "reasoning_content"})
"""The two names under which engines give a model's reasoning; the SDK's types have neither and show both as extras."""


def extras(value: object, path: str = "$") -> Iterator[str]:
    """Paths of everything in an answer that the SDK's types do not know."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in value.model_fields_set:
            yield from extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from extras(item, f"{path}[{index}]")


def request_id_of(answer_id: str) -> str:
    """The request id in an answer's id, which must be a UUIDv7 (RFC 9562)."""
    request_id = answer_id.partition("-")[2]
    assert uuid.UUID(request_id).version == 7
    return request_id


def sync_client(stack: Stack, tenant: Tenant) -> openai.OpenAI:
    """The SDK's synchronous client; close it."""
    return openai.OpenAI(base_url=stack.base_url, api_key=tenant.key, max_retries=0, timeout=30)


async def same_count_everywhere(
    stack: Stack, tenant: Tenant, model: str, request_id: str, shown: openai.types.CompletionUsage | None
) -> None:
    """Answer, engine's record, journal, ledger and `GET /v1/usage` agree about the tenant's only request."""
    row = await stack.row(request_id)
    witness = await stack.witness(model, f"{request_id}-{row['attempt']}")
    names = (
        "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "image_tokens", "audio_tokens",
    )  # fmt: skip
    assert {name: row[name] for name in names} == {name: witness[name] for name in names}
    if shown is not None:
        assert (shown.prompt_tokens, shown.completion_tokens) == (row["prompt_tokens"], row["completion_tokens"])
    assert row["micro_yen"] == row["prompt_tokens"] * INPUT_PRICE + row["completion_tokens"] * OUTPUT_PRICE
    assert (row["state"], row["outcome"], row["usage_source"]) == ("settled", "completed", "engine")
    booked = await stack.fetch(
        "SELECT coalesce(sum(debit), 0)::bigint AS debit, coalesce(sum(credit), 0)::bigint AS credit"
        " FROM ledger_entry WHERE request_id = $1::text::uuid",
        request_id,
    )
    assert booked == [{"debit": row["micro_yen"], "credit": row["micro_yen"]}]
    totals = await usage_totals(stack, tenant)
    assert totals == {"requests": 1, **{name: row[name] for name in names}, "micro_yen": row["micro_yen"]}


async def usage_totals(stack: Stack, tenant: Tenant) -> dict[str, int]:
    """`totals` of `GET /v1/usage`."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{stack.base_url}/usage", headers=tenant.headers)
    totals: dict[str, int] = answer.json()["totals"]
    return totals
