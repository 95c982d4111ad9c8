"""`sekisho invoice`: preview a month, close it, look documents up, write them to files, correct one, rate one again."""

import argparse
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

from gateway.control.arguments import Parents, command, group, listing
from gateway.control.billing_forms import Format
from gateway.control.client import AdminClient, part
from gateway.control.terminal import language, put, say, say_rows, warn

# Longer than everything that a closing reads may take.
CLOSING_S_MAX = 3_600.0
_SEARCH = ("tenant", "period", "issued_from", "issued_to", "min_yen", "max_yen", "counterparty")
_HEAD = ("number", "kind", "issued_on", "tenant_id", "counterparty", "period", "total_yen", "payable_yen", "corrects")
_LINE = ("line", "model", "what", "quantity", "unit_price", "yen", "tax")


def register(commands: Any, parents: Parents) -> None:
    """Add the commands."""
    invoice = group(commands, "invoice", "invoices and credit notes")
    preview = command(invoice, "preview", _preview, "what a month costs as of now", parents)
    preview.add_argument("period", nargs="?", help="YYYY-MM; the running month of the tenant by default")
    preview.add_argument("--tenant", default="demo")
    _printing(preview, table=True)
    close = command(invoice, "close", _close, "close a month that is over: the invoice gets its number", parents)
    close.add_argument("period", help="YYYY-MM")
    close.add_argument("--tenant", required=True)
    show = command(invoice, "show", _show, "one document", parents)
    show.add_argument("number")
    _printing(show, table=True)
    _search(listing(command(invoice, "list", _list, "documents by day, amount and counterparty", parents)))
    export = command(invoice, "export", _export, "write documents to files", parents)
    export.add_argument("number", nargs="?", help="one document; else those that the search finds")
    _search(export)
    _printing(export, table=False)
    credit = command(invoice, "credit", _credit, "give money back by a credit note", parents)
    credit.add_argument("number")
    credit.add_argument("--reason", required=True)
    credit.add_argument(
        "--line", dest="lines", action="append", type=_line, metavar="LINE=YEN",
        help="yen without tax of one line; may be given again; all that is left by default",
    )  # fmt: skip
    rerate = command(invoice, "rerate", _rerate, "rate a closed month again: 0 every byte is the same, 1 not", parents)
    rerate.add_argument("number")


def _printing(parser: argparse.ArgumentParser, *, table: bool) -> None:
    forms = get_args(Format)
    parser.add_argument("--format", choices=("table", *forms) if table else forms, default="table" if table else "pdf")
    parser.add_argument("--lang", choices=("ja", "en"), default=language())
    parser.add_argument("--out", type=Path, help="a file" if table else "a file, or a folder for several documents")


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant")
    parser.add_argument("--period", help="YYYY-MM")
    parser.add_argument("--issued-from", type=date.fromisoformat, metavar="DAY")
    parser.add_argument("--issued-to", type=date.fromisoformat, metavar="DAY", help="inclusive")
    parser.add_argument("--min-yen", type=int)
    parser.add_argument("--max-yen", type=int)
    parser.add_argument("--counterparty", help="a part of the recipient's name")


def _line(text: str) -> dict[str, int]:
    line, _, yen = text.partition("=")
    return {"line": int(line), "yen": int(yen)}


def _preview(client: AdminClient, options: argparse.Namespace) -> int:
    tenant = part(options.tenant)
    period = options.period
    if period is None:
        period = datetime.now(ZoneInfo(client.get(f"/tenants/{tenant}")["zone"])).strftime("%Y-%m")
    return _print(client, options, f"/tenants/{tenant}/invoices/{part(period)}/preview")


def _show(client: AdminClient, options: argparse.Namespace) -> int:
    return _print(client, options, f"/invoices/{part(options.number)}")


