"""A licence in words, Japanese or English, with what of it is enforced and what is not enforced yet."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.faults import Language
from gateway.licensing.document import GrantClause, LicenceDocument, Match
from gateway.licensing.registers import DIMENSIONS, Registers
from gateway.licensing.semantics import EVERY

# Kept and signed, and read by parts that are not built yet.
NOT_ENFORCED_YET = frozenset(
    {
        "validity.notice_days", "grants.redistribution", "grants.annex3_high_risk", "grants.priority",
        "grants.retention_days", "duties", "personal_data.handling_mode",
    }
)  # fmt: skip
# Facts of the contract that restrict nothing by themselves.
_FACTS = frozenset({"supersedes", "issuer", "licensee", "licensee.hojin_bangou", "contract_ref", "prohibitions.reason"})

_LABELS: dict[str, tuple[str, str]] = {
    "licence": ("Licence", "ライセンス"),
    "supersedes": ("replaces version", "置き換える版"),
    "issuer": ("issuer", "発行者"),
    "licensee": ("licensee", "被許諾者"),
    "licensee.hojin_bangou": ("corporate number", "法人番号"),
    "validity": ("in force", "有効期間"),
    "validity.grace_days": ("grace days", "猶予日数"),
    "validity.notice_days": ("notice days", "予告日数"),
    "contract_ref": ("contract", "契約書"),
    "parent": ("cut from", "再委託元"),
    "grants": ("Grant", "許諾"),
    "prohibitions": ("Prohibition", "禁止"),
    "models": ("models", "モデル"),
    "actions": ("actions", "操作"),
    "purposes": ("purposes", "目的"),
    "data_classes": ("data classes", "データ区分"),
    "regions": ("regions", "地域"),
    "tiers": ("tiers", "階層"),
    "grants.adapters": ("adapters", "アダプター"),
    "grants.redistribution": ("redistribution", "再配布"),
    "grants.annex3_high_risk": ("EU AI Act Annex III", "EU AI法 附属書III"),
    "grants.quota.rpm": ("requests per minute", "毎分リクエスト数"),
    "grants.quota.tpm": ("tokens per minute", "毎分トークン数"),
    "grants.quota.concurrency": ("at once", "同時実行数"),
    "grants.quota.tokens_month": ("tokens per month", "月間トークン数"),
    "grants.quota.yen_month_hard": ("yen per month, at most", "月額上限（円）"),
    "grants.quota.yen_month_soft": ("yen per month, warned at", "月額警告（円）"),
    "grants.priority": ("priority", "優先度"),
    "grants.rate_card": ("rate card", "料金表"),
    "grants.retention_days": ("kept for days", "保存日数"),
    "grants.zero_retention": ("zero retention", "保存なし"),
    "prohibitions.reason": ("reason", "理由"),
    "duties": ("duty", "義務"),
    "delegation": ("re-contracts allowed", "再委託の許可"),
    "ip.contributions": ("contributions", "提供データ"),
    "ip.exclusive": ("exclusive", "独占"),
    "personal_data.handling_mode": ("personal data", "個人データ"),
    "personal_data.processing_countries": ("processed in", "処理国"),
    "personal_data.training_use": ("training on personal data", "個人データの学習利用"),
}
_WORDS: dict[str, tuple[str, str]] = {
    "all": ("all", "すべて"),
    "none": ("none", "なし"),
    "yes": ("yes", "はい"),
    "no": ("no", "いいえ"),
    "version": ("version", "版"),
    "levels": ("levels down, to", "段まで、対象："),
    "any": ("any tenant", "任意のテナント"),
    "enforced": ("enforced", "適用中"),
    "not_yet": ("not enforced yet", "未適用"),
}

Row = tuple[int, str, str]
"""Indentation, field, value."""


def describe(document: LicenceDocument, registers: Registers, language: Language) -> str:
    """The licence for a person. Each field that restricts anything is marked as enforced or not enforced yet."""
    column = 1 if language == "ja" else 0
    lines = []
    for depth, field, value in _rows(document, registers, language):
        label = _LABELS[_label_of(field)][column]
        mark = "" if depth == 0 or field in _FACTS else _mark(field, column)
        lines.append(f"{'  ' * depth}{label}: {printable(value)}{mark}")
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """`text` without characters that move the cursor or turn the direction of writing on a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\u3000" else "\ufffd" for letter in text)


def _label_of(field: str) -> str:
    if field in _LABELS:
        return field
    return field.rpartition(".")[2]


def _mark(field: str, column: int) -> str:
    return f"  [{_WORDS['not_yet' if field in NOT_ENFORCED_YET else 'enforced'][column]}]"


