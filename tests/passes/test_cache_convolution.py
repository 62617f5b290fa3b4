"""Convolutions of every kind in tiles: any kernel, stride, dilation, padding, groups, transposed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import nn

from fluxcompile.ops import TABLE
from fluxcompile.passes.cache_convolution import cache_convolution
from tests.helpers import Do, Runner, assert_left_alone, assert_matches, assert_streams, masked, seeded, text_of

SHAPE = (1, 4, 17, 24)


def test_rewrites() -> None:
    module = masked(nn.Conv2d(4, 8, 3, 2, 1), SHAPE)
    assert cache_convolution(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "conv2d"),
        """\
%cache_conv2d: f32[1x8x9x12] = cache
%tiles: i64[4x2] = flux.tiles(%miss_window, %fresh, size=[9, 12], tile=[8, 8])
%halo_gather: f32[4x4x17x17] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[16, 16], start=[-1, -1], extent=[17, 17], fill=0.0, clamp=False)
%conv2d_1: f32[4x8x8x8] = aten.conv2d(%halo_gather, @weight, @bias, stride=[2, 2], padding=[0, 0], dilation=[1, 1], groups=1)
%conv2d: f32[1x8x9x12] = flux.tile_scatter(%conv2d_1, %cache_conv2d, %tiles, dims=[2, 3], size=[8, 8])
return [%conv2d]""",
    )
    assert_left_alone(cache_convolution, module)


def test_rewrites_transposed() -> None:
    module = masked(nn.ConvTranspose2d(4, 8, 3, 2, 1), SHAPE)
    assert cache_convolution(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "conv_transpose2d", "slice"),
        """\
