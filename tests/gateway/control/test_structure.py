"""What the admin plane is built like: SQL stands in the stores only."""

import re
from pathlib import Path

import gateway.control

FOLDER = Path(gateway.control.__file__).parent
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\s+[a-zA-Z_{(*]")


def test_sql_stands_in_stores_only() -> None:
    with_sql = {file.name for file in FOLDER.glob("*.py") if SQL.search(file.read_text(encoding="utf-8"))}
    assert with_sql
    assert all("store" in name for name in with_sql), with_sql


def test_no_two_locks_of_the_book_have_one_number() -> None:
    numbers = [
        number
        for file in FOLDER.parent.rglob("*.py")
        for number in re.findall(r"_LOCK = (0x[0-9A-Fa-f_]+)", file.read_text(encoding="utf-8"))
    ]
    assert len(numbers) >= 3
    assert len(set(numbers)) == len(numbers)
