"""Runs the project's checks part by part and prints how many minutes each took: `python -m tests.parts [PART…]`.

All parts run even when one fails, so that one run tells everything. Exit code 1 when a part failed or all together took
longer than the limit.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TOTAL_MINUTES_MAX = 40.0
PART_S_MAX = 30 * 60


@dataclass(frozen=True, slots=True)
class Part:
    """Commands of one part and the minutes it should take."""

    name: str
    budget_minutes: float
    commands: tuple[tuple[str, ...], ...]


def _pytest(marks: str) -> tuple[tuple[str, ...], ...]:
    return (("pytest", "-q", "-m", marks, "--durations=5"),)


PARTS = (
    Part("lint", 2, (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",))),
    Part("unit", 4, _pytest("not e2e and not vllm and not kill")),
    Part("e2e", 5, _pytest("e2e")),
    Part("kill", 6, _pytest("kill")),
    Part("vllm", 8, _pytest("vllm")),
)


def run(part: Part) -> tuple[bool, float]:
    """Whether every command of `part` succeeded, and the minutes they took."""
    print(f"\n=== {part.name} (budget {part.budget_minutes:g} min)", flush=True)
    started = time.monotonic()
    # Without what make tells its children: a make that a test starts is nobody's child.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    passed = True
    for command in part.commands:
        print(f"$ {' '.join(command)}", flush=True)
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, timeout=PART_S_MAX, check=False)
            passed = passed and done.returncode == 0
        except subprocess.TimeoutExpired:
            print(f"{part.name}: given up after {PART_S_MAX} s", flush=True)
            passed = False
    return passed, (time.monotonic() - started) / 60


def main(names: list[str]) -> int:
    """Run the parts called `names`, or all."""
    unknown = set(names) - {part.name for part in PARTS}
    if unknown:
        print(f"no part is called {min(unknown)}; there are: {', '.join(part.name for part in PARTS)}")
        return 2
    chosen = [part for part in PARTS if not names or part.name in names]
    results = [(part, *run(part)) for part in chosen]
    total = sum(minutes for _, _, minutes in results)
    print(f"\n{'part':<8}{'minutes':>9}{'budget':>8}  result")
    for part, passed, minutes in results:
        late = "" if minutes <= part.budget_minutes else ", over budget"
        print(f"{part.name:<8}{minutes:>9.1f}{part.budget_minutes:>8g}  {'passed' if passed else 'FAILED'}{late}")
    print(f"{'total':<8}{total:>9.1f}{TOTAL_MINUTES_MAX:>8g}", flush=True)
    return 0 if total <= TOTAL_MINUTES_MAX and all(passed for _, passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
