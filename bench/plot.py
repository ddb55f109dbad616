"""A plot of measurements as an SVG: lines over two axes, readable on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 20, 50
COLOURS = ("#5c6bc0", "#ef6c00", "#26a69a", "#c2185b")
"""In the middle between light and dark."""


def svg(title: str, x: str, y: str, lines: Mapping[str, Points]) -> str:
    """``lines`` by name, over axes that begin at 0; ``x`` and ``y`` say what these are."""
    most_x = max(at for points in lines.values() for at, _ in points)
    ticks = _ticks(max(value for points in lines.values() for _, value in points))
    most_y = ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = LEFT + point[0] / most_x * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - point[1] / most_y * (HEIGHT - TOP - BOTTOM), 1)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        f'  <title id="title">{escape(title)}</title>',
        "  <style>text { fill: #7986cb; font: 13px sans-serif } .grid { stroke: #7986cb; stroke-opacity: .3 }",
        "  .axis { stroke: #7986cb; stroke-width: 1.5 } polyline { fill: none; stroke-width: 2 }</style>",
    ]
    for tick in ticks:
        _, at = place((0, tick))
        parts.append(f'  <line class="grid" x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
        parts.append(f'  <text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{tick:g}</text>')
    for number in sorted({at for points in lines.values() for at, _ in points}):
        if number >= most_x / 10 or number == 0:  # the others would stand in each other's way
            at, _ = place((number, 0))
            parts.append(f'  <text x="{at}" y="{bottom + 18}" text-anchor="middle">{number:g}</text>')
    parts.append(f'  <line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts.append(f'  <line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{bottom}"/>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'  <text x="{middle_x}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'  <text x="18" y="{middle_y}" text-anchor="middle" transform="rotate(-90 18 {middle_y})">{escape(y)}</text>'
    )
    names_y = float(HEIGHT)
    for colour, (name, points) in zip(COLOURS, sorted(lines.items(), key=lambda line: line[1][-1][1]), strict=False):
        places = [place(point) for point in points]
        parts.append(f'  <polyline stroke="{colour}" points="{" ".join(f"{a},{b}" for a, b in places)}"/>')
        parts += [f'  <circle cx="{a}" cy="{b}" r="3" fill="{colour}"/>' for a, b in places]
        names_y = min(places[-1][1] + 4, names_y - 16)
        parts.append(f'  <text x="{right + 10}" y="{names_y}" style="fill: {colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(most: float) -> list[float]:
    """From 0 to at least ``most``, in round steps."""
    step = 10.0 ** len(str(int(most)))
    while most / step < 4:
        step = round(step / (2.5 if "5" in str(step) else 2), 9)  # 10, 5, 2, 1
    return [round(step * number, 6) for number in range(int(-(-most // step)) + 1)]
