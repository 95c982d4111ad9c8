"""The canonical audit record of one exchange, schema v1.

Integers and ASCII strings only, keys sorted, no white space: for such values these bytes equal RFC 8785. At most 600
bytes. Prompts and answers are never in it. How much of a prompt was images and audio is not in it either: the longest
record would not fit. The journal has it.
"""

import msgspec

from billing.types import Outcome

RECORD_BYTES_MAX = 600
_ENCODER = msgspec.json.Encoder(order="sorted")


class AuditRecord(msgspec.Struct, frozen=True):
    """One exchange. `at` in microseconds since the epoch; `micro_yen` the whole charge; `licence` is `<id>@<version>`
    and `rule` the grant's id within it, or the whole rule id where no licence decided."""

    request: str
    tenant: str
    key: str
    model: str
    action: str
    outcome: Outcome
    code: str
    http: int
    rule: str
    licence: str
    epoch: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    micro_yen: int
    source: str
    at: int
    verb: str = "request:settle"
    v: int = 1

    def canonical(self) -> str:
        """The bytes that are hashed, as ASCII text. Raises `ValueError` when a field is not ASCII or too long."""
        encoded = _ENCODER.encode(self)
        if len(encoded) > RECORD_BYTES_MAX or not encoded.isascii():
            raise ValueError(f"audit record of {self.request} is not {RECORD_BYTES_MAX} bytes of ASCII at most")
        return encoded.decode("ascii")
