"""What fewer bits cost: the graph rounded as an engine of a plan rounds it, played beside the one that is not."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fluxcompile.bundle import Loss
from fluxcompile.golden import Array, Feed, Golden, apart
from fluxcompile.passes.round_to_half import round_to_half
from fluxcompile.passes.trt_graph import MOVES, float_tensors, op_of
from fluxcompile.program import Program
from fluxcompile.tasks import Task, task_of


@dataclass(frozen=True)
class Meaning:
    """A task, and the size of the images its results lie on."""

    task: Task
    size: tuple[int, int]


def meaning_of(program: Program, name: str | None = None) -> Meaning | None:
    """What a program's outputs mean; None for a part of a net, and for one that reads no image."""
    images = [i for i in program.graphs["blocked"].inputs if i.role == "input" and len(i.shape) >= 3]
    if program.part is not None or not images:
        return None
    shape = images[0].shape
    size = (shape[-3], shape[-2]) if shape[-1] in (1, 3) else (shape[-2], shape[-1])
    return Meaning(task_of([np.empty(s, np.bool_) for s in program.output_shapes()], name), size)


@dataclass(frozen=True)
class Graph:
    """A model with its functions, and how to run it."""

    model: onnx.ModelProto
    caches: Sequence[tuple[str, str]]
    outputs: Sequence[str]

    def opened(self, more: Sequence[str] = ()) -> Golden:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        told = {o.name for o in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in more if n not in told
        )
        return Golden(model.SerializeToString(), self.caches, [*self.outputs, *more])

    def rounded(self, floats: Collection[str]) -> "Graph":
        """Rounded but for the ops that stay float32."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        round_to_half(model, floats)
        return Graph(model, self.caches, self.outputs)


def loss_of(exact: Graph, near: Graph, feeds: Iterable[Feed], meaning: Meaning | None) -> Loss:
    """Over a clip, each graph with caches of its own. Infinite where a result is not finite and should be."""
    run, run_near = exact.opened(), near.opened()
    error = np.zeros(len(exact.outputs))
    whole, most = error.copy(), 0.0
    results: list[tuple[Any, Any]] = []
    for feed in feeds:
        wanted, got = run(feed), run_near(feed)
        most = max([most, *map(apart, got, wanted)])
        for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
            error[i] += _energy(one.astype(np.float64) - other)
            whole[i] += _energy(other.astype(np.float64))
        if meaning and np.isfinite(most):
            results.append((meaning.task.decode(got, meaning.size), meaning.task.decode(wanted, meaning.size)))
    if not np.isfinite(most):
        return Loss(float("inf"), most)
    rms = float(np.sqrt(error / np.maximum(whole, 1e-12)).max(initial=0.0))
    if meaning is None:
        return Loss(rms, most)
    figures = meaning.task.agreement([got for got, _ in results], [wanted for _, wanted in results])
    return Loss(rms, most, meaning.task.figure, figures[meaning.task.figure])


def most_to_blame(exact: Graph, near: Graph, feeds: Iterable[Feed], kept: Collection[str], count: int = 3) -> list[str]:
    """The ops that are not kept and add most to the error, worst first: their error less that of what they read."""
    nodes = [n for n in exact.model.graph.node if n.op_type not in MOVES]
    floats = float_tensors(exact.model)
    names = list(dict.fromkeys(name for n in nodes for name in n.output if name in floats))
    source = {
        name: next((i for i in n.input if i in floats), name)
        for n in exact.model.graph.node
        if n.op_type in MOVES
        for name in n.output
    }
    run, run_near = exact.opened(names), near.opened(names)
    added: dict[str, float] = {}
    for feed in feeds:
        wanted, got = (dict(zip(names, g(feed)[-len(names) :], strict=True)) for g in (run, run_near))
        errors = {name: _relative(got[name], wanted[name]) for name in names}
        for node in nodes:
            read = [errors.get(_root(name, source), 0.0) for name in node.input]
            made = max((errors[name] for name in node.output if name in errors), default=0.0)
            if op_of(node) not in kept and made > max(read, default=0.0):
                gain = made - max(read, default=0.0) if np.isfinite(made) else float("inf")
                added[op_of(node)] = max(added.get(op_of(node), 0.0), gain)
    return [op for op, _ in sorted(added.items(), key=lambda pair: -pair[1])[:count]]


def _root(name: str, source: dict[str, str]) -> str:
    """Where the numbers of a tensor that was only moved were made."""
    while name in source and source[name] != name:
        name = source[name]
    return name


def _energy(x: Array) -> float:
    return float(np.square(x[np.isfinite(x)]).sum())


def _relative(got: Array, wanted: Array) -> float:
    """Root mean square error over that of what is wanted; infinite where a number was lost.

    Lists of other lengths, which a gate near its bound gives, cannot be compared.
    """
    if got.shape != wanted.shape:
        return 0.0
    if not np.array_equal(np.isfinite(got), np.isfinite(wanted)):
        return float("inf")
    return float(np.sqrt(_energy(got.astype(np.float64) - wanted) / max(_energy(wanted.astype(np.float64)), 1e-12)))
