"""A small world of priority: two owners' contributions, a derived and a base model, and licences that claim them."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.times import to_us
from gateway.priority.register import Contribution, Lineage, Policy, Register
from tests.licences import a_licence

KIKAI, SHIMA = "8700110005901", "5835678256246"
# Contributed on 1 March 2026 in Japan; twelve months later is 1 March 2027.
CONTRIBUTED, A_YEAR_LATER = "2026-03-01T00:00:00+09:00", "2027-03-01T00:00:00+09:00"
MODEL, BASE = "kikai-7b", "kaname-base"
LINEAGE = Lineage(MODEL, "1.0.0", contributions=("c-kikai", "c-shima"))
NATIONAL = Lineage(BASE, "1.0.0", "national_base")


def us(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time."""
    return to_us(datetime.fromisoformat(text).astimezone(UTC))


def contribution(name: str, owner: str, at: str = CONTRIBUTED, withdrawn: str | None = None) -> Contribution:
    """A contribution."""
    return Contribution(name, owner, us(at), None if withdrawn is None else us(withdrawn))


def register(*lineages: Lineage, contributions: tuple[Contribution, ...] = (), policies: Any = ()) -> Register:
    """A register of the two owners' contributions (or of `contributions`)."""
    known = contributions or (contribution("c-kikai", KIKAI), contribution("c-shima", SHIMA))
    found = lineages or (LINEAGE, NATIONAL)
    return Register(
        {one.contribution_id: one for one in known},
        {(one.model, one.model_version): one for one in found},
        tuple(policies),
    )


def a_policy(**changes: Any) -> Policy:
    """The built-in policy with changes, as version 1."""
    return Policy(**{"version": 1, "effective_from": 0, **changes})


def licence(
    tenant: str = "kikai",
    owner: str = KIKAI,
    *,
    named: tuple[str, ...] = ("c-kikai",),
    models: tuple[str, ...] = (MODEL,),
    until: str | None = None,
    basis: str = "c-kikai",
    licensee_class: str = "investor",
    **changes: Any,
) -> LicenceDocument:
    """A licence on `models`, with an exclusivity on the first of them where `until` says so."""
    grant = {"id": "g1", "models": list(models), "actions": ["chat"], "priority": {"class": "investor", "weight": 10}}
    exclusive = [{"model": models[0], "until": until, "scope": "all", "basis": basis}] if until else []
    document = a_licence(
        tenant, f"lic-{tenant}", [{**grant, **changes.pop("grant", {})}],
        licensee={"tenant": tenant, "legal_name": tenant, "class": licensee_class, "hojin_bangou": owner},
        ip={"contributions": list(named), "exclusive": exclusive}, **changes,
    )  # fmt: skip
    return msgspec.convert(document, LicenceDocument)


def stored(*documents: LicenceDocument, revoked: str = "") -> dict[str, StoredLicence]:
    """Licences by id; those of the tenant `revoked` are."""
    return {one.licence_id: StoredLicence(one, "d", 1 if one.licensee.tenant == revoked else None) for one in documents}