def _rows(document: LicenceDocument, registers: Registers, language: Language) -> Iterator[Row]:
    column = 1 if language == "ja" else 0
    yield from _head(document, column)
    for grant in document.grants:
        yield 0, "grants", grant.id
        yield from _matched("grants", grant, registers, language)
        yield from _terms(grant, column)
    for prohibition in document.prohibitions:
        yield 0, "prohibitions", prohibition.id
        yield from _matched("prohibitions.match", prohibition.match, registers, language)
        yield 1, "prohibitions.reason", prohibition.reason
    yield from _tail(document, column)


def _head(document: LicenceDocument, column: int) -> Iterator[Row]:
    licensee, validity = document.licensee, document.validity
    yield 0, "licence", f"{document.licence_id}, {_WORDS['version'][column]} {document.version}"
    yield 1, "supersedes", str(document.supersedes or _WORDS["none"][column])
    yield 1, "issuer", document.issuer
    facts = (licensee.legal_name, licensee.licensee_class, licensee.role, licensee.country)
    yield 1, "licensee", f"{licensee.tenant} ({', '.join(facts)})"
    if licensee.hojin_bangou:
        yield 1, "licensee.hojin_bangou", licensee.hojin_bangou
    yield 1, "validity", f"{validity.not_before.isoformat()} – {validity.not_after.isoformat()}"
    yield 1, "validity.grace_days", str(validity.grace_days)
    yield 1, "validity.notice_days", str(validity.notice_days)
    if document.contract_ref is not None:
        reference = document.contract_ref
        yield 1, "contract_ref", f"SHA-256 {reference.doc_sha256}, {reference.signed_at.isoformat()}"
    if document.parent is not None:
        yield 1, "parent", f"{document.parent.licence_id}@{document.parent.version}"


def _matched(path: str, clause: GrantClause | Match, registers: Registers, language: Language) -> Iterator[Row]:
    every = _WORDS["all"][1 if language == "ja" else 0]
    yield 1, f"{path}.models", every if clause.models is None else ", ".join(clause.models)
    for dimension in DIMENSIONS:
        codes: Sequence[str] | None = getattr(clause, dimension)
        if codes is None or list(codes) == [EVERY]:
            yield 1, f"{path}.{dimension}", every
        else:
            named = (f"{code} ({registers.title(dimension, code, language)})" for code in codes)
            yield 1, f"{path}.{dimension}", ", ".join(named)


def _terms(grant: GrantClause, column: int) -> Iterator[Row]:
    yield 1, "grants.adapters", ", ".join(grant.adapters) or _WORDS["none"][column]
    for name in grant.quota.__struct_fields__:
        bound = getattr(grant.quota, name)
        if bound is not None:
            yield 1, f"grants.quota.{name}", f"{bound:,}"
    if grant.priority is not None:
        yield 1, "grants.priority", f"{grant.priority.priority_class}, {grant.priority.weight}"
    if grant.rate_card:
        yield 1, "grants.rate_card", grant.rate_card
    if grant.retention_days is not None:
        yield 1, "grants.retention_days", str(grant.retention_days)
    for name in ("zero_retention", "redistribution", "annex3_high_risk"):
        yield 1, f"grants.{name}", _yes(getattr(grant, name), column)


def _tail(document: LicenceDocument, column: int) -> Iterator[Row]:
    for duty in document.duties:
        yield 0, "duties", _text(duty) + _mark("duties", column)
    delegation = document.delegation
    to = ", ".join(delegation.to) or _WORDS["any"][column]
    depth = f"{delegation.max_depth} {_WORDS['levels'][column]} {to}" if delegation.allowed else _yes(False, column)
    yield 0, "delegation", depth + _mark("delegation", column)
    if document.ip.contributions:
        yield 0, "ip.contributions", ", ".join(document.ip.contributions) + _mark("ip.contributions", column)
    for item in document.ip.exclusive:
        stated = f"{item.model}, – {item.until.isoformat()}, {item.scope}, {item.basis}"
        yield 0, "ip.exclusive", stated + _mark("ip.exclusive", column)
    data = document.personal_data
    for field, value in (
        ("personal_data.handling_mode", data.handling_mode),
        ("personal_data.processing_countries", ", ".join(data.processing_countries)),
        ("personal_data.training_use", _yes(data.training_use, column)),
    ):
        yield 0, field, value + _mark(field, column)


def _yes(value: bool, column: int) -> str:
    return _WORDS["yes" if value else "no"][column]


def _text(duty: str | dict[str, Any]) -> str:
    return duty if isinstance(duty, str) else json.dumps(duty, ensure_ascii=False, sort_keys=True)
