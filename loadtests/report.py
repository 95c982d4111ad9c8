"""Reports: the same frame for every measurement (`reports/<name>.json`), tables and verdict lines on stdout."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from loadtests.stack import ROOT

_PACKAGES = ("aiohttp", "asyncpg", "fastapi", "httptools", "msgspec", "redis", "uvicorn", "uvloop")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target with what was measured."""

    name: str
    measured: float
    limit: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.limit

    def line(self) -> str:
        """For people."""
        mark = "pass" if self.passed else "FAIL"
        return f"{mark}  {self.name}: {self.measured:.3g} {self.unit} (at most {self.limit:g} {self.unit})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows)
    )


def write_report(name: str, figures: Mapping[str, object], control: str, tools: Mapping[str, str]) -> Path:
    """Write `reports/<name>.json` with versions, machine and commit; returns its path."""
    path = ROOT / "reports" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}, **tools}
    report = {
        **figures,
        "control": control,
        "versions": versions,
        "machine": machine(),
        "commit": commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "load_1min": os.getloadavg()[0],
    }


def commit() -> str:
    """The revision of this clone, with a mark when files were changed since."""
    revision = _git("rev-parse", "HEAD") or "unknown"
    return f"{revision}+changes" if _git("status", "--porcelain") else revision


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
