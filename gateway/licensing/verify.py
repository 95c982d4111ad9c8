"""Verification of a sealed licence: whose signatures it bears, what it means, and that a child lies within its parent.

No clock and no store: what depends on time and on other versions is `admit`'s.
"""

from collections.abc import Sequence

from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Enclosed, Sealed, Signature
from gateway.licensing.findings import Finding
from gateway.licensing.keys import key_id_of, signature_is_valid
from gateway.licensing.registers import Registers
from gateway.licensing.semantics import check_meaning
from gateway.licensing.subset import check_subset
from gateway.licensing.times import to_us
from gateway.licensing.trust import Role, Trust, TrustKey

__all__ = ["check_subset", "signing_parties", "verify", "verify_signatures"]

Party = tuple[Role, str]


def verify(sealed: Sealed, trust: Trust, registers: Registers, *, parent: LicenceDocument | None) -> None:
    """Raise a `Finding` unless every signature is good, both parties have signed, the document means something, and it
    lies within `parent`, the document that its `parent` field names (None where it names none)."""
    document = sealed.document
    verify_alone(sealed, trust, registers)
    if document.parent is None:
        return
    if parent is None:
        raise Finding("parent_missing", "parent.licence_id", document.parent.licence_id)
    check_subset(document, parent)


def verify_alone(sealed: Sealed, trust: Trust, registers: Registers) -> None:
    """What `verify` asks of a licence by itself, without the one it is cut from. Raises `Finding`."""
    # Signatures first: a changed document is told as changed, whatever the change made of its meaning.
    verify_signatures(sealed, trust)
    check_meaning(sealed.document, registers)


def signing_parties(document: LicenceDocument) -> tuple[Party, Party]:
    """Who must sign, as (role of the key, its party): the issuer, who for a child licence is the parent's licensee, and
    the licensee."""
    issuer: Party = ("issuer" if document.parent is None else "licensee", document.issuer)
    return issuer, ("licensee", document.licensee.tenant)


def verify_signatures(sealed: Sealed, trust: Trust) -> None:
    """Raise a `Finding` unless each signature is by a key of one of the parties, in force and valid, and each party has
    signed. Keys count that were in force when the contract was signed."""
    missing = check_signatures(sealed, signing_parties(sealed.document), _signed_at(sealed.document), trust)
    if missing:
        raise Finding("signature_missing", "signatures", _described(sealed.document, missing[0]))


def check_signatures(sealed: Sealed | Enclosed, parties: Sequence[Party], moment: int, trust: Trust) -> list[Party]:
    """Raise a `Finding` unless each signature is by a key of one of `parties`, in force at `moment` (microseconds since
    the epoch) and valid; returns the parties that have not signed."""
    missing = list(parties)
    data = sealed.signed_bytes
    for place, signature in enumerate(sealed.signatures):
        key = _key_of(signature, trust, f"signatures[{place}]")
        if not signature_is_valid(key.public_key, signature.value, data):
            raise Finding("signature_invalid", f"signatures[{place}].sig", key.party)
        party = (key.role, key.party)
        if party not in parties:
            raise Finding("signature_foreign", f"signatures[{place}].keyid", f"{key.role} key of {key.party}")
        _check_in_force(key, moment, f"signatures[{place}].keyid")
        if party in missing:
            missing.remove(party)
    return missing


def _key_of(signature: Signature, trust: Trust, path: str) -> TrustKey:
    key = trust.keys.get(signature.key_id)
    # The id is computed anew: a registry entry under another key's id would let one key count as two.
    if key is None or key_id_of(key.public_key) != signature.key_id:
        raise Finding("signature_foreign", f"{path}.keyid", "unknown key")
    return key


def _check_in_force(key: TrustKey, moment: int, path: str) -> None:
    if key.revoked_at is not None:
        raise Finding("key_revoked", path, f"{key.role} key of {key.party}")
    if moment < key.not_before:
        raise Finding("key_not_in_force", path, f"key of {key.party}: signed before it was in force")
    if key.not_after is not None and moment >= key.not_after:
        raise Finding("key_not_in_force", path, f"key of {key.party}: signed after it was retired")


def _signed_at(document: LicenceDocument) -> int:
    reference = document.contract_ref
    return to_us(document.validity.not_before if reference is None else reference.signed_at)


def _described(document: LicenceDocument, party: Party) -> str:
    return f"{'licensee' if party[1] == document.licensee.tenant else 'issuer'} {party[1]}"
