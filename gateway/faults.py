"""The one catalogue of errors: a stable code, an HTTP status, an outcome, and texts in Japanese and English.

    Fault          one refusal or failure of one request, raised anywhere on the request's way
      .code        its entry in `CATALOGUE` (stable for clients; texts may improve, codes never change)
      .internal    what only the operator's log may see

Each dialect renders a fault in its own shape; see `gateway.edge.openai`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import yaml

from billing.types import Outcome

Language = Literal["ja", "en"]


@dataclass(frozen=True, slots=True)
class Code:
    """One entry of the catalogue. Texts may name `{placeholders}` that the raiser fills."""

    name: str
    status: int
    outcome: Outcome
    type: str
    en: str
    ja: str
    cure_en: str
    cure_ja: str


class Fault(Exception):
    """A request ends here, with `code`. `param` names the field at fault in dotted form (`messages[0].content`)."""

    def __init__(
        self,
        code: str,
        *,
        param: str | None = None,
        rule: str | None = None,
        licence: str | None = None,
        internal: str = "",
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        **values: object,
    ) -> None:
        super().__init__(code, internal)
        self.code = CATALOGUE[code]
        self.param = param
        self.rule = rule
        self.licence = licence
        self.internal = internal
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
        self.values = {"param": param or "", **values}

    def text(self, language: Language) -> str:
        """What went wrong, for a person."""
        template = self.code.ja if language == "ja" else self.code.en
        return template.format_map(_Known(self.values))

    def cure(self, language: Language) -> str:
        """What the person can do about it."""
        template = self.code.cure_ja if language == "ja" else self.code.cure_en
        return template.format_map(_Known(self.values))


class _Known(dict[str, object]):
    """Placeholders that the raiser did not fill stay empty: an error must never fail to be told."""

    def __missing__(self, key: str) -> str:
        return ""


def language_of(accept_language: str) -> Language:
    """`ja` or `en` from an `Accept-Language` header (RFC 9110 §12.5.4): the one with the higher quality, else `en`."""
    best: Language = "en"
    best_quality = 0.0
    for part in accept_language.split(","):
        tag, _, parameters = part.strip().partition(";")
        primary = tag.split("-")[0].lower()
        if primary not in ("ja", "en"):
            continue
        quality = _quality(parameters)
        if quality > best_quality:
            best, best_quality = ("ja" if primary == "ja" else "en"), quality
    return best


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _load() -> Mapping[str, Code]:
    entries = yaml.safe_load(resources.files("gateway").joinpath("faults.yaml").read_text(encoding="utf-8"))
    return {
        name: Code(name=name, **{**fields, "outcome": Outcome(fields["outcome"])}) for name, fields in entries.items()
    }


CATALOGUE: Mapping[str, Code] = _load()
