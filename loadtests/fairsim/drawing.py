"""The figures as one SVG: open's share by the minute under each pattern, and each group's wait under each policy."""

from collections.abc import Mapping, Sequence
from html import escape

from loadtests.fairsim.figures import Figures
from loadtests.fairsim.windows import MAIN

WIDTH, PLOT_WIDTH, PLOT_HEIGHT, GAP, LEFT = 760, 640, 90, 46, 80
SHARE_MAX = 0.6
INK, FAINT, OPEN, PRIORITY = "#222", "#bbb", "#0b6e4f", "#7a4ea3"


def draw(rows: Sequence[Figures], policies: Mapping[str, Figures], floor: float) -> str:
    """The SVG's text. `policies` are the runs at low load by name of policy."""
    parts: list[str] = []
    top = GAP
    for row in rows:
        parts += _shares(row, floor, top)
        top += PLOT_HEIGHT + GAP
    parts += _waits(policies, top)
    height = top + GAP + 2 * _BAR * len(policies)
    style = f'font-family="sans-serif" font-size="12" fill="{INK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" {style}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def _shares(row: Figures, floor: float, top: int) -> list[str]:
    """A line of the contended minutes, one after the other, over a line at the floor."""

    def height(share: float) -> float:
        return top + PLOT_HEIGHT * (1 - min(share, SHARE_MAX) / SHARE_MAX)

    step = PLOT_WIDTH / max(1, len(row.share_60s) - 1)
    points = " ".join(f"{LEFT + n * step:.1f},{height(share):.1f}" for n, share in enumerate(row.share_60s))
    title = f"{row.pattern}: share of open, {len(row.share_60s)} minutes in which both groups were backlogged"
    return [
        _text(LEFT, top - 8, title),
        _line(LEFT, height(0), LEFT + PLOT_WIDTH, height(0), FAINT),
        _line(LEFT, height(floor), LEFT + PLOT_WIDTH, height(floor), FAINT, ' stroke-dasharray="4 3"'),
        _text(LEFT - 44, height(floor) + 4, f"{floor:.2f}"),
        _text(LEFT - 44, height(0) + 4, "0"),
        f'<polyline points="{points}" fill="none" stroke="{OPEN}" stroke-width="1.5"/>',
    ]


_BAR = 18


def _waits(policies: Mapping[str, Figures], top: int) -> list[str]:
    """A bar for the p95 wait of each group under each policy."""
    parts = [_text(LEFT, top - 8, "low load of investors, open saturated: p95 wait by policy, seconds")]
    bars = [
        (f"{name}, {group}", row.waits_s[group][1], colour)
        for name, row in policies.items()
        for group, colour in zip(MAIN, (PRIORITY, OPEN), strict=True)
        if group in row.waits_s
    ]
    longest = max((seconds for _, seconds, _ in bars), default=1.0) or 1.0
    for label, seconds, colour in bars:
        width = (PLOT_WIDTH - 180) * seconds / longest
        parts.append(_text(LEFT, top + 12, label))
        parts.append(f'<rect x="{LEFT + 110}" y="{top + 2}" width="{width:.1f}" height="12" fill="{colour}"/>')
        parts.append(_text(LEFT + 116 + width, top + 12, f"{seconds:.2f}"))
        top += _BAR
    return parts


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
