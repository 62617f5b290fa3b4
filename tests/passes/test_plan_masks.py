"""Masks of a plan against the references of the ops they stand for (the steps alone: tests/kernels/test_plan_masks.py)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from fluxcompile.geometry import parse_layout
from fluxcompile.ops import TABLE, flux
from fluxcompile.passes.lower_plan import Lowering
from fluxcompile.passes.plan_masks import Masks
from fluxcompile.passes.plan_values import Part, Storage
from fluxcompile.program import Graph, Plan, Program
from fluxcompile.runtime.build_plan import Builder

aten = torch.ops.aten


class Lowered:
    """One mask op of a graph as a plan, from operands that a frame says."""

    def __init__(self, op: Any, args: Sequence[Any]) -> None:
        """Bool tensors among the arguments are operands, others constants."""
        self.module = fx.GraphModule(nn.Module(), fx.Graph())
        self.lowering = Lowering(self.module, {})
        self.operands: list[Tensor] = []
        node = self.module.graph.call_function(op, tuple(fx.node.map_aggregate(list(args), self._node)))  # type: ignore[arg-type]
        node.meta["val"] = op(*args)
        self.out = self.lowering.masks.of(node)
        self.lowering._bind()

    def _node(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        graph, name = self.module.graph, f"tensor_{len(list(self.module.graph.nodes))}"
        if value.dtype != torch.bool:
            self.module.register_buffer(name, value)
            node = graph.get_attr(name)
        else:
            node = graph.placeholder(name)
            self.lowering.masks.known[node] = mask = self.lowering.masks.new(value.numel())
            part = Part(Storage(value.numel(), 1), 0, value.numel(), 1, 0, 1)
            self.lowering.step("input", mask=mask, out=part, planar=True, dtype="u8", name=name)
            self.operands.append(value)
        node.meta["val"] = value
        return node

    @property
    def plan(self) -> Plan:
        return self.lowering.plan

    def build(self) -> Builder:
        constants = {k: v.numpy() for k, v in self.lowering.constants.items()}
        dense = Graph([], [], [])
        return Builder(Program({"dense": dense}, [], None, plan=self.plan, constants=constants), "plain", 1)


class Running:
    """The plan of a mask op, frame by frame."""

    def __init__(self, op: Any, args: Sequence[Any]) -> None:
        self.lowered = Lowered(op, args)
        self.build = self.lowered.build()
        self(*[torch.ones_like(m) for m in self.lowered.operands], fresh=True)

    def __call__(self, *masks: Tensor, fresh: bool = False, radius: int = -1) -> Tensor:
        plan: Any = self.build.plan
        plan.set(0.0, 0.0, radius)
        for step, mask in zip(self.build.inputs, masks, strict=True):
            bits = mask.numpy().astype(np.uint8)
            plan.feed(step, np.zeros(len(bits), np.uint8), None if fresh else bits)
        plan.run(fresh, 0, len(plan))
        return torch.from_numpy(np.frombuffer(plan.bits(self.lowered.out), np.bool_).copy())


def random_masks(operands: Sequence[Tensor], seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    share = (0.0, 0.05, 0.3, 1.0)[seed % 4]
    return [torch.rand(m.shape, generator=random) < share for m in operands]


def with_operands(args: Sequence[Any], masks: Sequence[Tensor]) -> list[Any]:
    """The arguments with other masks."""
    left = list(masks)

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(v) for v in value]
        return left.pop(0) if isinstance(value, Tensor) and value.dtype == torch.bool else value

    return [one(a) for a in args]


def assert_masks(op: Any, args: Sequence[Any], *, exact: bool = True) -> Running:
    """Frame by frame the plan's mask is the op's, or holds it where it need not be exact; a fresh frame sets all."""
    run = Running(op, args)
    for seed in range(9):
        masks = random_masks(run.lowered.operands, seed)
        got, want = run(*masks), op(*with_operands(args, masks))
        assert bool((got | ~want).all())
        if exact:
            assert torch.equal(got, want)
        if seed == 4:
            assert bool(run(*masks, fresh=True).all())
    return run


SAMPLED = ("miss_join", "miss_window", "miss_remap", "miss_any")


@pytest.mark.parametrize("name", SAMPLED)
def test_samples(name: str) -> None:
    """Exact; only where nothing but padding is read, and everything missed, may a window miss too."""
    for args in TABLE[name].samples():
        assert_masks(getattr(flux, name).default, args, exact=name != "miss_window")


JOINS = (
    ("abcd abcd -> abcd", ("1 4 yH xW", "1 4 yH xW"), "1 4 yH xW"),
    ("abcd abCD -> abcd", ("1 4 yH xW", "1 4 1 1"), "1 4 yH xW"),
    ("abcd aBcd -> abcd", ("1 4 yH xW", "1 1 yH xW"), "1 4 yH xW"),
    ("abcd abCd abcD -> abcd", ("1 4 yH xW", "1 4 1 xW", "1 4 yH 1"), "1 4 yH xW"),
    ("abcd -> abd", ("1 4 yH xW",), "1 4 xW"),
    ("abcd -> abcD", ("1 4 yH xW",), "1 4 yH xW"),
    ("abcd -> abdc", ("1 4 yH xW",), "1 4 xW yH"),
    ("abc -> acb", ("1 yH.xW 4",), "1 4 yH.xW"),
    ("nqd nkd -> nqk", ("1 yH.xW 8", "1 yH.xW 8"), "1 yH.xW 4"),
    ("bcij bcxy -> bxy", ("1 4 yH xW", "1 4 yH xW"), "1 yH xW"),
    ("nqd nkd -> nqk", ("y2:2.x2:2 y2.x2 8", "y2:2.x2:2 y2.x2 8"), "y2:2.x2:2 y2.x2 4"),
    ("_ abcd -> abcd", ("", "1 4 yH xW"), "1 4 yH xW"),
)


def sized(text: str, h: int, w: int) -> str:
    """A layout with its axes' sizes; one of one cell is no axis."""
    words = []
    for word in text.split():
        factors = [f"{axis}{n}" for axis, n in (("yH", h), ("xW", w)) if axis in word and n > 1]
        words.append(".".join(factors).replace("H", "").replace("W", "") if "H" in word or "W" in word else word)
    return " ".join(word or "1" for word in words)


