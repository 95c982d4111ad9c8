"""Licences and trust as files: where they lie, and what a file holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.identity.secrets import write_private
from gateway.licensing.document import LicenceDocument
from gateway.licensing.envelope import Sealed, canonical, open_envelope, parse_document
from gateway.licensing.findings import Finding
from gateway.licensing.reading import read_document
from gateway.licensing.trust import Trust, TrustKey, dump_trust, load_trust

SUFFIX = ".dsse.json"
FILE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """What a file holds: a document, its canonical bytes, and the envelope it came in (None: not signed)."""

    document: LicenceDocument
    payload: bytes
    sealed: Sealed | None


def envelope_path(data_dir: Path, licence_id: str) -> Path:
    """Where the data folder keeps a licence's envelope."""
    return data_dir / "licences" / f"{licence_id}{SUFFIX}"


def trust_path(data_dir: Path) -> Path:
    """Where the data folder keeps whom it trusts."""
    return data_dir / "licences" / "trust.json"


def read_text(path: Path) -> str:
    """The text of a file. Raises `OSError`, or `Finding` where it is too large or not UTF-8."""
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise Finding("envelope_too_large", "", f"more than {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Finding("malformed_envelope", "", "not UTF-8") from None


def open_text(text: str) -> Opened:
    """An envelope, or a document in JSON or YAML. Raises `Finding`; no signature and no meaning is checked."""
    if text.startswith("{") and '"payloadType":' in text and '"signatures":' in text:
        sealed = open_envelope(text)
        return Opened(sealed.document, sealed.payload, sealed)
    tree: Mapping[str, Any] = read_document(text)
    payload = canonical(dict(tree))
    return Opened(parse_document(payload), payload, None)


def find_envelope(folders: list[Path], licence_id: str) -> Sealed | None:
    """The envelope of a licence in the first of `folders` that has it. Raises `Finding` for one that is broken or is
    another licence's."""
    for folder in folders:
        path = folder / f"{licence_id}{SUFFIX}"
        if path.is_file():
            sealed = open_envelope(read_text(path))
            if sealed.document.licence_id != licence_id:
                raise Finding("malformed_envelope", "licence_id", f"{path.name} holds another licence")
            return sealed
    return None


def add_trust_key(path: Path, key: TrustKey) -> None:
    """Add a key to the trust file, which is made where it is missing. Raises `OSError`, `TrustFileError`."""
    trust = load_trust(path) if path.exists() else Trust({})
    write_private(path, dump_trust(Trust({**trust.keys, key.key_id: key}, trust.licences)))
