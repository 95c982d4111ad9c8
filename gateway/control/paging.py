"""Pages of a list: `?limit=…&after=…`, where `after` is the id that the last page ended at."""

from typing import Any

from pydantic import Field

from gateway.control import fields as f
from gateway.control.forms import Form
from gateway.control.store import Row
from gateway.control.tables import Page, Table
from gateway.faults import Fault

LIMIT_MAX = 1_000


class Paging(Form):
    """The query of a list."""

    limit: int = Field(default=100, ge=1, le=LIMIT_MAX)
    after: f.Text = ""

    def page(self, table: Table, **where: str) -> Page:
        """The page of `table` with the values `where`. Raises `Fault` when `after` is no id of it."""
        return Page(where, _cursor(table, self.after) if self.after else (), self.limit)

    def answer(self, table: Table, rows: list[Row]) -> dict[str, Any]:
        """The rows, and where the next page begins."""
        return {"data": rows, "next": table.object_id(rows[-1]) if len(rows) == self.limit else None}


def _cursor(table: Table, text: str) -> tuple[Any, ...]:
    parts = text.split("/")
    if len(parts) != len(table.key):
        raise Fault("invalid_value", param="after", detail=f"an id such as {'/'.join(table.key)}")
    try:
        return tuple(
            int(part) if table.columns[column] == "int" else part for column, part in zip(table.key, parts, strict=True)
        )
    except ValueError:
        raise Fault("invalid_value", param="after", detail="an id of the list") from None
