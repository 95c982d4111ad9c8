"""Reads the published requirements model of FOCUS 1.2 and holds rows against it.

Only requirements that a machine can check are marked static in the model; all of those count here but the ones that say
MAY. A requirement applies to the rows that meet its own condition and those of the requirements that contain it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent / "focus" / "model-1.2.0.1.json"

NOT_OURS = frozenset({"CAPACITY_RESERVATION_SUPPORTED", "COMMITMENT_DISCOUNT_SUPPORTED"})
"""Features that we do not have; whatever else the model knows applies."""

DEFECTS = {
    "InvoiceId-C-004-C": "demands null for every row, as InvoiceId-C-005-C demands a value for every row",
    "ConsumedQuantity-C-006-C": "its condition is the opposite of its text",
}
"""Requirements whose condition contradicts their own text in the model 1.2.0.1."""

Row = dict[str, str]

_BINDING = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(E-?\d+)?")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_CURRENCY = re.compile("[A-Z]{3}")
_COUNT = r"[A-Za-z][A-Za-z0-9]*(?: [A-Za-z][A-Za-z0-9]*)*"
_INTERVAL = "(?:Year|Month|Day|Hour|Minute|Second)"
_UNIT = re.compile(rf"(?:\d+ )?{_COUNT}|{_COUNT}-{_INTERVAL}s|{_COUNT}/{_INTERVAL}")


@cache
def requirements() -> dict[str, Any]:
    rules: dict[str, Any] = json.loads(MODEL.read_text(encoding="utf-8"))["ModelRules"]
    return rules


def broken(rows: list[Row], names: Iterable[str]) -> set[str]:
    """Ids of the requirements that the table `rows` with the columns `names` breaks."""
    found: set[str] = set()
    _visit("CostAndUsage-D-000-M", rows, frozenset(names), rows, found)
    return found


def _visit(rule_id: str, rows: list[Row], names: frozenset[str], table: list[Row], found: set[str]) -> None:
    rule = requirements()[rule_id]
    criteria, requirement = rule["ValidationCriteria"], rule["ValidationCriteria"]["Requirement"]
    applies = rule["Type"] == "Static" and not NOT_OURS & set(rule["ApplicabilityCriteria"])
    if not applies or not requirement or rule_id in DEFECTS:
        return
    rows = [row for row in rows if _holds(_normal(criteria["Condition"]), row, names, table)]
    children = list(_children(requirement))
    for child in children:
        _visit(child, rows, names, table, found)
    kept = bool(children) or all(_holds(requirement, row, names, table) for row in rows)
    if not kept and criteria["Keyword"] in _BINDING:
        found.add(rule_id)


def _children(requirement: Any) -> Iterator[str]:
    items = requirement.get("Items", [requirement])
    yield from (item["ModelRuleId"] for item in items if item.get("CheckFunction") == "CheckModelRule")


def _normal(condition: Any) -> Any:
    """Some conditions of the model are written {"AND": …} instead of {"CheckFunction": "AND", "Items": …}."""
    if "AND" in condition:
        items = condition["AND"]
        return {"CheckFunction": "AND", "Items": items if isinstance(items, list) else [items]}
    return condition


def _holds(check: Any, row: Row, names: frozenset[str], table: list[Row]) -> bool:
    function = check.get("CheckFunction", "")
    if function in ("", "AND"):
        return all(_holds(item, row, names, table) for item in check.get("Items", ()))
    if function == "OR":
        return any(_holds(item, row, names, table) for item in check["Items"])
    if function == "ColumnPresent":
        return str(check["ColumnName"]) in names
    if function == "CheckDistinctCount":
        pairs = {(row[check["ColumnAName"]], row[check["ColumnBName"]]) for row in table}
        return len(pairs) == len({first for first, _ in pairs}) * int(check["ExpectedCount"])
    if function in ("CheckSameValue", "CheckNotSameValue"):
        return (row[check["ColumnAName"]] == row[check["ColumnBName"]]) is (function == "CheckSameValue")
    if function == "ColumnByColumnEqualsColumnValue":
        return _product(row, check)
    return _value(function, row[check.get("ColumnName") or "ChargeClass"], check)


def _product(row: Row, check: Any) -> bool:
    first, second, result = (row[check[name]] for name in ("ColumnAName", "ColumnBName", "ResultColumnName"))
    return "" in (first, second, result) or Decimal(first) * Decimal(second) == Decimal(result)


def _value(function: str, value: str, check: Any) -> bool:
    if function in ("CheckValue", "CheckNotValue"):
        return _same(value, check["Value"]) is (function == "CheckValue")
    if function == "CheckGreaterOrEqualThanValue":
        number = _decimal(value)
        return not value or (number is not None and number >= check["Value"])
    return not value or _FORMATS[function](value)


def _flat(value: str) -> bool:
    return all(not isinstance(item, dict | list) for item in json.loads(value).values())


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None


def _is_decimal(value: str) -> bool:
    # The validator reads a column of whole numbers as integers, which are no decimals to it.
    return _decimal(value) is not None and "." in value


def _is_text(value: str) -> bool:
    return value.isprintable() and bool(value.strip())


def _same(value: str, wanted: object) -> bool:
    if wanted is None:
        return value == ""
    if isinstance(wanted, str):
        return value == wanted
    return _decimal(value) == Decimal(str(wanted))


def _decimal(value: str) -> Decimal | None:
    try:
        return Decimal(value)
    except InvalidOperation:
        return None


_FORMATS: dict[str, Callable[[str], bool]] = {
    "TypeDecimal": _is_decimal,
    "CheckDecimalValue": _is_decimal,
    "FormatNumeric": _matches(_NUMBER),
    "TypeDateTime": _matches(_TIME),
    "FormatDateTime": _matches(_TIME),
    "CheckNationalCurrency": _matches(_CURRENCY),
    "FormatCurrency": _matches(_CURRENCY),
    "FormatUnit": _matches(_UNIT),
    "FormatKeyValue": _flat,
    "TypeString": _is_text,
    "FormatString": _is_text,
}
