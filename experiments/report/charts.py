"""Learning curves as SVG text: quick to draw, sharp at any size, in the colours of the page that they stand in."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

from experiments.report.details import Curve

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 38  # margins
STEPS = (1, 2, 5)  # a tick stands at one of these times a power of ten


def line_chart(lines: Mapping[str, Curve], unit: str, text: str) -> str:
    """A chart with logarithmic height, since late differences are small ones.

    Args:
        lines: label -> curve of positive numbers; a zero is drawn at the chart's lower edge. Line k has the class
            `line-k`, by which a style sheet colours it.
        unit: what the height is.
        text: what the chart shows, for those who do not see it.

    Returns:
        An `svg` element on one line.
    """
    values = [value for curve in lines.values() for value in curve.values() if value > 0] or [1.0]
    last = max((step for curve in lines.values() for step in curve), default=0) or 1
    ticks = _ticks(min(values), max(values))
    low, high = (math.log10(end) for end in (ticks[0], ticks[-1]))

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        share = (math.log10(max(value, ticks[0])) - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(text)}">',
        *(
            f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
            for tick in ticks
        ),
        *(
            f'<text x="{x(share * last):.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">'
            f"{share * last:,.0f}</text>"
            for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
        ),
        f'<text x="{x(last / 2):.0f}" y="{HEIGHT - 4}" text-anchor="middle">step</text>',
        f'<text x="12" y="{y(10 ** ((low + high) / 2)):.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {y(10 ** ((low + high) / 2)):.0f})">{html.escape(unit)}</text>',
    ]
    for k, curve in enumerate(lines.values()):
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve.items())
        parts.append(f'<polyline class="line-{k}" points="{points}"/>')
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 or 5 times a power of ten, the first at most `low` and the last at least `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in STEPS]
    below = max(tick for tick in every if tick <= low * (1 + 1e-9))
    above = min(tick for tick in every if tick >= high * (1 - 1e-9) and tick > below)
    return [tick for tick in every if below <= tick <= above]
