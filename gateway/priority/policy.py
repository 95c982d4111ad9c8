"""The signed policy (R4): the floors, weights, months and discount that are in force, agreed by two parties.

A DSSE envelope like a licence's, with a payload type of its own. The platform's issuer and an approver sign, each with
a key of role `issuer` in the trust register. Versions count 1, 2, 3 …; the two parties never change, and each version
begins after the notice of the one before it.
"""

from typing import Annotated, Literal

import msgspec

from gateway.licensing.document import Moment, Name
from gateway.licensing.envelope import Enclosed, parse_payload, read_envelope
from gateway.licensing.findings import Finding
from gateway.licensing.times import to_us
from gateway.licensing.trust import Trust
from gateway.licensing.verify import Party, check_signatures
from gateway.priority.checks import check_policy
from gateway.priority.register import BUILT_IN, GROUPS, Group, Policy

PAYLOAD_TYPE = "application/vnd.sekisho.priority-policy+json"

_Permille = Annotated[int, msgspec.Meta(ge=0, le=1000)]
_Weight = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Floors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of each pool in permille."""

    open: _Permille
    priority: _Permille = 0
    internal: _Permille = 0


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest weight of an owner within each group."""

    priority: _Weight = BUILT_IN.weights["priority"]
    open: _Weight = BUILT_IN.weights["open"]
    internal: _Weight = BUILT_IN.weights["internal"]


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed. `supersedes` is null in the first version; `signed_at` decides which keys count."""

    v: Literal[1]
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    supersedes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    issuer: Name
    approver: Name
    signed_at: Moment
    effective_from: Moment
    notice_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = BUILT_IN.notice_days
    floors: Floors
    weights: Weights = Weights()
    exclusivity_months_max: Annotated[int, msgspec.Meta(ge=0, le=60)] = BUILT_IN.exclusivity_months_max
    discount_permille_max: _Permille = BUILT_IN.discount_permille_max

    @property
    def policy(self) -> Policy:
        """The policy as rules go by it."""
        floors: dict[Group, int] = {group: getattr(self.floors, group) for group in GROUPS}
        weights: dict[Group, int] = {group: getattr(self.weights, group) for group in GROUPS}
        return Policy(
            self.version, to_us(self.effective_from), floors, weights, self.exclusivity_months_max,
            self.discount_permille_max, self.notice_days,
        )  # fmt: skip


class SealedPolicy(msgspec.Struct, frozen=True):
    """A policy with its envelope."""

    document: PolicyDocument
    enclosed: Enclosed


def open_policy(text: str | bytes, trust: Trust | None = None) -> SealedPolicy:
    """Read a policy's envelope strictly. Raises `Finding`, as `gateway.licensing.envelope.open_envelope`."""
    enclosed = read_envelope(text, PAYLOAD_TYPE, trust)
    return SealedPolicy(parse_payload(enclosed.payload, PolicyDocument), enclosed)


def verify_policy(sealed: SealedPolicy, trust: Trust) -> None:
    """Raise a `Finding` unless issuer and approver are two, and both have signed."""
    document = sealed.document
    if document.issuer == document.approver:
        raise Finding("same_party", "approver", document.approver)
    parties: tuple[Party, Party] = (("issuer", document.issuer), ("issuer", document.approver))
    missing = check_signatures(sealed.enclosed, parties, to_us(document.signed_at), trust)
    if missing:
        raise Finding("signature_missing", "signatures", missing[0][1])


def admit_policy(text: str, trust: Trust, newest: PolicyDocument | None, now: int) -> SealedPolicy:
    """The policy, if it may be stored at `now` (microseconds since the epoch) after `newest`, the highest version
    stored. Raises `Finding`."""
    sealed = open_policy(text, trust)
    verify_policy(sealed, trust)
    _check_continues(sealed.document, newest)
    check_policy(sealed.document.policy, BUILT_IN if newest is None else newest.policy, now)
    return sealed


def _check_continues(document: PolicyDocument, newest: PolicyDocument | None) -> None:
    highest = 0 if newest is None else newest.version
    if document.version != highest + 1:
        raise Finding("version_not_next", "version", f"{document.version} after {highest}")
    if document.supersedes != (highest or None):
        raise Finding("supersession_mismatch", "supersedes", f"{document.supersedes}, the newest is {highest or None}")
    if newest is not None and (document.issuer, document.approver) != (newest.issuer, newest.approver):
        raise Finding("supersession_mismatch", "approver", "issuer and approver stay the same two")
    if newest is not None and document.effective_from <= newest.effective_from:
        raise Finding("supersession_mismatch", "effective_from", "not later than the version that it replaces")
