"""A radius bounds how far a change spreads; without one nothing is dropped."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.geometry import parse_layout
from fluxcompile.ir import inputs, output
from fluxcompile.passes.flow import Domain
from fluxcompile.passes.limit_spread import limit_spread
from tests.helpers import Do, Runner, assert_streams, masked, placed, seeded, text_of

SHAPE = (1, 2, 16, 16)


def deep() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 5, 1, 2))
    )


def test_rewrites() -> None:
    module = masked(nn.Conv2d(2, 2, 3, 2, 1), SHAPE, first=[limit_spread])
    assert_expected_inline(
        text_of(module, "miss_window", "reach", "limit"),
        """\
%miss_window: b8[64] = flux.miss_window(%miss_input, @reads_8x3, @reads_8x3, size=[16, 16])
%reach: b8[256] = flux.reach(%miss_input, %radius, size=[16, 16])
%limit: b8[64] = flux.limit(%miss_window, %reach, size=[8, 8], frame=[16, 16], scale=[2.0, 2.0], origin=[0.0, 0.0])""",
    )


def test_twice_is_once() -> None:
    module = placed(deep(), SHAPE)
    assert limit_spread(module) == limit_spread(module) == 3


def test_exact_without_a_radius() -> None:
    assert_streams(deep(), masked(deep(), SHAPE, first=[limit_spread]))


@pytest.mark.parametrize(("radius", "want"), [(-1, 49), (0, 1), (2, 9), (30, 49)])
def test_cells_within_the_radius(radius: int, want: int) -> None:
    """Of pixel (8, 8): the last map has cells at pixels 0, 2 .. 14, and a cell touches the pixels beside its own."""
    module = masked(deep(), SHAPE, first=[limit_spread])
    last = [n for n in module.graph.nodes if "limit" in n.name][-1]
    output(module).args = ([last],)
    run, x = Runner(module), torch.rand(SHAPE)
    run(x)
    y = x.clone()
    y[..., 8, 8] += 1
    miss = run(y, radius=radius)[0].view(8, 8)
    assert int(miss.sum()) == want
    assert miss[4, 4]


LEFT: dict[str, Callable[..., Tensor]] = {
    "no window": lambda x: x.relu(),
    "a turned grid": lambda x: torch.conv2d(x.roll(1, 2), torch.ones(2, 2, 3, 3), padding=1),
    "no place": lambda x: torch.conv2d(x.mean((2, 3), keepdim=True), torch.ones(2, 2, 1, 1)),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = placed(Do(LEFT[name]), SHAPE)
    assert limit_spread(module) == 0
    assert not any(n.meta.get("limited") for n in module.graph.nodes)


def test_several_images_show_one_view() -> None:
    """A change of any, also of a coarser one, reaches the cells about its place, in every map."""
    model = seeded(lambda: Do(lambda x, y, a, b: b(a(x) + torch.nn.functional.interpolate(y, (16, 16))), *convs()))
    module = masked(model, SHAPE, (1, 2, 8, 8), first=[limit_spread])
    last = [n for n in module.graph.nodes if "limit" in n.name][-1]
    output(module).args = ([last],)
    run, x, y = Runner(module), torch.rand(SHAPE), torch.rand(1, 2, 8, 8)
    run(x, y)
    x[..., 2, 2] += 1
    y[..., 6, 6] += 1
    miss = run(x, y, radius=0)[0].view(16, 16)
    want = torch.zeros(16, 16, dtype=torch.bool)
    want[2, 2] = want[12:14, 12:14] = True
    assert torch.equal(miss, want)
    assert int(run(x + 1, y, radius=-1)[0].sum()) == 256


def convs() -> list[nn.Module]:
    return [nn.Conv2d(2, 2, 3, padding=1) for _ in range(2)]


def test_tokens_of_several_maps_are_left_alone() -> None:
    module = placed(Do(lambda x, conv: conv(x), nn.Conv2d(2, 2, 3)), SHAPE)
    (image,) = inputs(module)
    image.meta["domain"] = Domain(parse_layout("1 2 (16x16)"))
    assert limit_spread(module) == 0
