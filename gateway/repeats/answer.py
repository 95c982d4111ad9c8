"""An answer that is kept under a key: what of it, how much, and sealed how."""

from dataclasses import dataclass

import msgspec

from gateway.repeats.store import KeyClaim
from gateway.tenancy.keystore import Sealed, TenantKey, TenantKeys, opened

ANSWER_BYTES_MAX = 1024 * 1024
# Of all requests of a process together: what does not fit is delivered, and not kept.
RECORDED_BYTES_MAX = 64 * 1024 * 1024
_PURPOSE = "idempotency-answer"


class KeptAnswer(msgspec.Struct, frozen=True):
    """What was sent: `body` is the JSON of a whole answer, or all events of a stream as they stood on the wire.
    `request_id` and `region` are those of the request that was charged."""

    request_id: str
    region: str
    stream: bool
    body: bytes


@dataclass(slots=True)
class Room:
    """How many bytes a process may still record."""

    left: int = RECORDED_BYTES_MAX


class Recording:
    """The bytes of one answer while it is sent; given up for good when there are too many of them."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self._size = 0
        self.overflown = False

    def add(self, part: bytes) -> None:
        """Another part was, or is about to be, sent."""
        if self.overflown:
            return
        if self._size + len(part) > ANSWER_BYTES_MAX or len(part) > self._room.left:
            self.drop()
            self.overflown = True
            return
        self._parts.append(part)
        self._size += len(part)
        self._room.left -= len(part)

    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)

    def drop(self) -> None:
        """Forget what was recorded."""
        self._room.left += self._size
        self._parts, self._size = [], 0


def sealed(answer: KeptAnswer, key: TenantKey, claim: KeyClaim) -> bytes:
    """The answer under the tenant's key; it opens for this key of this tenant and this request only."""
    text = msgspec.msgpack.encode(answer)
    return key.seal(_PURPOSE, text, _context(claim.tenant_id, claim.key_hash, claim.request_id))


def unsealed(stored: bytes, keys: TenantKeys, tenant_id: str, key_hash: bytes, request_id: str) -> KeptAnswer | None:
    """The answer; None when the tenant's key was destroyed."""
    try:
        text = opened(keys, tenant_id, _PURPOSE, stored, _context(tenant_id, key_hash, request_id))
        return msgspec.msgpack.decode(text, type=KeptAnswer)
    except (Sealed, msgspec.DecodeError):
        return None


def _context(tenant_id: str, key_hash: bytes, request_id: str) -> bytes:
    return f"{tenant_id}\0{key_hash.hex()}\0{request_id}".encode("ascii")
