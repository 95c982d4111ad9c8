"""A document as it is kept: canonical JSON (sorted keys, no spaces, UTF-8) and its SHA-256."""

import hashlib
import json

import msgspec

from billing.invoices.types import Invoice

RECORD_BYTES_MAX = 65_536


def encode(invoice: Invoice) -> str:
    """The one text of a document: equal documents have equal bytes."""
    return msgspec.json.encode(invoice, order="sorted").decode()


def decode(text: str) -> Invoice:
    """The document of a text."""
    return msgspec.json.decode(text, type=Invoice)


def digest(text: str) -> bytes:
    """SHA-256 of a document's text."""
    return hashlib.sha256(text.encode()).digest()


def tax_record(invoice: Invoice) -> str:
    """What the tax log keeps of a new document: its number, amounts and digest. Nobody is named: the document is."""
    return json.dumps(
        {
            "v": 1,
            "verb": f"billing:{invoice.kind}:close",
            "object": invoice.number,
            "tenant": invoice.tenant_id,
            "period": invoice.period,
            "issued_on": invoice.issued_on.isoformat(),
            "corrects": invoice.corrects,
            "total_yen": invoice.total_yen,
            "payable_yen": invoice.payable_yen,
            "sha256": digest(encode(invoice)).hex(),
        },
        ensure_ascii=True, sort_keys=True, separators=(",", ":"),
    )  # fmt: skip
