"""The documented way of a request is the one the code walks."""

import ast
import inspect
import itertools
import re
import textwrap
from pathlib import Path

from gateway.edge.pipeline import Pipeline

DOCUMENT = Path(__file__).parents[2] / "docs" / "request-path.md"
NOT_STAGES = {"Exchange", "Fault", "fail", "exception", "body", "unwatch", "repr", "now", "leave", "repeat"}


def stages_of_the_code() -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Pipeline.serve)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0))
    names = [call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func) for call in calls]
    return [name for name in names if name not in NOT_STAGES]


def stages_of_the_diagram() -> list[str]:
    diagram = DOCUMENT.read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    return re.findall(r"^\s+(\w+)\[", diagram, re.MULTILINE)


def test_diagram_shows_the_stages_in_the_order_of_the_code() -> None:
    assert stages_of_the_diagram() == stages_of_the_code()


def test_every_arrow_leads_to_the_next_stage() -> None:
    stages = stages_of_the_diagram()
    diagram = DOCUMENT.read_text(encoding="utf-8")
    for here, there in itertools.pairwise(stages):
        assert re.search(rf"^\s+{here}\[.*\] --> {there}$", diagram, re.MULTILINE), (here, there)


def test_serve_fits_on_a_screen() -> None:
    assert len(inspect.getsource(Pipeline.serve).splitlines()) <= 40
