"""The curves of a page as pixel coordinates, so that its template only writes them down."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

WIDTH, HEIGHT = 880, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36
AREA_HEIGHT, LINE_HEIGHT, GAP, RUG_ROW = 190, 92, 40, 16
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10**4, 10**5, 10**9)
Ticks = list[tuple[float, str]]


class Line(msgspec.Struct, frozen=True):
    """A curve; `color` is one of the page's."""

    name: str
    color: int
    points: str
    label: str


class Plot(msgspec.Struct, frozen=True):
    """Curves over the frames, all on one scale."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    lines: list[Line]
    y_ticks: Ticks
    x_ticks: Ticks


class Series(msgspec.Struct, frozen=True):
    """A curve to be drawn in a panel; None leaves a gap. `form` is that of its ticks, `level` is drawn across."""

    title: str
    values: Sequence[float | None]
    low: float
    high: float
    form: str
    level: float | None = None


class Stack(msgspec.Struct, frozen=True):
    """Parts of a whole, the first lowest, to be drawn up to the share `high`."""

    title: str
    parts: Mapping[str, Sequence[float]]
    labels: Mapping[str, str]
    high: float = 1.0


class Area(msgspec.Struct, frozen=True):
    """The share of one part of a whole, on top of the parts before it."""

    name: str
    points: str
    label: str


class Panel(msgspec.Struct, frozen=True):
    """One of several drawings above each other; `lines` are the pieces of one curve, `level` a line across it."""

    title: str
    top: float
    bottom: float
    y_ticks: Ticks
    areas: list[Area] = []
    lines: list[str] = []
    level: float | None = None


class Rug(msgspec.Struct, frozen=True):
    """A row of marks, one at each frame where something happened."""

    name: str
    y: float
    marks: list[float]


class Chart(msgspec.Struct, frozen=True):
    """Panels and rows of marks over the same frames."""

    width: int
    height: float
    left: int
    right: int
    bottom: float
    panels: list[Panel]
    rugs: list[Rug]
    x_ticks: Ticks


def curves(shares: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> Plot:
    """Shares of each frame from 0 to 100 %; a share may exceed it, and the axis then grows."""
    count = max(2, *(len(values) for values in shares.values()), 2)
    top = max(1.0, *(share for values in shares.values() for share in values), 1.0)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(frame: float) -> float:
        return round(LEFT + inner_width * frame / (count - 1), 1)

    def y_of(share: float) -> float:
        return round(TOP + inner_height * (1 - share / top), 1)

    lines = [
        Line(name, index % 5, " ".join(f"{x_of(k)},{y_of(share)}" for k, share in enumerate(values)), labels[name])
        for index, (name, values) in enumerate(shares.items())
        if values
    ]
    y_ticks = [(y_of(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1.0)]
    x_ticks = [(x_of(frame), str(frame)) for frame in _steps(count)]
    return Plot(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, lines, y_ticks, x_ticks)


def chart(
    stack: Stack,
    series: Sequence[Series],
    marks: Mapping[str, Sequence[int]],
) -> Chart:
    """Parts of a whole above each other, rows of marks, then a panel for each series."""
    count = max([1, *(len(values) for values in stack.parts.values()), *(len(one.values) for one in series)])
    y = 24.0
    panels = [_stack(stack, count, y)]
    y += AREA_HEIGHT + 6
    rugs = []
    for name, frames in marks.items():
        if frames:
            rugs.append(Rug(name, y + RUG_ROW / 2, [_x(frame + 0.5, count) for frame in frames]))
            y += RUG_ROW
    for one in series:
        y += GAP
        panels.append(_curve(one, count, y))
        y += LINE_HEIGHT
    x_ticks = [(_x(frame + 0.5, count), str(frame)) for frame in _steps(count)]
    return Chart(WIDTH, y + BOTTOM, LEFT, WIDTH - RIGHT, y, panels, rugs, x_ticks)


def _stack(stack: Stack, count: int, top: float) -> Panel:
    """Each frame is as wide as it lasts: one dense frame among a thousand is a line, not a slope."""

    def y_of(share: float) -> float:
        return round(top + AREA_HEIGHT * (1 - min(share / stack.high, 1.0)), 1)

    floor = [0.0] * count
    areas = []
    for name, values in stack.parts.items():
        if not any(values):
            continue
        ceiling = [low + high for low, high in zip(floor, values, strict=True)]
        edges = [_edge([y_of(share) for share in heights], count) for heights in (ceiling, floor)]
        areas.append(Area(name, " ".join([*edges[0], *reversed(edges[1])]), stack.labels[name]))
        floor = ceiling
    ticks = [(y_of(k * stack.high / 4), f"{k * stack.high / 4:.0%}") for k in range(5)]
    return Panel(stack.title, top, top + AREA_HEIGHT, ticks, areas)


def _edge(heights: Sequence[float], count: int) -> list[str]:
    """The corners of steps, those between equal ones left out."""
    corners = [f"{_x(0, count)},{heights[0]}"]
    for frame, (one, two) in enumerate(pairwise(heights), 1):
        if one != two:
            corners += [f"{_x(frame, count)},{one}", f"{_x(frame, count)},{two}"]
    return [*corners, f"{_x(count, count)},{heights[-1]}"]


def _curve(series: Series, count: int, top: float) -> Panel:
    low, high = series.low, series.high

    def y_of(value: float) -> float:
        return round(top + LINE_HEIGHT * (1 - (min(max(value, low), high) - low) / (high - low)), 1)

    pieces: list[list[str]] = [[]]
    for frame, value in enumerate(series.values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{_x(frame + 0.5, count)},{y_of(value)}")
    lines = [" ".join(piece if len(piece) > 1 else 2 * piece) for piece in pieces if piece]
    ticks = [(y_of(value), series.form.format(value)) for value in (low, (low + high) / 2, high)]
    level = None if series.level is None else y_of(series.level)
    return Panel(series.title, top, top + LINE_HEIGHT, ticks, lines=lines, level=level)


def _x(frame: float, count: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * frame / count, 1)


def _steps(count: int) -> range:
    return range(0, count, next(step for step in STEPS if count / step <= 12))
