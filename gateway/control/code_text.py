"""A plan in words, Japanese or English: what is made, changed and ended, and what is only in the book."""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.faults import Language

_SIGNS = {"create": "+", "update": "~", "revoke": "-", "retire": "-", "drift": "!", "not_in_files": "?"}
_EFFECTS: Mapping[str, Mapping[Language, str]] = {
    "create": {"en": "to create", "ja": "作成"},
    "update": {"en": "to change", "ja": "変更"},
    "revoke": {"en": "to revoke", "ja": "失効"},
    "retire": {"en": "to retire", "ja": "廃止"},
    "unchanged": {"en": "unchanged", "ja": "変更なし"},
    "drift": {"en": "drifted", "ja": "差異"},
    "not_in_files": {"en": "not in files (left as they are)", "ja": "ファイルにないもの（そのまま残ります）"},
}
_NOTHING: Mapping[Language, str] = {"en": "nothing", "ja": "なし"}
_VALUE_CHARS_MAX = 120


def diff_lines(answer: Mapping[str, Any], language: Language) -> Iterator[str]:
    """The lines of an answer of `/plan` or `/apply`."""
    for change in answer["changes"]:
        sign = _SIGNS.get(change["effect"])
        if sign is None:
            continue
        note = f": {change['note']}" if change["note"] else ""
        yield f"{sign} {change['kind']} {change['name']}{note}"
        yield from _fields(change)
    counts = [
        f"{count} {words[language]}" if language == "en" else f"{words[language]} {count}件"
        for effect, words in _EFFECTS.items()
        if (count := answer["summary"].get(effect))
    ]
    yield ", ".join(counts) or _NOTHING[language]
    yield f"plan digest {answer['plan_digest']}, epoch {answer['epoch']}"


def _fields(change: Mapping[str, Any]) -> Iterator[str]:
    for name, after in change["after"].items():
        if name in change["before"]:
            yield f"    {name}: {_shown(change['before'][name])} → {_shown(after)}"
        else:
            yield f"    {name}: {_shown(after)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        text = "[" + ", ".join(map(str, value)) + "]"
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= _VALUE_CHARS_MAX else text[:_VALUE_CHARS_MAX] + "…"
