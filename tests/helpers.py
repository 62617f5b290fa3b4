"""What the compiler's tests share: one comparison with one tolerance table, captured graphs, graphs run as programs."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from fluxcompile.ir import text
from fluxcompile.net import BACKENDS
from fluxcompile.passes.capture import capture
from fluxcompile.passes.count_macs import count_macs
from fluxcompile.passes.drop_identities import drop_identities
from fluxcompile.passes.emit_program import emit_graph
from fluxcompile.passes.fold_constants import fold_constants
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.insert_misses import insert_misses
from fluxcompile.runtime.execute import TYPES, Executor
from fluxcompile.verify import verify

# Of the largest value: sums in another order, two float32 backends apart.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU here"),
]
RUNNING = [pytest.param(name, marks=ON_GPU if name == "cuda" else ()) for name in BACKENDS]
"""The backends, for tests of each; a GPU's where there is one."""


def assert_matches(got: Any, want: Any) -> None:
    """The same tree of tensors: shapes, dtypes and, within the tolerance of the dtype, values; NaN equals NaN."""
    (a, tree), (b, other) = pytree.tree_flatten(got), pytree.tree_flatten(want)
    assert tree == other
    for x, y in zip(a, b, strict=True):
        assert type(x) is type(y)
        if not isinstance(y, Tensor | np.ndarray):
            assert x == y
            continue
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        finite = y[y.isfinite()].double()
        most = TOLERANCE.get(y.dtype, 0) * float(finite.abs().max()) if finite.numel() else 0.0
        torch.testing.assert_close(x, y, rtol=0, atol=most, equal_nan=True)


def assert_near_for_less(net: Any, exact: Any, near: Any, first: Tensor) -> None:
    """On a noisy frame with one change, `near` does less than `exact` and stays near dense inference."""
    frame = first + 0.01 * torch.rand(first.shape, generator=torch.Generator().manual_seed(0))
    frame[..., 8:12, 8:12] += 1
    shares = []
    for stream in (exact, near):
        stream(first)
        outputs = stream(frame)
        assert stream.stats is not None
        shares.append(stream.stats.work_share)
    assert shares[1] < 0.8 * shares[0]
    want = net.dense(frame)["map"]
    assert (outputs["map"] - want).abs().mean() < 0.1 * want.abs().mean()


class Do(nn.Module):
    """A function of a tensor and its modules: `Do(lambda x, conv: x + conv(x), nn.Conv2d(8, 8, 1))`."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module, name: str = "") -> None:
        super().__init__()
        self.function, self.name = function, name
        self.parts = nn.ModuleList(parts)

    def forward(self, *x: Tensor) -> Any:
        return self.function(*x, *self.parts)

    def extra_repr(self) -> str:
        return self.name


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The module a function makes, in eval mode, with weights and running statistics that are no identities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        with torch.no_grad():
            for m in model.modules():
                for name in ("weight", "running_var"):
                    value = getattr(m, name, None)
                    if isinstance(value, Tensor) and value.dim() == 1:
                        value.uniform_(0.5, 1.5)
                for name in ("bias", "running_mean"):
                    value = getattr(m, name, None)
                    if isinstance(value, Tensor):
                        value.uniform_(-0.5, 0.5)
    return model.eval()


def captured(model: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> GraphModule:
    """The captured graph of a model of inputs of these shapes."""
    model = model.eval().to(dtype)
    return capture(model, tuple(torch.zeros(s, dtype=dtype) for s in shapes))


def placed(model: nn.Module | GraphModule, *shapes: tuple[int, ...]) -> GraphModule:
    """The captured graph with domains and layers (made once), as the passes of the blocked stage find it."""
    module = model if isinstance(model, GraphModule) else captured(model, *shapes)
    if "layers" in module.meta:
        return module
    drop_identities(module)
    fold_constants(module)
    infer_domains(module)
    count_macs(module)
    return module


def masked(
    model: nn.Module | GraphModule,
    *shapes: tuple[int, ...],
    first: Sequence[Callable[..., int]] = (),
    attention: str = "exact",
) -> GraphModule:
    """A graph with masks, after the passes that must come before them."""
    module = placed(model, *shapes)
    for one in first:
        one(module)
    insert_misses(module, attention)
    return module


def assert_equal_numbers(model: nn.Module, module: GraphModule, *frames: Tensor) -> None:
    """The captured graph gives what the model gives."""
    module.recompile()
    with torch.no_grad():
        assert_matches(list(module(*frames)), pytree.tree_leaves(model(*frames)))


def assert_left_alone(one: Callable[..., int], module: GraphModule, **options: Any) -> None:
    """A pass finds nothing to do and changes nothing."""
    before = text(module)
    assert one(module, **options) == 0
    assert text(module) == before


def text_of(module: GraphModule, *words: str) -> str:
    """The lines of the text form that hold one of the words."""
    return "\n".join(line for line in text(module).splitlines() if any(w in line for w in words))


class Runner:
    """A blocked graph run frame by frame, as a stream would: caches kept, settings exact unless given."""

    def __init__(self, module: GraphModule) -> None:
        verify(module, "blocked", "the pass under test")
        constants: dict[str, Tensor] = {}
        self.graph = emit_graph(module, constants)
        self.run = Executor(self.graph, constants)
        self.caches: dict[str, Tensor] = {}

    def __call__(self, *frames: Tensor, **settings: Any) -> list[Any]:
        settings = {"fresh": not self.caches, "threshold": 0.0, "gate": 0.0, "radius": -1, "motion": 0, **settings}
        values: dict[str, Tensor] = {}
        left = list(frames)
        for spec in self.graph.inputs:
            if spec.role == "input":
                values[spec.name] = left.pop(0)
            elif spec.role == "cache":
                values[spec.name] = self.caches.get(spec.name, torch.zeros(spec.shape, dtype=TYPES[spec.dtype]))
            else:
                given = torch.as_tensor(settings[spec.role], dtype=TYPES[spec.dtype])
                values[spec.name] = given.expand(spec.shape).clone()
        outputs, self.caches = self.run(values)
        return outputs


def clip_of(shape: Sequence[int], dtype: torch.dtype = torch.float32, frames: int = 4) -> list[Tensor]:
    """Frames that differ in a few pixels each; the last two are equal."""
    random = torch.Generator().manual_seed(len(shape))
    found = [torch.rand(shape, generator=random, dtype=dtype)]
    for _ in range(frames - 2):
        frame = found[-1].clone()
        y, x = (int(torch.randint(n, (), generator=random)) for n in shape[-2:])
        part = frame[..., y : y + 3, x : x + 3]
        part += 1 + torch.rand(part.shape, generator=random, dtype=dtype)
        found.append(frame)
    return [*found, found[-1].clone()]


def assert_streams(model: nn.Module, module: GraphModule) -> Runner:
    """Frame by frame, whatever missed, the blocked graph gives what the model gives; the runner that did it."""
    run = Runner(module)
    spec = run.graph.inputs[0]
    clip = clip_of(spec.shape, TYPES[spec.dtype])
    for i, frame in enumerate([*clip, clip[0]]):
        with torch.no_grad():
            want = pytree.tree_leaves(model(frame))
        assert_matches(run(frame, **({"fresh": True} if i == len(clip) else {})), want)
    return run


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())
