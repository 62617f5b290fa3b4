"""Caches move with the scene, once per grid."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.ir import text
from fluxcompile.passes.cache_convolution import cache_convolution
from fluxcompile.passes.cache_pointwise import cache_pointwise
from fluxcompile.passes.insert_motion_reindex import insert_motion_reindex
from tests.helpers import (
    Do,
    Runner,
    assert_left_alone,
    assert_matches,
    assert_streams,
    captured,
    masked,
    placed,
    seeded,
    text_of,
)

SHAPE = (1, 2, 64, 96)


def test_rewrites() -> None:
    module = placed(nn.Conv2d(2, 4, 3, 2, 1), SHAPE)
    assert insert_motion_reindex(module) == 2
    assert_expected_inline(
        text(module),
        """\
%input_1: f32[1x2x64x96] = input
%motion: i32[2x4x6] = motion
%shift_at: i32[2x6144] = flux.shift_at(%motion, size=[64, 96], scale=[1.0, 1.0], origin=[0.0, 0.0], block=16)
%source: i64[6144] = flux.source(%shift_at, width=96)
%shift_at_1: i32[2x1536] = flux.shift_at(%motion, size=[32, 48], scale=[2.0, 2.0], origin=[0.0, 0.0], block=16)
%source_1: i64[1536] = flux.source(%shift_at_1, width=48)
%conv2d: f32[1x4x32x48] = aten.conv2d(%input_1, @weight, @bias, stride=[2, 2], padding=[1, 1])
return [%conv2d]""",
    )


def test_caches_go_through_it() -> None:
    module = masked(nn.Conv2d(2, 4, 3, 2, 1), SHAPE, first=[insert_motion_reindex])
    cache_convolution(module)
    assert_expected_inline(
        text_of(module, "reindex", "apart"),
        """\
%motion_reindex: f32[1x2x64x96] = flux.motion_reindex(%cache_input_1, %source, layout="1 2 y64 x96")
%miss_input: b8[6144] = flux.miss_input(%input_1, %motion_reindex, %fresh, %threshold, layout="1 2 y64 x96")
%merge: f32[1x2x64x96] = flux.merge(%input_1, %motion_reindex, %miss_input, layout="1 2 y64 x96")
%apart_window: b8[1536] = flux.apart_window(%shift_at, %shift_at_1, @reads_32x3, @reads_48x3, size=[64, 96], scale=[1.0, 1.0], out_scale=[2.0, 2.0])
%logical_or: b8[1536] = aten.logical_or(%miss_window, %apart_window)
%motion_reindex_1: f32[1x4x32x48] = flux.motion_reindex(%cache_conv2d, %source_1, layout="1 4 y32 x48")
%conv2d: f32[1x4x32x48] = flux.tile_scatter(%conv2d_1, %motion_reindex_1, %tiles, dims=[2, 3], size=[8, 8])""",
    )


@pytest.mark.parametrize(("vector", "most"), [((0, 4), 0.4), ((8, 0), 0.5), ((0, 3), 1.0), ((0, 0), 0.0)])
def test_a_pan_by_whole_cells_is_reused(vector: tuple[int, int], most: float) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU())).double()
    module = masked(captured(model, SHAPE, dtype=torch.float64), first=[insert_motion_reindex])
    cache_convolution(module)
    cache_pointwise(module)
    run, x = Runner(module), torch.rand(SHAPE, dtype=torch.float64)
    run(x)
    y = x.roll([-v for v in vector], (2, 3))
    with torch.no_grad():
        assert_matches(run(y, motion=torch.tensor(vector)[:, None, None]), [model(y)])
    (share,) = run.run.work.values()
    assert share <= most
    assert (share == 0) == (vector == (0, 0))


STILL: dict[str, Callable[..., Tensor]] = {
    "a turned grid": lambda x: x.roll(1, 3).sigmoid(),
    "no place": lambda x: x.mean((2, 3)),
}


@pytest.mark.parametrize("name", STILL)
def test_what_does_not_move(name: str) -> None:
    module = placed(Do(STILL[name]), SHAPE)
    assert insert_motion_reindex(module) == 1  # the input's grid
    last = [n for n in module.graph.nodes if "shift" in n.meta][-1]
    assert last.meta["source"] is None
    assert_streams(Do(STILL[name]), masked(module))


def test_inputs_of_two_sizes_are_left_alone() -> None:
    module = placed(Do(lambda x, y: (x.relu(), y.relu())), SHAPE, (1, 2, 16, 16))
    assert_left_alone(insert_motion_reindex, module)


def test_inputs_of_one_size_share_the_motion() -> None:
    module = placed(Do(lambda x, y: x + y), SHAPE, SHAPE)
    assert insert_motion_reindex(module) == 1
