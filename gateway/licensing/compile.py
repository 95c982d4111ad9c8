"""Compiles licences into the index that decisions are made on: newest versions, patterns expanded, parents followed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache

from packaging.version import Version

from gateway.licensing.admit import ends_at
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.findings import Finding
from gateway.licensing.index import LicenceIndex, TenantIndex
from gateway.licensing.patterns import PatternError, parse_pattern
from gateway.licensing.registers import Registers
from gateway.licensing.tables import PlacedGrant, PlacedProhibition, Term, tenant_index
from gateway.licensing.times import to_us
from gateway.licensing.verify import check_subset
from gateway.priority.register import Window

Catalogue = Mapping[str, frozenset[str]]
"""model → its versions (PEP 440, numbers only) that some upstream serves."""

_EVERY_MODEL = ["*"]


def compile_index(
    licences: Iterable[StoredLicence], catalogue: Catalogue, registers: Registers, windows: Sequence[Window] = ()
) -> LicenceIndex:
    """The index of all tenants. Of each licence only the highest version counts."""
    newest = _newest(licences)
    by_tenant: dict[str, list[StoredLicence]] = {}
    for licence in newest.values():
        by_tenant.setdefault(licence.document.licensee.tenant, []).append(licence)
    return {tenant: compile_tenant(own, catalogue, registers, newest, windows) for tenant, own in by_tenant.items()}


def affected_tenants(changed: Set[str], newest: Mapping[str, StoredLicence]) -> set[str]:
    """The tenants to compile anew when the licences `changed` (ids) changed: their licensees, and the licensees of what
    is cut from them, however far down. A licensee that a licence has lost is only in the `newest` of before."""
    children: dict[str, list[str]] = {}
    for licence_id, licence in newest.items():
        if licence.document.parent is not None:
            children.setdefault(licence.document.parent.licence_id, []).append(licence_id)
    reached, ahead = set(changed), list(changed)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child not in reached:
                reached.add(child)
                ahead.append(child)
    return {newest[licence_id].document.licensee.tenant for licence_id in reached if licence_id in newest}


def compile_tenant(
    licences: Sequence[StoredLicence],
    catalogue: Catalogue,
    registers: Registers,
    newest: Mapping[str, StoredLicence] | None = None,
    windows: Sequence[Window] = (),
) -> TenantIndex:
    """The index of the one tenant that `licences` belong to. `newest` finds the licences that they are cut from, by id;
    without it only `licences` are known. `windows` are the exclusivities of every owner."""
    own = _newest(licences)
    known = own if newest is None else newest
    grants: list[PlacedGrant] = []
    prohibitions: list[PlacedProhibition] = []
    for _, licence in sorted(own.items()):
        document, term = licence.document, _term(licence, known)
        owner = owner_of(document, known)
        for clause in document.grants:
            covered = _covered(clause.models, catalogue)
            if covered:
                grants.append(PlacedGrant(document, clause, term, covered, owner))
        for prohibition in document.prohibitions:
            models = prohibition.match.models
            covered = _covered(_EVERY_MODEL if models is None else models, catalogue)
            prohibitions.append(PlacedProhibition(document, prohibition, term, covered))
    return tenant_index(grants, prohibitions, registers, windows)


def owner_of(document: LicenceDocument, newest: Mapping[str, StoredLicence]) -> str:
    """The beneficial owner of a licence: the licensee of the one that it is cut from, however far up, so that
    re-contracts give nobody a second weight. Its corporate number, else `tenant:<id>`."""
    above = document
    for _ in range(len(newest)):  # licences that are cut from each other in a circle have an end too
        parent = None if above.parent is None else newest.get(above.parent.licence_id)
        if parent is None:
            break
        above = parent.document
    return above.licensee.hojin_bangou or f"tenant:{above.licensee.tenant}"


def _newest(licences: Iterable[StoredLicence]) -> dict[str, StoredLicence]:
    newest: dict[str, StoredLicence] = {}
    for licence in licences:
        known = newest.get(licence.document.licence_id)
        if known is None or known.document.version < licence.document.version:
            newest[licence.document.licence_id] = licence
    return newest


def _term(licence: StoredLicence, newest: Mapping[str, StoredLicence]) -> Term:
    validity = licence.document.validity
    return Term(to_us(validity.not_before), to_us(validity.not_after), ends_at(validity), not stands(licence, newest))


def stands(licence: StoredLicence, newest: Mapping[str, StoredLicence]) -> bool:
    """Whether the licence is not revoked and lies within one that stands. It never outlasts that one: its validity must
    lie within the other's, grace included."""
    document = licence.document
    if licence.revoked_at is not None or document.parent is None:
        return licence.revoked_at is None
    parent = newest.get(document.parent.licence_id)
    # Licences that are cut from each other in a circle come to an end here: each may be re-contracted less deep.
    return parent is not None and _within(document, parent.document) and stands(parent, newest)


def _within(child: LicenceDocument, parent: LicenceDocument) -> bool:
    try:
        check_subset(child, parent)
    except Finding:
        return False
    return True


def _covered(patterns: Sequence[str], catalogue: Catalogue) -> Set[tuple[str, str]]:
    return {pair for pattern in patterns for pair in _expanded(pattern, catalogue)}


def _expanded(text: str, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    try:
        pattern = parse_pattern(text)
    except PatternError:  # verification refuses it; what nobody can read covers nothing
        return
    models = catalogue if "*" in pattern.name else (pattern.name,) if pattern.name in catalogue else ()
    for model in models:
        for version in catalogue[model]:
            if pattern.matches(model, _version(version)):
                yield model, version


_version = lru_cache(maxsize=4096)(Version)
