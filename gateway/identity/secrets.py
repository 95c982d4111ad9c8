"""Server secrets in files that only the owner reads (mode 0600), made on first use."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.identity.keys import Pepper


@dataclass(frozen=True, slots=True)
class Peppers:
    """All peppers that stored keys may name, and the one for new keys."""

    current: Pepper
    by_id: Mapping[str, Pepper]


def write_private(path: Path, content: str) -> None:
    """Write `content` so that no other user can read it and no half-written file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def create_private(path: Path, content: str) -> None:
    """`write_private`, unless the file is there: of several processes that begin at once, all use the first one's."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    write_private(draft, content)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def load_peppers(data_dir: Path) -> Peppers:
    """Peppers of `<data_dir>/secrets/pepper.json`; a missing file is created with one random pepper."""
    path = data_dir / "secrets" / "pepper.json"
    if not path.exists():
        create_private(path, json.dumps({"current": "p1", "peppers": {"p1": secrets.token_hex(32)}}))
    stored = json.loads(path.read_text(encoding="utf-8"))
    by_id = {name: Pepper(name, bytes.fromhex(value)) for name, value in stored["peppers"].items()}
    return Peppers(by_id[stored["current"]], by_id)
