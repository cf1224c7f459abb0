# SPDX-License-Identifier: GPL-2.0-only
"""The dashboard as a picture (SVG), in the layout and with the queries that Grafana takes from its file."""

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from bcached.units import format_size

from .prometheus import Prometheus, dashboard, filled_in

COLUMN, ROW = 50, 26  # of the grid, in pixels
TITLE, LEGEND = 20, 14  # lines, in pixels
LEGENDS = 4  # shown at most
COLOURS = ("#3d71d9", "#d98c3d", "#3da35d", "#b33dd9", "#d93d3d", "#3dc5d9", "#8a8a3d", "#707070")

Curve = tuple[str, list[float]]


def rendered(prometheus: Prometheus, seconds: int) -> str:
    """Returns the picture of what the last seconds look like."""
    board = dashboard()["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board) * ROW
    size = f'width="{24 * COLUMN}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    parts.append(f'<rect {size} fill="#f4f5f5"/>')
    for panel in board:
        parts += panel_parts(panel, list(curves_of(panel, prometheus, seconds)))
    return "\n".join([*parts, "</svg>"])


def curves_of(panel: dict[str, Any], prometheus: Prometheus, seconds: int) -> Iterator[Curve]:
    """Yields each series of a panel with its legend; values that are no numbers are left out."""
    for target in panel.get("targets", []):
        for labels, values in prometheus.curves(filled_in(target["expr"]), seconds):
            legend = target.get("legendFormat", "")
            for name, value in labels.items():
                legend = legend.replace("{{" + name + "}}", value)
            yield legend, [value for value in values if math.isfinite(value)]


def panel_parts(panel: dict[str, Any], curves: list[Curve]) -> Iterator[str]:
    """Yields the elements of a panel: a heading, one large number, or curves."""
    at = panel["gridPos"]
    x, y, width, height = at["x"] * COLUMN, at["y"] * ROW, at["w"] * COLUMN, at["h"] * ROW
    if panel["type"] == "row":
        yield f'<text x="{x + 4}" y="{y + 18}" font-size="15">{escape(panel["title"])}</text>'
        return
    frame = f'x="{x + 2}" y="{y + 2}" width="{width - 4}" height="{height - 4}"'
    yield f'<rect {frame} fill="white" stroke="#ccc"/>'
    yield f'<text x="{x + 8}" y="{y + 17}" font-weight="bold">{escape(panel["title"])}</text>'
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if panel["type"] == "stat":
        legend, values = curves[0] if curves else ("", [])
        shown = legend if "version" in panel["targets"][0].get("legendFormat", "") else last(values, unit)
        yield f'<text x="{x + 8}" y="{y + 62}" font-size="26">{escape(shown)}</text>'
        return
    legends = curves[:LEGENDS]
    area = (x + 8, y + TITLE + 4, width - 16, height - TITLE - 12 - LEGEND * len(legends))
    yield from curve_parts(curves, area, unit)
    for number, (legend, values) in enumerate(legends):
        text_y = y + height - 8 - LEGEND * (len(legends) - 1 - number)
        text = escape(f"{legend}: {last(values, unit)}")
        yield f'<text x="{x + 8}" y="{text_y}" fill="{COLOURS[number % len(COLOURS)]}">{text}</text>'


def curve_parts(curves: list[Curve], area: tuple[int, int, int, int], unit: str) -> Iterator[str]:
    """Yields the lines of a panel, and its greatest value."""
    x, y, width, height = area
    greatest = max((value for _, values in curves for value in values), default=0.0)
    top = greatest if greatest > 0 else 1.0
    yield f'<line x1="{x}" y1="{y + height}" x2="{x + width}" y2="{y + height}" stroke="#999"/>'
    scale = escape(amount(greatest, unit))
    yield f'<text x="{x + width}" y="{y + 8}" text-anchor="end" fill="#777">{scale}</text>'
    for number, (_, values) in enumerate(curves):
        step = width / max(len(values) - 1, 1)
        points = " ".join(
            f"{x + at * step:.1f},{y + height * (1 - max(value, 0) / top):.1f}"
            for at, value in enumerate(values)
        )
        colour = COLOURS[number % len(COLOURS)]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def last(values: list[float], unit: str) -> str:
    """Returns the newest value."""
    return amount(values[-1], unit) if values else "no data"


def amount(value: float, unit: str) -> str:
    """Returns a value in one of the units that the dashboard uses."""
    if unit in ("bytes", "Bps"):
        return format_size(round(value)) + ("/s" if unit == "Bps" else "")
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.4g}" + ("/s" if unit in ("ops", "reqps") else "")
