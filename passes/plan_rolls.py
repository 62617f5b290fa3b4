"""How a plan's maps roll with the camera (see `lower_plan` and docs/decisions/0008).

A net of windows does not care where its input lies: when the input rolls by whole cells of every map, every map rolls
with it, and only what the edges of the frame reach differs. So all that a plan must know are the maps that lie in its
buffers, the unit that is whole cells of each, and the steps whose values know their place (grids of anchors, say) or
read such values: those are computed anew, everywhere, in the frame after a roll.

Left alone, with the reason in the plan: nets in which tokens are in groups, moved by a table, or computed by torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from fluxcompile.geometry import Layout
from fluxcompile.program import Plan, Rolls, Step

Array = np.ndarray[Any, Any]
Seen = tuple[int, int, Layout]
"""(buffer, first row, layout) of a value."""


class Placed(Exception):
    """Why the maps of a plan cannot roll."""


def find_rolls(plan: Plan, seen: Iterable[Seen], constants: Mapping[str, Tensor]) -> Rolls:
    """seen: where every value of the plan lies."""
    try:
        placed = _placed_steps(plan, constants)
        maps, unit = _maps(plan, seen)
    except Placed as why:
        return Rolls(reason=str(why))
    return Rolls(unit, maps, placed)


def _maps(plan: Plan, seen: Iterable[Seen]) -> tuple[list[list[int]], list[int]]:
    """[buffer, first row, h, w] of every map, and the frame pixels (y, x) that are whole cells of each."""
    size = _frame(plan)
    pieces: dict[int, dict[int, tuple[int, int]]] = {}
    for buffer, first, at in seen:
        known = pieces.setdefault(buffer, {})
        for row, h, w in _pieces(at, first):
            if known.setdefault(row, (h, w)) != (h, w):
                raise Placed(f"rows are read as {h} x {w} cells and as {known[row][0]} x {known[row][1]}")
    unit, maps = [1, 1], []
    for buffer, (rows, _) in enumerate(plan.buffers):
        end = 0
        for first, (h, w) in sorted(pieces.get(buffer, {}).items()):
            if first < end:
                raise Placed("maps lie over each other")
            end = first + h * w
            if h * w == 1:
                continue
            scales = [Fraction(pixels, cells) for pixels, cells in zip(size, (h, w), strict=True)]
            if any(s.denominator != 1 for s in scales):
                raise Placed(f"a map of {h} x {w} cells in a frame of {size[0]} x {size[1]} pixels")
            unit = [math.lcm(u, s.numerator) for u, s in zip(unit, scales, strict=True)]
            maps.append([buffer, first, h, w])
        if end < rows and rows > 1:
            raise Placed("rows without a place beside others")
    return maps, unit


def _frame(plan: Plan) -> tuple[int, int]:
    """Height and width of the one image that is the input."""
    sizes = [_size(s.args["out"]) for s in plan.steps if s.op == "input"]
    if len(sizes) != 1 or min(sizes[0]) == 1:
        raise Placed("its input is not one image")
    return sizes[0]


def _pieces(at: Layout, first: int) -> Iterator[tuple[int, int, int]]:
    """(first row, h, w) of the maps that the rows of a layout are."""
    if not at.chain:
        yield first, at.grid.h, at.grid.w
        return
    for rows, grid in at.chain.segments:
        if grid:
            yield first, grid.h, grid.w
        elif rows > 1:
            raise Placed("tokens without a place")
        else:
            yield first, 1, 1
        first += rows


def _placed_steps(plan: Plan, constants: Mapping[str, Tensor]) -> list[int]:
    """The steps whose values know their place, by themselves or from what they read."""
    found, written = [], list[list[int]]()
    for i, step in enumerate(plan.steps):
        reads = [p for name, value in step.args.items() if name != "out" for p in _parts(value)]
        if _knows_place(step, constants) or any(_overlap(a, b) for a in reads for b in written):
            found.append(i)
            written += _parts(step.args.get("out"))
    return found


def _parts(value: Any) -> Iterator[list[int]]:
    """The parts of buffers in an argument."""
    match value:
        case {"map": part}:
            yield part
        case dict():
            for v in value.values():
                yield from _parts(v)
        case list():
            for v in value:
                yield from _parts(v)


def _overlap(one: list[int], two: list[int]) -> bool:
    spans = [(p[1], p[1] + p[2] * p[3]) for p in (one, two)], [(p[4], p[4] + p[5]) for p in (one, two)]
    return one[0] == two[0] and all(a[0] < b[1] and b[0] < a[1] for a, b in spans)


def _knows_place(step: Step, constants: Mapping[str, Tensor]) -> bool:
    """Whether a step's rows differ by where they lie alone."""
    where = step.path or step.op
    match step.op:
        case "region":
            raise Placed(f"{where}: computed by torch")
        case "attention":
            groups = _table(constants, step.args["keys"]).shape[0]
            if groups > 1 or step.args["bias"] is not None:
                raise Placed(f"{where}: attention in windows, or with a bias by place")
        case "gather" if not step.args["relative"]:
            raise Placed(f"{where}: rows moved by a table")
        case "constant":
            rows = _table(constants, step.args["value"])
            return bool((rows != rows.reshape(-1, rows.shape[-1])[:1]).any())
        case "resample2d":
            for axis, n_in, n_out in zip("yx", _size(step.args["x"]), _size(step.args["out"]), strict=True):
                index, weight = (_table(constants, step.args[f"{name}_{axis}"]) for name in ("index", "weight"))
                if not _rolls_along(index, weight, n_in, n_out):
                    raise Placed(f"{where}: resized by a grid that does not repeat")
        case "pointwise":
            operands = [term[3] for term in step.args["terms"]]
            return any(isinstance(o, dict) and "@" in o and _varies(_table(constants, o)) for o in operands)
    return False


def _size(part: dict[str, list[int]]) -> tuple[int, int]:
    _, _, h, w, *_ = part["map"]
    return h, w


def _table(constants: Mapping[str, Tensor], value: dict[str, str]) -> Array:
    return constants[value["@"]].numpy()


def _varies(operand: Array) -> bool:
    return operand.ndim == 3 and bool((operand != operand[:1, :1]).any())


def _rolls_along(index: Any, weight: Any, n_in: int, n_out: int) -> bool:
    """Whether outputs a period apart read inputs a period apart, with the same weights, away from the edges."""
    common = math.gcd(n_in, n_out)
    step_in, step_out = n_in // common, n_out // common
    one, two = slice(step_out, n_out - 2 * step_out), slice(2 * step_out, n_out - step_out)
    same = index[two] == index[one] + step_in
    near = np.abs(weight[two] - weight[one]) <= 1e-5
    return bool(((same & near) | ((weight[one] == 0) & (weight[two] == 0))).all())
