"""Exclusivities as licences state them, and the windows that come of it (R2, R3). Pure: the caller gives all licences.

A window is computed, never stored: it begins and ends by the clock alone, and nothing has to run for a model to be open
to all when it is over.
"""

from collections.abc import Iterable, Iterator, Mapping

from gateway.licensing.compile import owner_of, stands
from gateway.licensing.document import Exclusive, LicenceDocument, StoredLicence
from gateway.licensing.times import to_us
from gateway.priority.register import NATIONAL_BASE, Lineage, Register, Window, exclusive_until


def windows_of(newest: Mapping[str, StoredLicence], register: Register) -> tuple[Window, ...]:
    """The windows of all licences that stand, in the order of licences and versions. What a stored licence says beyond
    the rules has no effect: no lineage, no window; none on a base model; none past the maximum."""
    return tuple(
        window
        for licence in _exclusive(newest)
        for item in licence.document.ip.exclusive
        for window in _windows(licence.document, item, owner_of(licence.document, newest), register)
    )


def _exclusive(newest: Mapping[str, StoredLicence]) -> Iterator[StoredLicence]:
    stating = sorted(licence_id for licence_id, licence in newest.items() if licence.document.ip.exclusive)
    return (newest[licence_id] for licence_id in stating if stands(newest[licence_id], newest))


def _windows(document: LicenceDocument, item: Exclusive, owner: str, register: Register) -> Iterator[Window]:
    since, end = to_us(document.validity.not_before), to_us(document.validity.not_after)
    for lineage in register.versions(item.model):
        if not rests_on(document, item, owner, lineage, register):
            continue
        latest = exclusive_until(register.contributions[item.basis], register.policy_at(since))
        until = min(to_us(item.until), end, latest)
        if since < until:
            yield Window(lineage.release, owner, _contributors(lineage, register), since, until)


def rests_on(document: LicenceDocument, item: Exclusive, owner: str, lineage: Lineage, register: Register) -> bool:
    """Whether the model version derives from the contribution that the exclusivity rests on, which the licence names
    and its owner has made, and may be exclusive at all."""
    basis = register.contributions.get(item.basis)
    named = item.basis in document.ip.contributions and item.basis in lineage.contributions
    return named and basis is not None and basis.owner == owner and lineage.origin != NATIONAL_BASE


def _contributors(lineage: Lineage, register: Register) -> frozenset[str]:
    found: Iterable[str] = (name for name in lineage.contributions if name in register.contributions)
    return frozenset(register.contributions[name].owner for name in found)
