"""The catalogue of errors: complete in both languages, in the documentation, and rendered in the dialect."""

import json
from pathlib import Path

import pytest

from gateway.edge.openai import error_body
from gateway.faults import CATALOGUE, Fault, language_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
STATUS = {
    "refused_invalid": {400, 404, 405, 408, 409, 413, 415, 422, 431}, "refused_auth": {401, 403},
    "refused_licence": {403}, "refused_quota": {429}, "refused_rate": {429}, "refused_capacity": {503},
    "upstream_failed": {502},
    "upstream_timeout": {504}, "internal": {500}, "client_gone": {499}, "revoked": {403},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_code_is_complete_and_documented(name: str) -> None:
    code = CATALOGUE[name]
    assert code.name == name
    assert code.status in STATUS[code.outcome]
    for text in (code.en, code.cure_en):
        assert text.isascii() or "…" in text
    for text in (code.ja, code.cure_ja):
        assert any("぀" <= character <= "ヿ" for character in text), text
    row = f"| {code.status} | `{name}` | {code.outcome} | {code.en} — {code.cure_en} | {code.ja}{code.cure_ja} |"
    assert row in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_error_is_rendered_with_rule_licence_and_cure() -> None:
    fault = Fault("action_not_licensed", rule="lic/g1", licence="lic@2", action="chat")
    error = json.loads(error_body(fault, "ja", "req-1"))["error"]
    assert error["code"] == "action_not_licensed"
    assert "chat" in error["message"]
    assert (error["rule"], error["licence"], error["request_id"]) == ("lic/g1", "lic@2", "req-1")
    assert error["cure"].endswith("。")


def test_placeholder_that_nobody_filled_does_not_hide_the_error() -> None:
    assert Fault("insufficient_quota").text("en")


def test_braces_in_a_clients_text_are_only_text() -> None:
    assert "{0.__class__}" in Fault("unknown_parameter", param="{0.__class__}").text("en")


@pytest.mark.parametrize(
    ("header", "language"),
    [("", "en"), ("ja", "ja"), ("ja-JP,en;q=0.8", "ja"), ("en,ja;q=0.9", "en"), ("en;q=0.1, ja;q=0.2", "ja"),
     ("fr, de;q=0.5", "en"), ("ja;q=0", "en"), ("ja;q=x", "en"), (";;;,,", "en")],
)  # fmt: skip
def test_language_follows_the_header(header: str, language: str) -> None:
    assert language_of(header) == language
