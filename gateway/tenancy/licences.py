"""The licences a process has read: verified once, compiled per tenant, only those that a change touches."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.licensing.compile import Catalogue, affected_tenants, compile_tenant
from gateway.licensing.decide import LicenceIndex
from gateway.licensing.document import StoredLicence
from gateway.licensing.envelope import Sealed, open_envelope
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from gateway.licensing.trust import Trust, TrustKey
from gateway.licensing.verify import verify_alone
from gateway.priority.register import Register, Window
from gateway.priority.windows import windows_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LicenceRow:
    """A row of the table `licence`. `revoked_at` in microseconds since the epoch."""

    licence_id: str
    version: int
    tenant_id: str
    envelope: str | None
    parent_licence_id: str | None
    revoked_at: int | None


class LicenceBook:
    """The newest version of every licence, and the index compiled of them.

    What does not verify grants nothing, is logged, and does not bring its predecessor back.
    """

    def __init__(self) -> None:
        self._versions: dict[str, dict[int, LicenceRow]] = {}
        self._rows: dict[str, LicenceRow] = {}
        self._keys: dict[str, TrustKey] = {}
        self._catalogue: Catalogue = {}
        self._verified: dict[str, StoredLicence] = {}
        self._signers: dict[str, frozenset[str]] = {}
        self._unverified: set[str] = set()
        self._changed: set[str] = set()
        self._all = True
        self._register = Register()
        self.index: LicenceIndex = {}
        self.windows: tuple[Window, ...] = ()
        self.tenants: Mapping[str, Sequence[str]] = {}
        self._owners: dict[str, frozenset[str]] = {}

    def take_keys(self, keys: Iterable[TrustKey]) -> None:
        """Add or replace keys: what they signed is verified anew, and what did not verify without them."""
        taken = {key.key_id: key for key in keys}
        self._keys.update(taken)
        if taken:
            bad = self._rows.keys() - self._verified.keys()
            self._unverified |= bad | {one for one, signers in self._signers.items() if signers & taken.keys()}

    def take_rows(self, rows: Iterable[LicenceRow]) -> None:
        """Add or replace versions. Of one licence only the highest counts, and the revocation of any is final: a later
        version may have been signed before it, and would undo it."""
        for row in rows:
            versions = self._versions.setdefault(row.licence_id, {})
            versions[row.version] = row
            ended = [one.revoked_at for one in versions.values() if one.revoked_at is not None]
            self._rows[row.licence_id] = replace(versions[max(versions)], revoked_at=min(ended, default=None))
            self._unverified.add(row.licence_id)

    def take_catalogue(self, catalogue: Catalogue) -> None:
        """Other models or versions exist: patterns mean something else for everybody."""
        self._catalogue = catalogue
        self._all = True

    def take_register(self, register: Register) -> None:
        """Other contributions, lineages or policies: exclusivities rest on them."""
        self._register = register

    def compile(self) -> Iterator[None]:
        """Bring `index` and `windows` up to date; yields between steps so that requests are served meanwhile."""
        yield from self._verify()
        windows = windows_of(self._verified, self._register)
        if windows != self.windows:  # each closes grants of everybody else
            self._all = True
        by_tenant: dict[str, list[StoredLicence]] = {}
        for licence in self._verified.values():
            by_tenant.setdefault(licence.document.licensee.tenant, []).append(licence)
        index = dict(self.index)
        for tenant_id in self._to_compile(by_tenant):
            index.pop(tenant_id, None)
            self._owners.pop(tenant_id, None)
            if tenant_id in by_tenant:
                index[tenant_id] = compile_tenant(
                    by_tenant[tenant_id], self._catalogue, REGISTERS, self._verified, windows
                )
                self._owners[tenant_id] = frozenset(grant.owner for grant in index[tenant_id].grants)
            yield
        self.index, self.windows, self.tenants = index, windows, _by_owner(self._owners)
        self._changed.clear()
        self._all = False

    def _to_compile(self, by_tenant: Mapping[str, object]) -> set[str]:
        if self._all:
            return set(by_tenant) | set(self.index)
        # What no longer verifies has no document to tell its tenant, its row has.
        own = {self._rows[licence_id].tenant_id for licence_id in self._changed}
        return own | affected_tenants(self._changed, self._verified)

    def _verify(self) -> Iterator[None]:
        trust = Trust(dict(self._keys))
        for licence_id in self._unverified:
            row = self._rows[licence_id]
            self._verified.pop(licence_id, None)
            try:
                sealed = _opened(row, trust)
                self._verified[licence_id] = StoredLicence(sealed.document, sealed.digest, row.revoked_at)
                self._signers[licence_id] = frozenset(signature.key_id for signature in sealed.signatures)
            except Finding as finding:
                _LOG.error("licence %s@%d grants nothing: %s %s %s", row.licence_id, row.version, finding.code,
                           finding.path, finding.detail)  # fmt: skip
            yield
        self._changed |= self._unverified
        self._unverified = set()


def _by_owner(owners: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    tenants: dict[str, list[str]] = {}
    for tenant_id, found in owners.items():
        for owner in found:
            tenants.setdefault(owner, []).append(tenant_id)
    return tenants


def _opened(row: LicenceRow, trust: Trust) -> Sealed:
    """The licence of a row, its signatures verified. Whether it lies within its parent is asked when it is compiled:
    parents change. Raises `Finding`."""
    if row.envelope is None:
        raise Finding("signature_missing", detail="the row has no envelope")
    sealed = open_envelope(row.envelope)
    document = sealed.document
    named = (document.licence_id, document.version, document.licensee.tenant)
    if named != (row.licence_id, row.version, row.tenant_id):
        raise Finding("tenant_mismatch", detail="the row is another licence's than its envelope")
    verify_alone(sealed, trust, REGISTERS)
    return sealed