def _print(client: AdminClient, options: argparse.Namespace, path: str) -> int:
    if options.format == "table":
        text = _table(client.get(path, format="json", lang=options.lang))
        if options.out is None:
            say(text)
        else:
            options.out.write_text(text + "\n", encoding="utf-8")
        return 0
    _save(client.file(path, format=options.format, lang=options.lang).body, options.out)
    return 0


def _save(body: bytes, out: Path | None) -> None:
    if out is None:
        put(body)
    else:
        out.write_bytes(body)
        warn(f"{out}: {len(body)} bytes")


def _close(client: AdminClient, options: argparse.Namespace) -> int:
    path = f"/tenants/{part(options.tenant)}/invoices/{part(options.period)}/close"
    say(client.post(path, within_s=CLOSING_S_MAX)["number"])
    return 0


def _credit(client: AdminClient, options: argparse.Namespace) -> int:
    body = {"reason": options.reason, **({"lines": options.lines} if options.lines else {})}
    say(client.post(f"/invoices/{part(options.number)}/credit", body)["number"])
    return 0


def _rerate(client: AdminClient, options: argparse.Namespace) -> int:
    again = client.get(f"/invoices/{part(options.number)}/rerate")
    if again["identical"]:
        say(f"identical {again['frozen']}")
        return 0
    say("invoice_differs")
    warn(f"sekisho: {options.number} was closed as {again['frozen']} and comes out as {again['now']}")
    return 1


def _list(client: AdminClient, options: argparse.Namespace) -> int:
    return say_rows(_found(client, options), _HEAD, as_json=options.json)


def _found(client: AdminClient, options: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/invoices", **{name: getattr(options, name) for name in _SEARCH})["data"]
    return found


def _export(client: AdminClient, options: argparse.Namespace) -> int:
    """One document to a file (or the standard output), or all that the search finds into a folder."""
    asked = {"format": options.format, "lang": options.lang}
    if options.number is not None:
        if any(getattr(options, name) is not None for name in _SEARCH):
            warn("sekisho: either a number or a search")
            return 2
        _save(client.file(f"/invoices/{part(options.number)}", **asked).body, options.out)
        return 0
    if options.out is None:
        warn("sekisho: --out names the folder that the documents go to")
        return 2
    rows = _found(client, options)
    options.out.mkdir(parents=True, exist_ok=True)
    for row in rows:
        file = client.file(f"/invoices/{part(row['number'])}", **asked)
        (options.out / file.name).write_bytes(file.body)
        say(file.name)
    return 0


def _table(document: Mapping[str, Any]) -> str:
    """A document for a terminal: who, what, how much."""
    period = document["period"]
    span = f"{period['first_day']} – {period['last_day']} ({period['zone']})"
    head = f"{document['kind']} {document['number'] or '(draft)'}, {span}"
    parties = f"{document['issuer']['name'] or '-'} → {document['recipient']['name']}"
    cells = [list(_LINE), *([str(cell) for cell in _cells(line)] for line in document["lines"])]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_LINE))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    taxes = [f"tax {_rate(tax)} of {tax['taxable_yen']}: {tax['tax_yen']}" for tax in document["taxes"]]
    sums = [f"{name.removesuffix('_yen')}: {document[name]}" for name in
            ("subtotal_yen", "tax_yen", "total_yen", "prepaid_yen", "payable_yen")]  # fmt: skip
    return "\n".join([head, parties, *table, *taxes, *sums])


def _cells(line: Mapping[str, Any]) -> tuple[object, ...]:
    what = " ".join(filter(None, (line["kind"], line["token_kind"], line["tier"])))
    price = f"{line['unit_price_yen']}/{line['per']}" if line["per"] != 1 else line["unit_price_yen"]
    return line["number"], line["model"] or "-", what, line["quantity"], price, line["yen"], _rate(line)


def _rate(taxed: Mapping[str, Any]) -> str:
    whole, tenth = divmod(taxed["tax_permille"], 10)
    return f"{whole}{f'.{tenth}' if tenth else ''}%{' (reduced)' if taxed['reduced'] else ''}"