%cache_conv_transpose2d: f32[1x8x33x47] = cache
%tiles: i64[30x2] = flux.tiles(%miss_window, %fresh, size=[33, 47], tile=[8, 8])
%halo_gather: f32[30x4x5x5] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[5, 5], fill=0.0, clamp=False)
%conv_transpose2d_1: f32[30x8x11x11] = aten.conv_transpose2d(%halo_gather, @weight, @bias, stride=[2, 2], padding=[0, 0], output_padding=[0, 0], groups=1, dilation=[1, 1])
%slice_1: f32[30x8x8x11] = aten.slice(%conv_transpose2d_1, dim=2, start=1, end=9)
%slice_2: f32[30x8x8x8] = aten.slice(%slice_1, dim=3, start=1, end=9)
%conv_transpose2d: f32[1x8x33x47] = flux.tile_scatter(%slice_2, %cache_conv_transpose2d, %tiles, dims=[2, 3], size=[8, 8])
return [%conv_transpose2d]""",
    )
    assert_left_alone(cache_convolution, module)


BLOCKED: dict[str, Callable[[], nn.Module]] = {
    "1x1": lambda: nn.Conv2d(4, 8, 1),
    "3x3": lambda: nn.Conv2d(4, 8, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 8, 3, 2, 1),
    "no padding": lambda: nn.Conv2d(4, 8, 5, 3),
    "even kernel": lambda: nn.Conv2d(4, 8, 2, 2),
    "uneven sides": lambda: nn.Conv2d(4, 8, (1, 7), (1, 2), (0, 3)),
    "dilated": lambda: nn.Conv2d(4, 8, 3, padding=4, dilation=4),
    "more padding than kernel": lambda: nn.Conv2d(4, 8, 3, padding=5),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
    "grouped": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "same": lambda: nn.Conv2d(4, 8, 3, padding="same"),
    "same, even": lambda: nn.Conv2d(4, 8, 4, padding="same", dilation=2),
    "patches": lambda: nn.Conv2d(4, 8, (8, 12), (8, 12)),
    "transposed": lambda: nn.ConvTranspose2d(4, 8, 2, 2),
    "transposed, overlapping": lambda: nn.ConvTranspose2d(4, 8, 3, 2, 1, 1),
    "transposed, dilated": lambda: nn.ConvTranspose2d(4, 8, 3, (1, 3), 1, dilation=2),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=2, bias=False),
    "transposed, padding beyond": lambda: nn.ConvTranspose2d(4, 8, 3, 1, 2),
    "of tokens": lambda: Do(lambda x, conv: conv(x.flatten(2)[..., None]), nn.Conv2d(4, 8, 1)),
    "of tokens, in one dimension": lambda: Do(lambda x, conv: conv(x.flatten(2)), nn.Conv1d(4, 8, 1)),
    "of a batch": lambda: Do(lambda x, conv: conv(x.transpose(0, 1)), nn.Conv2d(1, 2, 3, padding=1)),
    "of a finer map": lambda: Do(lambda x, conv: conv(F.pixel_shuffle(x, 2)), nn.Conv2d(1, 2, 3)),
    "of a coarser map": lambda: Do(lambda x, conv: conv(F.pixel_unshuffle(x[:, :, 1:], 2)), nn.Conv2d(16, 2, 3)),
    "of a row": lambda: Do(lambda x, conv: conv(x.mean(2, keepdim=True)), nn.Conv2d(4, 8, (1, 3), padding=(0, 1))),
    "of a column": lambda: Do(lambda x, conv: conv(x.mean(3, keepdim=True)), nn.Conv2d(4, 8, 1)),
    "to a row": lambda: nn.Conv2d(4, 8, (17, 1)),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_equal_numbers(name: str) -> None:
    model = seeded(BLOCKED[name])
    module = masked(model, SHAPE)
    assert cache_convolution(module) == 1
    assert_streams(model, module)


def test_all_hit_returns_the_cache() -> None:
    module = masked(nn.Conv2d(4, 8, 3, padding=1), SHAPE)
    cache_convolution(module)
    run, x = Runner(module), torch.rand(SHAPE)
    run(x)
    run.caches["cache_conv2d"] += 7
    want = run.caches["cache_conv2d"].clone()
    assert torch.equal(run(x)[0], want)


def test_only_tiles_that_miss_are_fresh() -> None:
    model = nn.Conv2d(4, 8, 1)
    module = masked(model, SHAPE)
    cache_convolution(module)
    run, x = Runner(module), torch.rand(SHAPE)
    run(x)
    run.caches["cache_conv2d"] *= 0
    y = x.clone()
    y[0, 2, 9, 3] += 1
    (found,) = run(y)
    tiles = TABLE["tiles"].reference((x != y)[0, 2].reshape(-1), torch.tensor(False), [17, 24], [8, 8])
    assert tiles.tolist() == [[1, 0]]
    with torch.no_grad():
        want = model(y) * 0
        want[..., 8:16, :8] = model(y)[..., 8:16, :8]
    assert_matches(found, want)


LEFT: dict[str, Callable[[], nn.Module]] = {
    "opaque": lambda: Do(lambda x, conv: conv(x.reshape(1, 4, 24, 17)), nn.Conv2d(4, 8, 3)),
    "no place": lambda: Do(lambda x, conv: conv(x.mean((2, 3), keepdim=True)), nn.Conv2d(4, 8, 1)),
    "a transposed map": lambda: Do(lambda x, conv: conv(x.transpose(2, 3)), nn.Conv2d(4, 8, 3)),
    "computed weights": lambda: Do(lambda x: F.conv2d(x, x[:, :, :3, :3])),
    "grouped, of tokens": lambda: Do(lambda x, conv: conv(x.flatten(2)), nn.Conv1d(4, 8, 1, groups=2)),
    "along tokens": lambda: Do(lambda x, conv: conv(x.flatten(2)), nn.Conv1d(4, 8, 3)),
    "no convolution": lambda: nn.MaxPool2d(3),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = masked(LEFT[name](), SHAPE)
    assert_left_alone(cache_convolution, module)
