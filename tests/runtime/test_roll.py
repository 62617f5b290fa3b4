"""Caches that roll with the camera: exact where the edges are computed anew, dense where a plan cannot roll."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.net import Net
from tests.helpers import Do, assert_matches, seeded
from tests.nets import nets
from tests.test_exact import Everything, quick


def rolls_of(net: Net) -> list[int]:
    assert net.program.plan is not None
    return net.program.plan.rolls.unit


def why(net: Net) -> str:
    assert net.program.plan is not None
    return net.program.plan.rolls.reason


LOOSE = Policy(exact=False)
"""Nothing is left out, but the caller's word counts."""


def edges(size: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """The pixels along the edges, and along those that were."""
    mask = np.zeros(size, bool)
    for view, n, d in ((mask, size[0], shift[0]), (mask.T, size[1], shift[1])):
        if d % n:
            view[[0, n - 1, d % n, (d - 1) % n]] = True
    return mask


def rolled(frame: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(np.roll(frame, shift, (-2, -1)))


def assert_rolls(net: Net, frame: np.ndarray, shifts: list[tuple[int, int]]) -> None:
    """A frame that only rolls, edges seen anew; the stream equals dense every time."""
    stream = net.stream(LOOSE, backend="cpu")
    stream(frame)
    for shift in shifts:
        frame = rolled(frame, shift)
        stream.roll(*shift)  # type: ignore[union-attr]
        assert_matches(stream(frame, miss=edges(frame.shape[-2:], shift)), net.dense(frame))  # type: ignore[arg-type]
        assert stream.stats is not None
        assert not stream.stats.dense
        assert stream.stats.work_share < 0.95


@quick(25)
@given(st.data())
def test_exact_streams_stay_exact(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    net = fluxcompile(model.float(), torch.zeros(shape))
    unit = rolls_of(net) or [1, 1]
    note(f"{model}\n{rolls_of(net)} {why(net)}")
    stream = net.stream(Policy(exact=True), backend="cpu")
    frame = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for _ in range(3):
        assert_matches(stream(frame), net.dense(frame))
        shift = tuple(u * data.draw(st.integers(-2, 2)) for u in unit)
        stream.roll(*shift)  # type: ignore[union-attr]
        frame = rolled(frame, shift)  # type: ignore[arg-type]


class Detector(nn.Module):
    """Boxes around a grid of anchors, of two scales: what knows its place comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
        for scale, n in ((2, 16), (4, 8)):
            y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
            self.register_buffer(f"grid_{scale}", torch.stack([y, x]).float() * scale)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.one(x))
        heads = [(h[:, :2] * 4 + grid).flatten(2) for h, grid in ((one, self.grid_2), (self.two(one), self.grid_4))]
        return torch.cat(heads, 2)


def detector() -> Net:
    return fluxcompile(seeded(Detector), torch.zeros(1, 3, 32, 32))


def test_what_knows_its_place_is_computed_anew() -> None:
    net = detector()
    assert rolls_of(net) == [4, 4]
    assert net.program.plan is not None
    assert net.program.plan.rolls.placed
    frame = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    assert_rolls(net, frame, [(4, -8), (0, 4), (-12, 0)])
    for step in net.program.plan.rolls.placed:
        assert net.program.plan.steps[step].op in ("pointwise", "output")
    stream, moved = net.stream(LOOSE, backend="cpu"), rolled(frame, (4, 0))
    stream(frame)
    outputs = stream(moved, miss=edges((32, 32), (4, 0)))
    with pytest.raises(AssertionError):  # a control: nobody said that it rolled
        assert_matches(outputs, net.dense(moved))


def test_what_reads_what_knows_its_place() -> None:
    model = Do(lambda x, conv: conv(x + torch.arange(8.0)), nn.Conv2d(4, 4, 3, padding=1)).eval()
    net = fluxcompile(model, torch.zeros(1, 4, 8, 8))
    stream = net.stream(LOOSE, backend="cpu")
    frame = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    stream(frame)
    for shift in ((1, 2), (0, -3)):
        frame = rolled(frame, shift)
        stream.roll(*shift)  # type: ignore[union-attr]
        assert_matches(stream(frame, miss=np.zeros((8, 8), bool)), net.dense(frame))


class Globals(nn.Module):
    """A mean over the map, and a map that is upsampled and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.silu(self.one(x))
        one = one * torch.sigmoid(self.excite(one.mean((2, 3), keepdim=True)))
        two = F.interpolate(self.two(one), scale_factor=2, mode="nearest")
        return self.three(torch.cat([one, two], 1))


def test_maps_of_several_scales_and_globals() -> None:
    net = fluxcompile(seeded(Globals), torch.zeros(1, 3, 32, 48))
    assert rolls_of(net) == [4, 4]
    frame = np.random.default_rng(1).normal(size=(1, 3, 32, 48)).astype(np.float32)
    # the mean comes out as it was but for rounding, which a gate of nothing passes on
    stream = net.stream(LOOSE, backend="cpu")
    stream(frame)
    stream.roll(8, -4)  # type: ignore[union-attr]
    assert_matches(stream(rolled(frame, (8, -4)), miss=edges((32, 48), (8, -4))), net.dense(rolled(frame, (8, -4))))


def test_bytes_roll_too() -> None:
    net = fluxcompile(seeded(lambda: nn.Conv2d(3, 4, 3, 2, 1)), torch.zeros(1, 3, 16, 24), frames=Frames())
    stream = net.stream(LOOSE, backend="cpu")
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    stream(frame)
    stream.roll(-2, 4)  # type: ignore[union-attr]
    here = np.roll(frame, (-2, 4), (0, 1))
    assert_matches(stream(here, miss=edges((16, 24), (-2, 4))), net.dense(here))
    here = here.copy()
    here[8, 12] ^= 128
    assert_matches(stream(here), net.dense(here))  # compared with the bytes that were moved
    assert stream.stats is not None
    assert stream.stats.miss.sum() == 1


def test_a_roll_that_does_not_fit_runs_dense() -> None:
    net = detector()
    stream = net.stream(LOOSE, backend="cpu")
    frame = np.zeros((1, 3, 32, 32), np.float32)
    stream(frame)
    stream.roll(2, 0)  # type: ignore[union-attr]
    stream(frame)
    assert stream.stats is not None
    assert stream.stats.dense


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Do(lambda x: x.flatten(2).unfold(2, 3, 2)), "moved by a table"),
        (Do(lambda x: torch.cumsum(x, 2)), "computed by torch"),
        (Do(lambda x: F.interpolate(x, (5, 5), mode="bilinear", align_corners=True)), "5 x 5 cells"),
    ],
    ids=["table", "torch", "uneven"],
)
def test_reasons(model: nn.Module, reason: str) -> None:
    net = fluxcompile(model.eval(), torch.zeros(1, 4, 8, 8))
    assert not rolls_of(net)
    assert reason in why(net)


def test_everything_names_a_reason_or_rolls() -> None:
    net = fluxcompile(seeded(Everything), torch.zeros(1, 3, 32, 48))
    assert bool(rolls_of(net)) != bool(why(net))
