"""A program's plan as a `_cpu.Plan`: buffers made, weights packed, steps added."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import ProgramError
from fluxcompile.geometry import Layout, parse_layout
from fluxcompile.kernels import _cpu
from fluxcompile.kernels.cpu import act_term
from fluxcompile.kernels.pack import pack_conv2d, pack_conv_transpose2d, window_taps
from fluxcompile.program import Program, Rolls, Step
from fluxcompile.runtime.frame import DTYPES
from fluxcompile.runtime.region import Region
from fluxcompile.runtime.results import Results

Array = npt.NDArray[Any]
LINE_BYTES = 64
PAGE_BYTES = 1 << 21
"""Of a large page."""
STEPS = {
    *("join", "window", "limit", "reach"),
    *("conv2d", "conv_transpose2d", "pool2d", "resample2d", "pointwise", "layer_norm", "softmax", "attention"),
    "correct_attention",
    *("gather", "mean", "hold", "constant", "input", "output", "result", "region"),
}
"""What a plan is made of; `Builder` has a method for each."""


class Builder:
    """A plan's data as a `_cpu.Plan`: buffers made, weights packed, steps added, each once."""

    def __init__(self, program: Program, variant: str, threads: int) -> None:
        assert program.plan is not None
        data = program.plan
        self.constants, self.variant = program.constants, variant
        self.plan = _cpu.Plan(variant, threads)
        self.buffers = _side_by_side(data.buffers)
        self.plan_masks = [self.plan.mask(rows) for rows in data.masks]
        self.frame_shapes: list[tuple[int, int, int]] = []
        self.references: list[tuple[bool, Array]] = []
        """For each input whether it comes channel by channel, and the image (height, width, channels) its caches were
        computed from: of bytes, where these come so, else of floats."""
        self.reaches: dict[int, list[int]] = {}
        """For each input the steps that say how far its changes spread."""
        self._input_masks: list[int] = []
        self.inputs: list[int] = []
        self.input_sizes: list[tuple[int, int]] = []
        self.input_layouts: dict[int, Layout] = {}
        """Of the inputs that come neither channel by channel nor place by place."""
        self.results = Results()
        self._regions: list[tuple[int, Region]] = []
        self.costs: list[tuple[int, list[int], int]] = []  # (layer, steps, rows)
        self._program = program
        self._indices: list[tuple[int, int]] = []  # of each step of the program, those of the plan it became
        for step in data.steps:
            where = step.path or step.op
            if step.op not in STEPS:
                raise ProgramError(f"{where}: unknown step {step.op}; this program was made by another version")
            try:
                args, first = {k: self._argument(v) for k, v in step.args.items()}, len(self.plan)
                getattr(self, f"_{step.op}")(step, **args)
                self._indices.append((first, len(self.plan)))
            except (ValueError, TypeError, LookupError, AttributeError) as e:
                raise ProgramError(
                    f"{where}: the plan's step {step.op} does not fit ({e}); compile the model again"
                ) from e
        self._add_rolls(data.rolls)

    @property
    def images(self) -> list[int]:
        """The inputs that have pixels; a net without any is asked for its vectors."""
        found = [i for i, (h, w) in enumerate(self.input_sizes) if h * w > 1]
        return found or list(range(len(self.input_sizes)))

    def segments(self) -> list[tuple[int, int, "Region | None"]]:
        """Runs of steps, each with the region that follows it."""
        found: list[tuple[int, int, Region | None]] = []
        begin = 0
        for end, region in self._regions:
            found.append((begin, end, region))
            begin = end
        return [*found, (begin, len(self.plan), None)]

    def shares(self) -> dict[int, float]:
        """The share of each layer's rows that the last frame computed."""
        done = self.plan.done()
        shares = {layer: sum(done[s] for s in steps) / rows for layer, steps, rows in self.costs}
        for _, region in self._regions:
            shares |= dict.fromkeys(region.layers, float(region.ran))
        return shares

    def _add_rolls(self, rolls: Rolls) -> None:
        try:
            for buffer, first, h, w in rolls.maps:
                (height, width), rows = self.input_sizes[0], self.buffers[buffer][first : first + h * w]
                self.plan.rolls(rows.reshape(h, w, -1), (height // h, width // w))
            for step in rolls.placed:
                for index in range(*self._indices[step]):
                    self.plan.placed(index)
        except (ValueError, TypeError, LookupError) as e:
            raise ProgramError(f"the plan's rolls do not fit ({e}); compile the model again") from e

    def _argument(self, value: Any) -> Any:
        match value:
            case {"map": [buffer, first, h, w, channel, channels]}:
                rows = self.buffers[buffer][first : first + h * w]
                return rows.reshape(h, w, rows.shape[1])[:, :, channel : channel + channels]
            case {"vector": part}:
                return self._argument(part).reshape(-1)
            case {"@": name}:
                return self.constants[name]
            case {"mask": index}:
                return self.plan_masks[index]
            case {"float": text}:
                return float(text)
            case list():
                return [self._argument(v) for v in value]
            case dict():
                return {k: self._argument(v) for k, v in value.items()}
        return value

    def _added(self, step: Step, out: Array, *indices: int) -> None:
        if step.layer >= 0:
            self.costs.append((step.layer, list(indices), out.shape[0] * out.shape[1]))

    # --- masks ---

    def _join(self, step: Step, out: int, readers: list[dict[str, Any]]) -> None:
        parts = [
            (
                r["in"],
                r["kind"],
                r.get("table"),
                r.get("keys"),
                *(r.get(k, 0) for k in ("first_in", "first_out", "count")),
            )
            for r in readers
        ]
        self.plan.join(out, parts)

    def _window(
        self, step: Step, out: int, reads_y: Array, reads_x: Array, size: list[int], near: int = -1, **source: int
    ) -> None:
        self.plan.window(out, source["in"], reads_y, reads_x, (size[0], size[1]), near)

    def _limit(self, step: Step, out: int, near: int, **source: int) -> None:
        self.plan.limit(out, source["in"], near)

    def _reach(self, step: Step, out: int, width: int, **source: int) -> None:
        index = self.plan.reach(out, source["in"], width)
        if source["in"] in self._input_masks:
            self.reaches.setdefault(self._input_masks.index(source["in"]), []).append(index)

    # --- values ---

    def _conv2d(self, step: Step, out: Array, x: Array, weight: Array, bias: Array | None, **args: Any) -> None:
        steps = {k: tuple(args[k]) for k in ("stride", "padding", "dilation")}
        packed = pack_conv2d(self.variant, weight, bias, groups=args["groups"], **steps)
        self._added(step, out, self._packed(step, packed, (0, 0), out, x, args))

    def _conv_transpose2d(
        self, step: Step, out: Array, x: Array, weight: Array, bias: Array | None, **args: Any
    ) -> None:
        steps = {k: tuple(args[k]) for k in ("stride", "padding", "dilation")}
        packed = pack_conv_transpose2d(self.variant, weight, bias, groups=args["groups"], **steps)
        phases = [self._packed(step, conv, phase, out, x, args) for phase, conv in packed.phases.items()]
        self._added(step, out, *phases)

    def _packed(
        self, step: Step, packed: Any, phase: tuple[int, int], out: Array, x: Array, args: dict[str, Any]
    ) -> int:
        name, a, b, _ = args.get("act") or ("none", 0.0, 0.0, None)
        miss, changed = self._masks(step)
        added: int = self.plan.conv2d(
            miss, changed, x, packed.weights, packed.bias, packed.taps, out,
            packed.groups, packed.stride, packed.up, phase, *act_term(name, a, b), None, args.get("residual"),
            args.get("residual_first", False),
        )  # fmt: skip
        return added

    def _mask(self, index: int) -> int:
        return -1 if index < 0 else self.plan_masks[index]

    def _masks(self, step: Step) -> tuple[int, int]:
        """Of the rows that miss, and of those that changed."""
        return self._mask(step.mask), self._mask(step.changed)

    def _pool2d(self, step: Step, out: Array, x: Array, kind: str, divisor: float, **args: Any) -> None:
        taps = window_taps(*(tuple(args[k]) for k in ("kernel", "padding", "dilation")))
        stride = tuple(args["stride"])
        index = self.plan.pool2d(*self._masks(step), x, taps, out, kind, stride, divisor)
        self._added(step, out, index)

    def _resample2d(self, step: Step, out: Array, x: Array, **tables: Array) -> None:
        y, x_axis = ((tables[f"index_{axis}"], tables[f"weight_{axis}"]) for axis in "yx")
        self._added(step, out, self.plan.resample2d(*self._masks(step), x, *y, *x_axis, out))

    def _pointwise(self, step: Step, out: Array, x: Array, terms: list[Any]) -> None:
        found = [(*act_term(name, a, b), other) for name, a, b, other in terms]
        self._added(step, out, self.plan.pointwise(*self._masks(step), x, found, out))

    def _layer_norm(self, step: Step, out: Array, x: Array, gamma: Any, beta: Any, epsilon: float) -> None:
        self._added(step, out, self.plan.layer_norm(*self._masks(step), x, gamma, beta, epsilon, out))

    def _softmax(self, step: Step, out: Array, x: Array, scale: float, split: int = 1) -> None:
        if split > 1:  # every combination of the other free coordinates is a row of its own
            out, x = (v.reshape(-1, 1, v.shape[2] // split) for v in (out, x))
        self._added(step, out, self.plan.softmax(*self._masks(step), x, scale, out))

    def _attention(self, step: Step, out: Array, heads: int, scale: float, **args: Any) -> None:
        q, k, v, *tables = (args[n] for n in ("q", "k", "v", "keys", "group_of", "member_of", "bias"))
        self._added(step, out, self.plan.attention(*self._masks(step), q, k, v, out, heads, scale, *tables))

    def _correct_attention(self, step: Step, out: Array, heads: int, scale: float, **args: Any) -> None:
        q, k, v, *state = (args[n] for n in ("q", "k", "v", "k_old", "v_old", "mean", "sums"))
        masks = args["queries"], tuple(args["keys"])
        index = self.plan.correct_attention(*self._masks(step), q, k, v, out, heads, scale, *masks, *state)
        self._added(step, out, index)

    def _gather(self, step: Step, out: Array, x: Array, table: Array, relative: bool, fill: float) -> None:
        self._added(step, out, self.plan.gather(self._mask(step.mask), x, table, out, relative, fill))

    def _mean(self, step: Step, out: Array, x: Array) -> None:
        self._added(step, out, self.plan.mean(self._mask(step.mask), x, out))

    def _hold(self, step: Step, out: Array, x: Array) -> None:
        self._added(step, out, self.plan.hold(*self._masks(step), x, out))

    def _constant(self, step: Step, out: Array, value: Array) -> None:
        out[...] = value.reshape(out.shape)

    # --- frames, results, regions ---

    def _input(self, step: Step, out: Array, planar: bool, dtype: str, name: str, layout: str = "") -> None:
        h, w, c = out.shape
        if layout:
            self.input_layouts[len(self.inputs)] = parse_layout(layout)
        self.frame_shapes.append((c, h, w) if planar else (h, w, c))
        held = np.zeros(self.frame_shapes[-1], np.uint8) if dtype == "u8" else None
        self.references.append((planar, out if held is None or planar else held))
        self._input_masks.append(self._mask(step.mask))
        self.inputs.append(self.plan.input(self._mask(step.mask), out, planar, held))
        self.input_sizes.append((out.shape[0], out.shape[1]))

    def _output(
        self, step: Step, x: Array, index: int, shape: list[int], row_at: Array, channel_at: Array, dtype: str = "f32"
    ) -> None:
        size = int(np.prod(shape))
        at = self.plan.output(self._mask(step.mask), x, row_at, channel_at, size)
        self.results.add(index, at, tuple(shape), DTYPES[dtype])

    def _result(self, step: Step, index: int, value: Any) -> None:
        self.results.loose[index] = value

    def _region(self, step: Step, operands: list[Any], results: list[Any], misses: list[int]) -> None:
        region = Region(self._program, step, operands, results, misses, self.results.env)
        self._regions.append((len(self.plan), region))


def _side_by_side(shapes: Sequence[tuple[int, int]]) -> list[Array]:
    """Zeros (rows, channels) in one piece, each from a cache line on.

    Large pages, which the system gives to large pieces only, take 3 to 5 % off a frame.
    """
    line = LINE_BYTES // 4
    sizes = [-(-rows * channels // line) * line for rows, channels in shapes]
    raw = np.zeros(sum(sizes) + PAGE_BYTES // 4, dtype=np.float32)
    begin = -raw.ctypes.data % PAGE_BYTES // 4
    ends = np.cumsum([begin, *sizes])
    return [raw[at : at + rows * c].reshape(rows, c) for at, (rows, c) in zip(ends[:-1].tolist(), shapes, strict=True)]
