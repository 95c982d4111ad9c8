"""Usage as CSV (RFC 4180): one line per row of the answer, or one of totals where nothing was grouped."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from billing.usage import UsageQuery

# A spreadsheet takes a cell that begins with one of these for a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def usage_csv(query: UsageQuery, answer: Mapping[str, Any]) -> bytes:
    """The bytes of `answer`, which is that of `billing.usage.usage` to `query`; UTF-8, with a header."""
    groups = query.groups
    names = [*groups, *query.measures]
    rows = answer["rows"] if groups else [answer["totals"]]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([[_cell(row[name]) for name in names] for row in rows])
    return text.getvalue().encode("utf-8")


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" 　").startswith(_FORMULA) else value
