"""The formats by name."""

from dataclasses import replace

from billing.exports.registry import FORMATS
from tests.billing.exports.invoices import DRAFT, ORDINARY


def test_every_format_renders_and_says_how_it_is_sent() -> None:
    starts = {"pdf": b"%PDF-", "csv": b"\xef\xbb\xbf", "json": b"{", "pint": b"<?xml", "focus": b"AvailabilityZone,"}
    assert {name: entry.render(ORDINARY, "en")[: len(starts[name])] for name, entry in FORMATS.items()} == starts
    assert {name: entry.filename(ORDINARY) for name, entry in FORMATS.items()} == {
        "pdf": "2026-10-000042.pdf", "csv": "2026-10-000042.csv", "json": "2026-10-000042.json",
        "pint": "2026-10-000042.xml", "focus": "2026-10-000042.focus.csv",
    }  # fmt: skip
    assert all(entry.media_type.split(";")[0].count("/") == 1 for entry in FORMATS.values())


def test_language_changes_the_worded_formats_only() -> None:
    for entry in FORMATS.values():
        assert (entry.render(ORDINARY, "ja") != entry.render(ORDINARY, "en")) is entry.worded


def test_filename_holds_nothing_that_a_header_or_a_path_minds() -> None:
    assert FORMATS["pdf"].filename(replace(ORDINARY, number='../A"\r\n號/1')) == "---A-----1.pdf"
    assert FORMATS["pdf"].filename(DRAFT) == "draft-2026-10.pdf"
