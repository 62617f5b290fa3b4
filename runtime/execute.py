"""The reference executor: runs a program's graph op by op in plain torch. Readable, no speed.

Other backends must agree with it; it alone decides what a program means. A GPU's backend is the same graph on another
device, with kernels in the place of some ops' references.
"""

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluxcompile.errors import ProgramError
from fluxcompile.ops import TABLE, operator_of
from fluxcompile.program import Graph, Op, Program, bind

TYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "b8": torch.bool,
}


CPU = torch.device("cpu")
Calls = Mapping[str, Callable[..., Any]]


STILL: Calls = {
    "flux.shift_at.default": lambda motion, size, *_: motion.new_zeros((2, size[0] * size[1])),
    "flux.motion_reindex.default": lambda cache, source, layout: cache,
    "flux.apart_window.default": lambda shift, out, *_: out.new_zeros(out.shape[1], dtype=torch.bool),
    "flux.apart_join.default": lambda *args: args[4].new_zeros(args[4].shape[1], dtype=torch.bool),
    "flux.apart_remap.default": lambda source, out, rows: out.new_zeros(out.shape[0], dtype=torch.bool),
    "flux.apart_any.default": lambda shifts, rows: shifts[0].new_zeros(rows, dtype=torch.bool),
}
"""What ops give in a frame in which nothing moved: knowing it saves looking, and on a GPU waiting for what is seen."""
UNLIMITED: Calls = {"flux.limit.default": lambda miss, *_: miss}
"""What ops give in a frame in which changes may spread everywhere."""


def resolve(op: Op, kernels: Calls, device: torch.device) -> Callable[..., Any]:
    """The callable an op names: a kernel for a row of the table where there is one, else its reference."""
    if op.op == "getitem":
        return operator.getitem
    namespace, name, _ = op.op.split(".")
    if namespace == "flux":
        if name not in TABLE:
            raise ProgramError(
                f"{op.name}: unknown op {op.op}; this program was made by another version of fluxcompile"
            )
        return kernels.get(name, TABLE[name].reference)
    found = operator_of(op.op)
    if found is None:
        raise ProgramError(f"{op.name}: this torch ({torch.__version__}) has no operator {op.op}; use a newer torch")
    types = {argument.name: str(argument.type) for argument in found._schema.arguments}
    makes_anew = "device" in types and not any("Tensor" in t for t in types.values())
    return partial(found, device=device) if makes_anew else found


def constants(program: Program, device: torch.device = CPU) -> dict[str, Tensor]:
    """The program's constants as tensors."""
    # ascontiguousarray gives a scalar a dimension; reshape takes it back
    arrays = ((k, np.ascontiguousarray(v).reshape(v.shape)) for k, v in program.constants.items())
    return {k: torch.from_numpy(v).to(device) for k, v in arrays}


class Executor:
    """Runs one graph. Call it with every input by name; `work` then holds the share each layer cost."""

    def __init__(
        self, graph: Graph, values: Mapping[str, Tensor], *, kernels: Calls | None = None, device: torch.device = CPU
    ) -> None:
        self.graph, self.values = graph, values
        kernels = kernels or {}
        self.work: dict[int, float] = {}
        self._bodies = {
            op.name: Executor(op.body, values, kernels=kernels, device=device) for op in graph.ops if op.body
        }
        self._calls = {op.name: resolve(op, kernels, device) for op in graph.ops if not op.body}
        self._last = self._last_uses()

    def _last_uses(self) -> dict[str, list[str]]:
        """For each op, the values nobody reads after it."""
        last: dict[str, str] = {}
        for op in self.graph.ops:
            last |= dict.fromkeys(op.reads, op.name)
        for name in self.graph.kept:
            last.pop(name, None)
        free: dict[str, list[str]] = {}
        for name, at in last.items():
            free.setdefault(at, []).append(name)
        return free

    def __call__(self, inputs: Mapping[str, Tensor], known: Calls | None = None) -> tuple[list[Any], dict[str, Tensor]]:
        """(outputs, next frame's caches by input name). `known`: ops of which the caller knows what they give."""
        known = known or {}
        env: dict[str, Any] = dict(inputs)
        lengths: dict[str, int] = {}
        self.work = {}
        with torch.no_grad():
            for op in self.graph.ops:
                args, kwargs = self._bind(op.args, env), {k: self._bind(v, env) for k, v in op.kwargs.items()}
                if op.body:
                    env[op.name] = self._region(op, args)
                else:
                    env[op.name] = known.get(op.op, self._calls[op.name])(*args, **kwargs)
                if op.op in ("flux.tiles.default", "flux.rows.default"):
                    lengths[op.name] = env[op.name].shape[0]
                if op.layer >= 0:
                    share = sum(lengths[name] / capacity for name, capacity in op.lists)
                    self.work[op.layer] = min(share, 1.0) if op.lists else 1.0
                for name in self._last.get(op.name, ()):
                    env.pop(name, None)
        outputs = self._bind(self.graph.outputs, env)
        return outputs, {cache: env[value] for cache, value in self.graph.caches}

    def _region(self, op: Op, args: list[Any]) -> Any:
        """A dense region: (operands, misses, fresh, old results) -> results, old ones when nothing missed."""
        operands, misses, fresh, old = args
        body = self._bodies[op.name]
        if not fresh and not any(bool(m.any()) for m in misses):
            self.work.update(dict.fromkeys((o.layer for o in body.graph.ops if o.layer >= 0), 0.0))
            return tuple(old)
        results, _ = body(dict(zip((i.name for i in body.graph.inputs), operands, strict=True)))
        self.work.update(body.work)
        return tuple(results)

    def _bind(self, value: Any, env: Mapping[str, Any]) -> Any:
        def named(kind: str, name: str) -> Any:
            if kind == "%":
                return env[name]
            if kind == "@":
                return self.values[name]
            return TYPES[name] if kind == "dtype" else float(name)

        return bind(value, named)
