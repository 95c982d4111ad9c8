"""What can be wrong with a licence: a stable code for each cause, with texts in Japanese and English.

Finding        one thing that is wrong, raised by everything that reads, verifies or admits a licence
  .code        its entry in `FINDINGS`
  .path        the field, dotted (`grants[0].models[1]`); '' is the whole
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from gateway.faults import Language


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the catalogue. Texts may name `{path}` and `{detail}`."""

    code: str
    en: str
    ja: str
    cure_en: str
    cure_ja: str


def _load() -> Mapping[str, Entry]:
    text = resources.files("gateway.licensing").joinpath("findings.yaml").read_text(encoding="utf-8")
    return {code: Entry(code, **texts) for code, texts in yaml.safe_load(text).items()}


FINDINGS: Mapping[str, Entry] = _load()
_WHOLE = {"en": "the whole", "ja": "全体"}


class Finding(Exception):
    """A licence cannot be accepted. `detail` is what was seen at `path`, for a person who knows the document."""

    def __init__(self, code: str, path: str = "", detail: str = "") -> None:
        super().__init__(code, path, detail)
        self.code = FINDINGS[code].code
        self.path = path
        self.detail = detail

    def text(self, language: Language) -> str:
        """What is wrong, for a person."""
        entry = FINDINGS[self.code]
        return self._filled(entry.ja if language == "ja" else entry.en, language)

    def cure(self, language: Language) -> str:
        """What the person can do about it."""
        entry = FINDINGS[self.code]
        return self._filled(entry.cure_ja if language == "ja" else entry.cure_en, language)

    def _filled(self, template: str, language: Language) -> str:
        # Not str.format: a document's own text may hold braces.
        return template.replace("{path}", self.path or _WHOLE[language]).replace("{detail}", self.detail)
