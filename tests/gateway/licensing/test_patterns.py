"""Model patterns: what they match, and that one is only said to cover another where it does."""

import itertools
import random

import pytest
from packaging.version import Version

from gateway.licensing.patterns import PatternError, RangeError, parse_pattern


@pytest.mark.parametrize(
    ("pattern", "model", "version", "matches"),
    [
        ("base", "base", "1.0.0", True),
        ("base", "base-1", "1.0.0", False),
        ("base-*", "base-", "1", True),
        ("base-*", "Base-1", "1", False),
        ("*", "any/thing:x", "0.0.1", True),
        ("*-chat", "base-chat", "1", True),
        ("b*7*t", "base-7b-chat", "1", True),
        ("base@>=1,<2", "base", "1.9.9", True),
        ("base@ >= 1 , < 2", "base", "2.0", False),
        ("base@==1.2", "base", "1.2.0.0", True),
        ("base@==1.2.*", "base", "1.2.9", True),
        ("base@==1.2.*", "base", "1.20", False),
        ("base@~=1.2", "base", "1.10", True),
        ("base@~=1.2", "base", "2.0", False),
        ("base@!=1.5.*", "base", "1.5.1", False),
    ],
)
def test_pattern_matches_names_and_versions(pattern: str, model: str, version: str, matches: bool) -> None:
    assert parse_pattern(pattern).matches(model, Version(version)) is matches


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "ba?e", "ba[s]e", "base!", "-base", "日本", "base\n", "x" * 129, "@1"]
)
def test_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(PatternError) as raised:
        parse_pattern(text)
    assert not isinstance(raised.value, RangeError)


@pytest.mark.parametrize(
    "text",
    ["b@", "b@1", "b@>=", "b@>=v1", "b@>=1.0a1", "b@>=1!1", "b@>=1+x", "b@>=01", "b@===1", "b@~=1", "b@<1.*", "b@>=1;",
     "b@>=1@2", "b@>=１", "b@" + ",".join([">=1"] * 17)],
)  # fmt: skip
def test_text_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(RangeError):
        parse_pattern(text)


def test_cover_of_names_is_exact_on_every_short_pattern() -> None:
    letters = "ab*"
    patterns = ["".join(item) for size in (1, 2, 3) for item in itertools.product(letters, repeat=size)]
    names = ["".join(item) for size in (1, 2, 3, 4, 5) for item in itertools.product("abc", repeat=size)]
    one = Version("1")
    parsed = {text: parse_pattern(text) for text in patterns}
    matched = {text: {name for name in names if parsed[text].matches(name, one)} for text in patterns}
    for outer in patterns:
        for inner in patterns:
            assert parsed[outer].covers(parsed[inner]) == (matched[inner] <= matched[outer]), (outer, inner)


def test_cover_of_ranges_never_exceeds_what_is_contained_and_misses_nothing_on_100_000_random_pairs() -> None:
    draw = random.Random(20_261_124)
    versions = [
        Version(".".join(map(str, parts))) for size in (1, 2, 3) for parts in itertools.product(range(4), repeat=size)
    ]
    versions += [Version(f"{version}.7") for version in versions] + [Version("9.9")]
    ranges = list({a_range(draw) for _ in range(450)})
    parsed = [parse_pattern(f"m@{text}") for text in ranges]
    contained = [
        frozenset(number for number, version in enumerate(versions) if pattern.matches("m", version))
        for pattern in parsed
    ]
    said = 0
    for _ in range(100_000):
        outer, inner = draw.randrange(len(ranges)), draw.randrange(len(ranges))
        covers = parsed[outer].covers(parsed[inner])
        assert covers == (contained[inner] <= contained[outer]), (ranges[outer], ranges[inner])
        said += covers
    assert 1_000 < said < 99_000


def a_range(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(1, 3)):
        operator = draw.choice(["~=", "==", "!=", "<=", ">=", "<", ">"])
        size = draw.randint(2 if operator == "~=" else 1, 3)
        number = ".".join(str(draw.randint(0, 3)) for _ in range(size))
        wildcard = ".*" if operator in ("==", "!=") and size < 3 and draw.random() < 0.5 else ""
        parts.append(f"{operator}{number}{wildcard}")
    return ",".join(parts)
