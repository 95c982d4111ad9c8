"""Recorded decisions of one tenant, equal ones together, for a simulation."""

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast, get_args

from billing.types import Outcome
from gateway.licensing.decide import Ask, Refusal
from gateway.licensing.simulate import Recorded, Verdict
from gateway.licensing.times import to_us

EXAMPLES_MAX = 3
GROUPS_MAX = 100_000

# Without a version there was no place to decide for: no such model, or none that the tenant had a grant for. Those that
# were refused for it are replayed too, at the places there are now: a licence may grant what was asked for in vain.
_DECISIONS = f"""
SELECT model, model_version, action, purpose, data_class, country, region, tier, site, licence_id, rule_id,
  CASE WHEN outcome = $4 THEN code ELSE '' END AS refusal, count(*) AS n, max(opened_at) AS at,
  (array_agg(request_id::text ORDER BY opened_at DESC))[1:{EXAMPLES_MAX}] AS examples
FROM journal
WHERE tenant_id = $1 AND settled_at >= $2 AND settled_at < $3 AND model <> ''
  AND booked_at >= $2  -- never before settled_at, and what the index is by
  AND (model_version <> '' OR code = 'model_not_found')
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 ORDER BY n DESC LIMIT {GROUPS_MAX}
"""  # noqa: S608 # constants
_PLACES = """
SELECT DISTINCT model, model_version, country, region, tier, site FROM upstream WHERE retired_at IS NULL
ORDER BY model, model_version DESC, country, region, tier, site
"""
_REFUSALS = frozenset(get_args(Refusal)) - {""}


@dataclass(frozen=True, slots=True)
class Decided:
    """Equal decisions, and the ids of the last few. `by_licence` tells that the rule is a licence's: another reason may
    have refused what the licence permitted, and then the licence's rule is not recorded."""

    recorded: Recorded
    examples: tuple[str, ...]
    by_licence: bool

    @property
    def placed(self) -> bool:
        """Whether there was a place to decide for."""
        return self.recorded.ask.model_version != ""


async def decisions(connection: Any, tenant_id: str, sites: Set[str], start: datetime, end: datetime) -> list[Decided]:
    """The decisions settled in [`start`, `end`). `sites` are the tenant's own."""
    rows = await connection.fetch(_DECISIONS, tenant_id, start, end, Outcome.REFUSED_LICENCE.value)
    return [_decided(row, tenant_id, sites) for row in rows]


@dataclass(frozen=True, slots=True)
class Place:
    """Where some upstream serves a version of a model."""

    model: str
    model_version: str
    country: str
    region: str
    tier: str
    site: str


async def places_served(connection: Any) -> list[Place]:
    """Every place of every model that is served."""
    return [Place(**dict(row)) for row in await connection.fetch(_PLACES)]


def _decided(row: Any, tenant_id: str, sites: Set[str]) -> Decided:
    ask = Ask(
        tenant_id=tenant_id, model=row["model"], model_version=row["model_version"], action=row["action"],
        purpose=row["purpose"], data_class=row["data_class"], country=row["country"], region=row["region"],
        tier=row["tier"], adapter="", own_site=row["site"] in sites,
    )  # fmt: skip
    refusal = cast("Refusal", row["refusal"] if row["refusal"] in _REFUSALS else "")
    by_licence = bool(refusal) or row["rule_id"].startswith(f"{row['licence_id']}/")
    verdict = Verdict(refusal, row["rule_id"] if by_licence else "")
    return Decided(Recorded(ask, to_us(row["at"]), verdict, row["n"]), tuple(row["examples"]), by_licence)
