"""Values that the stores of limits share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Mode:
    """Where limits are kept: in Valkey, or in the book while Valkey is away. Each change begins a `generation`, whose
    `name` is in all its keys; `run` is the run of Valkey in which it began ('' for the book)."""

    kind: Literal["valkey", "book"]
    generation: int
    name: str
    run: str


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a hold: what was used in fact (0 for a request that is charged with nothing); or what is to be held
    from now on."""

    request_id: str
    tenant_id: str
    period: str
    tokens: int
    micro_yen: int


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """A hold as it is stored. `held_at` in seconds since the epoch, by the store's clock; `levels` by name."""

    request_id: str
    tenant_id: str
    period: str
    instance_id: str
    held_at: int
    levels: Sequence[str]

    @property
    def key_id(self) -> str:
        """The credential that asked; '' when no level names it."""
        return next((name.removeprefix("key:") for name in self.levels if name.startswith("key:")), "")


class Unknown(Exception):
    """The store does not know the generation: a new one has begun, or must begin."""