@pytest.mark.parametrize("join", JOINS, ids=str)
@pytest.mark.parametrize("size", [(4, 4), (1, 6), (5, 1), (3, 7)])
def test_joins(join: tuple[str, tuple[str, ...], str], size: tuple[int, int]) -> None:
    letters, layouts, out = join
    found, out = [sized(t, *size) for t in layouts], sized(out, *size)
    masks = [torch.zeros(parse_layout(t).rows, dtype=torch.bool) for t in found]
    assert_masks(flux.miss_join.default, [masks, letters, found, out], exact=False)


def test_joins_say_no_more_than_they_must() -> None:
    """One pixel of a map touches one, a strip its column, a value without a place everything."""
    args = [
        [torch.zeros(n, dtype=torch.bool) for n in (12, 4, 1)],
        "abcd abCd abCD -> abcd",
        ["1 2 y3 x4", "1 2 1 x4", "1 2 1 1"],
        "1 2 y3 x4",
    ]
    run = assert_masks(flux.miss_join.default, args)
    for operand, count in ((0, 1), (1, 3), (2, 12)):
        masks = [torch.zeros(n, dtype=torch.bool) for n in (12, 4, 1)]
        masks[operand][0] = True
        assert int(run(*masks).sum()) == count


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_remaps(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    table = data.draw(st.lists(st.integers(-1, rows - 1), min_size=1, max_size=15))
    start = data.draw(st.integers(0, rows - 1))
    for reads in (table, list(range(start, rows)), [-1, *range(start, rows), -1]):
        assert_masks(flux.miss_remap.default, [torch.zeros(rows, dtype=torch.bool), torch.tensor(reads)])


def test_masks_laid_end_to_end() -> None:
    sizes = [[torch.zeros(n, dtype=torch.bool) for n in (3, 1, 4)]]
    assert_masks(aten.cat.default, sizes)


@pytest.mark.parametrize("frame", [(16, 16), (12, 20), (9, 7), (1, 8), (30, 2), (64, 96)])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 16, 32, 50])
@pytest.mark.parametrize("radius", [-1, 0, 2, 100])
def test_limits(frame: tuple[int, int], step: int, radius: int) -> None:
    """Of a map of every scale, with centres where a window left them; built from finer ones where it can be."""
    h, w = (max(1, -(-n // step)) for n in frame)
    for origin in ((step - 1) / 2, 0.0):
        miss, pixels = torch.zeros(h * w, dtype=torch.bool), torch.zeros(frame[0] * frame[1], dtype=torch.bool)
        settings_ = ([h, w], list(frame), [float(step)] * 2, [origin] * 2)

        def limited(miss: Tensor, pixels: Tensor, *settings_: Any, radius: int = radius) -> Tensor:
            reach = TABLE["reach"].reference(pixels, torch.tensor(radius), settings_[1])
            return TABLE["limit"].reference(miss, reach, *settings_)  # type: ignore[no-any-return]

        run = LimitRunning(miss, pixels, settings_)
        for seed in range(6):
            masks = random_masks([miss, pixels], seed)
            masks[0] = random_masks([miss], seed + 1)[0]
            assert torch.equal(run(*masks, radius=radius), limited(*masks, *settings_))
        assert bool(run(*masks, fresh=True, radius=radius).all())


class LimitRunning(Running):
    """A mask and the pixels it must lie near."""

    def __init__(self, miss: Tensor, pixels: Tensor, settings_: tuple[Any, ...]) -> None:
        self.lowered = lowered = Lowered.__new__(Lowered)
        lowered.module = fx.GraphModule(nn.Module(), fx.Graph())
        lowered.lowering, lowered.operands = Lowering(lowered.module, {}), []
        a, b = lowered._node(miss), lowered._node(pixels)
        reach = lowered.module.graph.call_function(flux.reach.default, (b, None, settings_[1]))
        reach.meta["val"] = pixels
        node = lowered.module.graph.call_function(flux.limit.default, (a, reach, *settings_))
        node.meta["val"] = miss
        lowered.out = lowered.lowering.masks.of(node)
        lowered.lowering._bind()
        self.build = lowered.build()
        self(miss, pixels, fresh=True)


def test_a_lost_reader_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    join = Masks.join
    monkeypatch.setattr(Masks, "join", lambda self, rows, readers: join(self, rows, readers[:-1]))
    args = [[torch.zeros(12, dtype=torch.bool)] * 2, "abcd abcd -> abcd", ["1 2 y3 x4"] * 2, "1 2 y3 x4"]
    with pytest.raises(AssertionError):
        assert_masks(flux.miss_join.default, args, exact=False)
