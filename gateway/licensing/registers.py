"""The registers: the codes of actions, purposes, data classes, regions and tiers that a licence may name.

They are versioned data (`registers.yaml`), not constants: a code that is not in them denies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import yaml

from gateway.faults import Language

Dimension = Literal["actions", "purposes", "data_classes", "regions", "tiers"]
DIMENSIONS: tuple[Dimension, ...] = ("actions", "purposes", "data_classes", "regions", "tiers")


@dataclass(frozen=True, slots=True)
class Registers:
    """The known codes at one version of the registers; `titles` are what people read: dimension → code → language."""

    version: str
    actions: frozenset[str]
    purposes: frozenset[str]
    data_classes: frozenset[str]
    regions: frozenset[str]
    tiers: frozenset[str]
    titles: Mapping[Dimension, Mapping[str, Mapping[Language, str]]] = field(default_factory=dict, compare=False)

    def codes(self, dimension: Dimension) -> frozenset[str]:
        """The codes of one dimension."""
        codes: frozenset[str] = getattr(self, dimension)
        return codes

    def title(self, dimension: Dimension, code: str, language: Language) -> str:
        """The name of `code` for a person; the code itself where the register has none."""
        return self.titles.get(dimension, {}).get(code, {}).get(language, code)


def parse_registers(text: str) -> Registers:
    """Registers from their YAML text. Raises `KeyError` when a dimension is missing."""
    data: dict[str, Any] = yaml.safe_load(text)
    titles: dict[Dimension, Any] = {dimension: data[dimension] for dimension in DIMENSIONS}
    return Registers(data["version"], **{name: frozenset(codes) for name, codes in titles.items()}, titles=titles)


REGISTERS = parse_registers(resources.files("gateway.licensing").joinpath("registers.yaml").read_text(encoding="utf-8"))
