"""What has to run whole runs only when something it reads changed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.cache_convolution import cache_convolution
from fluxcompile.passes.cache_pointwise import cache_pointwise
from fluxcompile.passes.isolate_dense_regions import isolate_dense_regions
from tests.helpers import Do, Runner, assert_left_alone, assert_streams, masked, seeded, text_of

SHAPE = (1, 4, 8, 12)
WEIGHT = torch.ones(4, 4, 3, 3)


def head() -> nn.Module:
    return seeded(lambda: Do(lambda x, linear: linear(x.mean((2, 3))), nn.Linear(4, 5)))


def test_rewrites() -> None:
    module = masked(head(), SHAPE)
    assert isolate_dense_regions(module) == 1
    assert_expected_inline(
        text_of(module, "dense_0", "    "),
        """\
%dense_0: (f32[1x5]) = dense_0([%merge], [%miss_join], %fresh, [%cache_linear])
%getitem: f32[1x5] = getitem(%dense_0, 0)
dense_0:
    %merge: f32[1x4x8x12] = input
    %mean: f32[1x4] = aten.mean(%merge, dim=[2, 3])
    %linear: f32[1x5] = aten.linear(%mean, @parts.0.weight, @parts.0.bias)  # parts.0
    return [%linear]""",
    )
    assert_left_alone(isolate_dense_regions, module)
    assert_streams(head(), module)


REGIONS: dict[str, tuple[Callable[..., object], int]] = {
    "opaque": (lambda x: torch.fft.rfft2(x).abs().mean(1), 1),
    "two results": (lambda x: _two(x.mean((2, 3))), 1),
    "a group norm": (lambda x: F.group_norm(x, 2).relu(), 1),
    "a convolution between norms": (lambda x: F.group_norm(torch.conv2d(F.group_norm(x, 2), WEIGHT), 2), 2),
    "read by the mask's gate": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 1),
    "causal attention": (lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3, is_causal=True), 1),
    "a constant of its own": (lambda x: x.mean((2, 3)) @ torch.ones(4, 4) + torch.arange(4), 1),
    "a cast in between": (lambda x: x.double().flatten(1).cumsum(1).float().mean(1), 1),
}  # fmt: skip


def _two(mean: Tensor) -> tuple[Tensor, Tensor]:
    hidden = mean @ torch.ones(4, 3)
    return hidden.relu(), hidden.softmax(-1)


@pytest.mark.parametrize("name", REGIONS)
def test_equal_numbers(name: str) -> None:
    function, count = REGIONS[name]
    module = masked(Do(function), SHAPE)
    cache_convolution(module)
    cache_pointwise(module)
    assert isolate_dense_regions(module) == count
    assert_streams(Do(function), module)


def test_a_region_is_skipped_when_nothing_changed() -> None:
    module = masked(head(), SHAPE)
    isolate_dense_regions(module)
    run, x = Runner(module), torch.rand(SHAPE)
    shares = []
    for frame in (x, x.clone(), x + 1):
        result = run(frame)[0].clone()
        shares += run.run.work.values()
    assert shares == [1.0, 0.0, 1.0]
    run.caches["cache_linear"] += 7
    want = run.caches["cache_linear"].clone()
    assert torch.equal(run(x + 1)[0], want)
    assert not torch.equal(result, want)


LEFT: dict[str, Callable[..., object]] = {
    "moves": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
    "what costs nothing": lambda x: x.reshape(1, 4, 12, 8).relu(),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = masked(Do(LEFT[name]), SHAPE)
    assert_left_alone(isolate_dense_regions, module)


def test_everything_dense_is_one_region() -> None:
    """With no other pass the whole net is a region of its own."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    module = masked(model, SHAPE)
    assert isolate_dense_regions(module) == 1
    assert_streams(model, module)
