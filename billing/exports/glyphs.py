"""Text that the document's typeface can show.

The PDF is set in one typeface that is part of the package, so it looks the same everywhere. A character that the
typeface lacks would come out as an empty box; here it becomes the geta mark 〓, as Japanese printers do, and the
document names it.
"""

import re
import struct
import unicodedata
from functools import cache
from pathlib import Path

FONT = Path(__file__).parent / "fonts" / "ipaexg.ttf"
GETA = "〓"
_BREAK = "\N{ZERO WIDTH SPACE}"
_UNBROKEN_MAX = 24

# Kana and letters with marks of their own, as some file systems write them. The whole text is not normalised: that
# would turn the old forms of characters in names (U+FA19) into the common ones.
_MARKED = re.compile(r".[\u0300-\u036f\u3099\u309a]+")


@cache
def covered() -> frozenset[int]:
    """The code points of the typeface: groups of `cmap` format 12 (OpenType specification, "cmap")."""
    data = FONT.read_bytes()
    tables = struct.unpack_from(">H", data, 4)[0]
    start = next(
        offset for tag, _, offset, _ in struct.iter_unpack(">4sIII", data[12 : 12 + 16 * tables]) if tag == b"cmap"
    )
    found: set[int] = set()
    for record in range(struct.unpack_from(">H", data, start + 2)[0]):
        subtable = start + struct.unpack_from(">I", data, start + 4 + 8 * record + 4)[0]
        if struct.unpack_from(">H", data, subtable)[0] != 12:
            continue
        groups = struct.unpack_from(">I", data, subtable + 12)[0]
        for first, last, _ in struct.iter_unpack(">III", data[subtable + 16 : subtable + 16 + 12 * groups]):
            found.update(range(first, last + 1))
    return frozenset(found)


def printable(text: str) -> tuple[str, list[str]]:
    """`text` as it can be set, and the characters that had to be replaced, each once.

    White space becomes one space; controls, direction marks, joiners and variation selectors are left out, since they
    could only change how other characters look. Long words may break anywhere.
    """
    shown: list[str] = []
    lost: dict[str, None] = {}
    for character in " ".join(_MARKED.sub(_composed, text).split()):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Co") or _selects_a_variant(character):
            continue
        if ord(character) not in covered():
            lost[character] = None
            character = GETA
        shown.append(character)
    return _breakable("".join(shown)), list(lost)


def _composed(marked: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", marked.group())


def _selects_a_variant(character: str) -> bool:
    return "\N{VARIATION SELECTOR-1}" <= character <= "\N{VARIATION SELECTOR-16}" or (
        "\N{VARIATION SELECTOR-17}" <= character <= "\N{VARIATION SELECTOR-256}"
    )


def _breakable(text: str) -> str:
    """Words of Latin letters do not break by themselves; a name of 300 of them would leave the page."""
    return " ".join(
        _BREAK.join(word[start : start + _UNBROKEN_MAX] for start in range(0, len(word), _UNBROKEN_MAX))
        for word in text.split(" ")
    )


def names(characters: list[str]) -> str:
    """Code points, for the note that explains 〓."""
    return ", ".join(f"U+{ord(character):04X}" for character in characters)
