"""Issuer and licensees whose signing keys lie in one data folder: the demo, tests and benches. In production each party
keeps its own key, and only public keys and envelopes come here."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.identity.secrets import write_private
from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Sealed, canonical, open_envelope, parse_document, seal
from gateway.licensing.keys import SigningKey
from gateway.licensing.trust import LicenceStatus, Role, Trust, dump_trust
from gateway.licensing.verify import signing_parties
from gateway.tenancy.store import read_trust

ISSUER = "sekisho-demo"
# Licences of tests begin in the past; a key must have been in force when its licence was signed.
_KEY_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)


class LocalParties:
    """Signs licences as any issuer and as any tenant, with keys made on first use in `<data_dir>/secrets/signing`."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "secrets" / "signing"
        self._trust_path = data_dir / "licences" / "trust.json"

    def key(self, role: Role, party: str) -> SigningKey:
        """The signing key of a party."""
        path = self._folder / f"{role}-{party}.pem"
        if path.exists():
            return SigningKey.read(path)
        key = SigningKey.generate()
        key.write(path)
        return key

    async def store(self, connection: Any, document: Mapping[str, Any]) -> str:
        """Sign `document` as both parties and store it with their public keys; returns the envelope."""
        keys = []
        for role, party in signing_parties(parse_document(canonical(dict(document)))):
            keys.append(self.key(role, party))
            await _trust(connection, keys[-1], role, party)
        envelope = seal(document, keys)
        await insert_licence(connection, open_envelope(envelope))
        return envelope

    async def write_trust(self, connection: Any) -> Path:
        """Write what the book trusts as the file that `sekisho licence verify` reads; returns its path."""
        rows = await connection.fetch(
            "SELECT DISTINCT ON (licence_id) licence_id, version, envelope, revoked_at FROM licence"
            " WHERE envelope IS NOT NULL ORDER BY licence_id, version DESC"
        )
        licences = {
            row["licence_id"]: LicenceStatus(
                row["version"], row["revoked_at"] is not None, open_envelope(row["envelope"]).digest
            )
            for row in rows
        }
        trust = await read_trust(connection)
        write_private(self._trust_path, dump_trust(Trust(trust.keys, licences)))
        return self._trust_path


async def insert_licence(connection: Any, sealed: Sealed) -> None:
    """Store a version of a licence. Raises `asyncpg.UniqueViolationError` for one that is there already."""
    document: LicenceDocument = sealed.document
    await connection.execute(
        "INSERT INTO licence (licence_id, version, tenant_id, document, envelope, parent_licence_id)"
        " VALUES ($1, $2, $3, $4::jsonb, $5, $6)",
        document.licence_id, document.version, document.licensee.tenant, sealed.payload.decode(), sealed.text,
        None if document.parent is None else document.parent.licence_id,
    )  # fmt: skip


async def _trust(connection: Any, key: SigningKey, role: Role, party: str) -> None:
    await connection.execute(
        "INSERT INTO trust_key (key_id, role, party, public_key, not_before) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (key_id) DO NOTHING",
        key.key_id, role, party, key.public_bytes, _KEY_NOT_BEFORE,
    )  # fmt: skip
