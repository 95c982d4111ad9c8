"""Progress lines."""

import io
import os

import pytest
from rich.console import Console

from gateway.up.steps import PlainSteps, RichSteps, say, step, steps_for


def test_plain_line_has_the_time_the_name_the_detail_and_the_duration() -> None:
    output = io.StringIO()
    with step(PlainSteps(output), "PostgreSQL") as current:
        current.detail = "18.4"
    assert output.getvalue() == "[   0.0 s] PostgreSQL: 18.4 (0.0 s)\n"


def test_step_that_failed_leaves_no_ready_line() -> None:
    output = io.StringIO()
    with pytest.raises(ValueError, match="no"), step(PlainSteps(output), "Valkey"):
        raise ValueError("no")
    assert output.getvalue() == ""


def test_long_step_gives_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    steps = PlainSteps(output)
    with step(steps, "engine"):
        steps.still()
        assert output.getvalue() == ""
        monkeypatch.setattr("gateway.up.steps.STILL_S", 0.0)
        steps.still()
        assert "still working: engine (0 s)" in output.getvalue()


def test_terminal_shows_ticks_and_what_was_not_done() -> None:
    output = io.StringIO()
    steps = RichSteps(Console(file=output, force_terminal=True, width=100))
    with step(steps, "Valkey"):
        pass
    with pytest.raises(ValueError, match="no"), step(steps, "PostgreSQL"):
        raise ValueError("no")
    steps.note("a [note] of its own")
    steps.close()
    assert "✓" in output.getvalue()
    assert "not done" in output.getvalue()
    assert "a [note] of its own" in output.getvalue()


def test_without_a_terminal_lines_are_plain() -> None:
    assert isinstance(steps_for(io.StringIO()), PlainSteps)


def test_reader_that_went_away_is_no_reason_to_stop() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        say(output, "first")
        say(output, "second")
