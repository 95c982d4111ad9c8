"""PDF: what the law asks for is on the page, readable, in the package's typeface, and nothing in a name is markup."""

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pypdfium2 as pdfium
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from billing.exports import glyphs, pdf
from billing.exports.page import page
from billing.exports.wording import Language, words
from billing.invoices.types import Invoice
from tests.billing.exports.invoices import (
    ALL,
    BOTH_RATES,
    CREDIT_NOTE,
    DRAFT,
    ISSUER,
    LONG,
    ORDINARY,
    PREPAID,
    RECIPIENT,
    ZERO,
    a_line,
    an_invoice,
)  # fmt: skip

SCALE = 2.0
MARKUP = '#import "x": * $x^2$ *bold* _it_ `raw` <label> @ref \\ "q" \'s\' [b] {c} // /* #panic()'


@cache
def document(invoice: Invoice, language: Language) -> bytes:
    return pdf.render(invoice, language)


def text_of(invoice: Invoice, language: Language, number: int | None = None) -> str:
    """The text of a page or of all, without white space: letters of titles stand apart."""
    opened = pdfium.PdfDocument(document(invoice, language))
    pages = range(len(opened)) if number is None else [number]
    return re.sub(r"[\s\u200b\ufffe]", "", "".join(opened[index].get_textpage().get_text_range() for index in pages))


def picture_of(invoice: Invoice, language: Language) -> Image.Image:
    picture: Image.Image = pdfium.PdfDocument(document(invoice, language))[0].render(scale=SCALE).to_pil()
    return picture.convert("L")


def ink(invoice: Invoice, language: Language, wanted: str) -> list[float]:
    """Share of dark pixels under each character of `wanted`, where it stands on the first page."""
    first = pdfium.PdfDocument(document(invoice, language))[0]
    texts, picture = first.get_textpage(), picture_of(invoice, language)
    start = texts.get_text_range().index(wanted)
    shares = []
    for index in range(start, start + len(wanted)):
        left, bottom, right, top = texts.get_charbox(index, loose=True)
        height = first.get_height()
        box = [int(value * SCALE) for value in (left, height - top, right, height - bottom)]
        cut = picture.crop((box[0], box[1], box[2] + 1, box[3] + 1))
        shares.append(sum(cut.histogram()[:160]) / (cut.width * cut.height))
    return shares


@pytest.mark.parametrize("language", ["ja", "en"])
@pytest.mark.parametrize("name", ALL)
def test_qualified_invoice_has_every_field_that_the_law_asks_for(name: str, language: Language) -> None:
    invoice = ALL[name]
    text = text_of(invoice, language)
    texts = words(language)
    period = "2026年10月1日〜2026年10月31日" if language == "ja" else "2026-10-01to2026-10-31"
    wanted = [
        ISSUER.name, ISSUER.registration_number, invoice.recipient.name, period, texts["title"][invoice.kind.value],
        invoice.number,
    ]  # fmt: skip
    for tax in invoice.taxes:  # total per rate with the rate, tax per rate
        wanted += [f"{tax.tax_permille // 10}%", f"¥{tax.taxable_yen:,}", f"¥{tax.tax_yen:,}"]
    wanted += [f"¥{amount:,}" for amount in (invoice.subtotal_yen, invoice.total_yen, invoice.payable_yen)]
    wanted += [f"¥{line.yen:,}" for line in invoice.lines]
    for value in wanted:
        assert re.sub(r"\s", "", value) in text
    if language == "ja":
        assert "御中" in text


def test_reduced_rate_is_marked_on_the_line_and_explained() -> None:
    text = text_of(BOTH_RATES, "ja")
    assert "災害備蓄パンパッケージ※" in text
    assert "※印は軽減税率（8%）の対象です。" in text
    assert "8%対象（軽減税率）¥1,080¥86" in text and "10%対象¥315¥31" in text
    assert "※" not in text_of(ORDINARY, "ja")


def test_credit_note_names_the_original_with_both_dates() -> None:
    text = text_of(CREDIT_NOTE, "ja")
    for value in (
        "適格返還請求書",
        "返還日2026年11月20日",
        "元の請求書番号2026-10-000042",
        "元の請求書の発行日2026年11月2日",
        "元の取引年月日2026年10月1日〜2026年10月31日",
        CREDIT_NOTE.reason,
        "一部",
    ):
        assert value in text
    assert "お振込先" not in text and "支払期日" not in text
    assert "Originalinvoice2026-10-000042" in text_of(CREDIT_NOTE, "en")


def test_prepaid_credit_is_deducted_in_sight() -> None:
    assert "前払残高からの充当-¥100,000ご請求額¥823,030" in text_of(PREPAID, "ja")


def test_nothing_to_pay_asks_for_no_transfer() -> None:
    assert "お振込先" in text_of(ORDINARY, "ja")
    assert "お振込先" not in text_of(ZERO, "ja")


@pytest.mark.parametrize(("language", "mark"), [("ja", "下書き"), ("en", "DRAFT")])
def test_draft_carries_a_watermark_on_every_page(language: Language, mark: str) -> None:
    draft = replace(LONG, number="", state="draft")
    pages = len(pdfium.PdfDocument(document(draft, language)))
    assert all(mark in text_of(draft, language, number) for number in range(pages))
    assert mark not in text_of(ORDINARY, language)
    red = pdfium.PdfDocument(document(DRAFT, language))[0].render(scale=1).to_pil().convert("RGB")
    assert sum(1 for r, g, b in red.get_flattened_data() if r > g + 20 and r > b + 20) > 5_000


def test_long_invoice_repeats_its_header_and_counts_its_pages() -> None:
    opened = pdfium.PdfDocument(document(LONG, "ja"))
    pages = len(opened)
    assert pages > 4
    for number in range(pages):
        assert f"{number + 1}/{pages}" in text_of(LONG, "ja", number)
    for number in range(pages - 1):
        assert "内容数量単価（税抜）税率金額（税抜）" in text_of(LONG, "ja", number)
    assert f"ご請求額¥{LONG.payable_yen:,}" in text_of(LONG, "ja", pages - 1)


@pytest.mark.parametrize(
    ("wanted", "language"), [("髙島屋計測", "ja"), ("御中", "ja"), ("登録番号", "ja"), ("¥14,815", "en")]
)
def test_characters_are_drawn_and_are_not_empty_boxes(wanted: str, language: Language) -> None:
    shares = ink(ORDINARY, language, wanted)
    assert all(share > 0.02 for share in shares)


def test_characters_differ_from_each_other_in_the_picture() -> None:
    # Empty boxes all look the same; real characters do not.
    shares = ink(an_invoice(a_line(1), recipient=replace(RECIPIENT, name="一二三龍鬱凸")), "ja", "一二三龍鬱凸")
    assert len({round(share, 2) for share in shares}) == 6


def test_only_the_typeface_of_the_package_is_used_and_it_is_embedded() -> None:
    data = document(BOTH_RATES, "ja")
    fonts = set(re.findall(rb"/BaseFont\s*/([A-Za-z0-9+\-]+)", data))
    assert fonts and all(b"IPAexGothic" in font for font in fonts)
    assert b"/FontFile2" in data or b"/FontFile3" in data


def test_same_invoice_gives_the_same_bytes_dated_as_issued() -> None:
    first, second = pdf.render(ORDINARY, "ja"), pdf.render(ORDINARY, "ja")
    assert first == second
    metadata = pdfium.PdfDocument(first).get_metadata_dict()
    assert metadata["CreationDate"].startswith("D:20261102000000")
    assert (metadata["Author"], metadata["Title"]) == (ISSUER.name, "請求書 2026-10-000042")


def test_markup_in_names_is_printed_as_it_is() -> None:
    hostile = replace(
        ORDINARY,
        issuer=replace(ISSUER, name=MARKUP, address=MARKUP, bank_account=MARKUP),
        recipient=replace(RECIPIENT, name=MARKUP, address=MARKUP),
        lines=tuple(replace(line, model=MARKUP, tier=MARKUP) for line in ORDINARY.lines),
        reason=MARKUP,
    )
    assert text_of(hostile, "ja").count(re.sub(r"\s", "", MARKUP)) == 6 + 2 * len(ORDINARY.lines)


@pytest.mark.parametrize("name", ["X" * 300, "長" * 300, "Ab " * 100])
def test_name_of_300_characters_stays_on_the_page(name: str) -> None:
    invoice = replace(
        ORDINARY,
        recipient=replace(RECIPIENT, name=name),
        lines=(replace(ORDINARY.lines[0], model=name), *ORDINARY.lines[1:]),
    )
    assert text_of(invoice, "ja").count(re.sub(r"\s", "", name)) == 2
    opened = pdfium.PdfDocument(document(invoice, "ja"))
    for number in range(len(opened)):
        texts, width = opened[number].get_textpage(), opened[number].get_width()
        boxes = [texts.get_rect(index) for index in range(texts.count_rects())]
        assert boxes and all(left >= 0 and right <= width for left, _, right, _ in boxes)


def test_direction_marks_are_left_out_and_missing_characters_are_named() -> None:
    invoice = replace(ORDINARY, recipient=replace(RECIPIENT, name="A\u202eB\u200f\ud800𠮷野😀"))
    text = text_of(invoice, "ja")
    assert "AB〓野〓" in text
    assert "「〓」は書体にない文字です:U+20BB7,U+1F600" in text


def test_old_forms_of_characters_in_names_stay() -> None:
    assert glyphs.printable("\ufa19\ufa11髙") == ("\ufa19\ufa11髙", [])  # not made into 神 and 崎
    assert glyphs.printable("か\u3099")[0] == "が"


def test_coverage_is_that_of_the_font_file() -> None:
    assert len(glyphs.covered()) == 11_999
    assert ord("鬱") in glyphs.covered() and ord("𠮷") not in glyphs.covered()


@settings(max_examples=2_000, deadline=None)
@given(st.text(max_size=200))
def test_whatever_a_name_holds_only_covered_characters_reach_the_page(name: str) -> None:
    shown, lost = glyphs.printable(name)
    assert {ord(character) for character in shown} - {0x200B, 0x20} <= glyphs.covered()
    assert all(ord(character) not in glyphs.covered() for character in lost)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["ja", "en"]))
def test_any_text_can_be_set(name: str, language: Any) -> None:
    invoice = an_invoice(a_line(1, model=name, tier=name), recipient=replace(RECIPIENT, name=name), reason=name)
    assert pdf.render(invoice, language).startswith(b"%PDF-")


def test_both_languages_have_the_same_texts() -> None:
    def shape(value: Any) -> Any:
        return {key: shape(entry) for key, entry in value.items()} if isinstance(value, dict) else type(value)

    assert shape(words("ja")) == shape(words("en"))
    assert yaml.safe_load("a: 1")  # the texts are plain YAML


@pytest.mark.parametrize(("count", "unit"), [(1, "1 unit hour"), (2, "2 unit hours")])
def test_one_is_not_written_as_many(count: int, unit: str) -> None:
    line = a_line(1, kind="provisioned", quantity=count, unit="unit_hour", unit_price=900, per=1)
    cells = page(an_invoice(line), "en")["lines"][0]
    assert cells[2:4] == [unit, "¥900/unit hour"]
