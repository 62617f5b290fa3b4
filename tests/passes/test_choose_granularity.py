"""Tiles of different maps lie over each other."""

import pytest
import torch
from expecttest import assert_expected_inline
from torch import nn

from fluxcompile.options import TILE_PIXELS
from fluxcompile.passes.choose_granularity import choose_granularity
from fluxcompile.passes.flow import layout
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.partition import split
from tests.helpers import Do, assert_left_alone, placed


def tiles(module: torch.fx.GraphModule) -> str:
    nodes = [n for n in module.graph.nodes if n.op != "output" and n.op != "get_attr"]
    return "\n".join(f"{n.name:<12} {n.meta.get('tile', '')} {layout(n).grid}" for n in nodes)


def test_rewrites() -> None:
    model = nn.Sequential(*[nn.MaxPool2d((2, 1))] * 2, *[nn.MaxPool2d(2)] * 4, nn.Flatten(2))
    module = placed(model, (1, 2, 192, 128))
    assert choose_granularity(module) == 7
    assert_expected_inline(
        tiles(module),
        """\
input_1      (16, 16) 192x128 /1 +0
max_pool2d   (16, 16) 96x128 /2,1 +1/2,0
max_pool2d_1 (8, 16) 48x128 /4,1 +3/2,0
max_pool2d_2 (4, 16) 24x64 /8,2 +7/2,1/2
max_pool2d_3 (2, 8) 12x32 /16,4 +15/2,3/2
max_pool2d_4 (2, 4) 6x16 /32,8 +31/2,7/2
max_pool2d_5 (2, 2) 3x8 /64,16 +63/2,15/2
flatten       3x8 /64,16 +63/2,15/2""",
    )
    assert_left_alone(choose_granularity, module)


def test_a_boundary_map_counts_the_pixels_of_its_cells() -> None:
    """The cloud's tiles lie over those of the whole net."""
    module = placed(nn.Sequential(nn.MaxPool2d(4), nn.MaxPool2d(2), nn.MaxPool2d(2)), (1, 2, 192, 128))
    (first, *_) = (n for n in module.graph.nodes if n.op == "call_function")
    cloud = split(module, {first}).cloud
    for part in (module, cloud):
        infer_domains(part)
        choose_granularity(part)
    later = {
        n.name: n.meta["tile"] for n in module.graph.nodes if n.name in ("max_pool2d", "max_pool2d_1", "max_pool2d_2")
    }
    assert later == {n.name: n.meta["tile"] for n in cloud.graph.nodes if "tile" in n.meta}
    assert set(later.values()) == {(8, 8), (4, 4), (2, 2)}


@pytest.mark.parametrize(
    ("what", "model"),
    [("tokens", Do(lambda x: x.flatten(2))), ("no place", Do(lambda x: x.mean((2, 3)))), ("finer", nn.PixelShuffle(2))],
)
def test_left_alone(what: str, model: nn.Module) -> None:
    del what
    module = placed(model, (1, 4, 64, 64))
    assert choose_granularity(module) == 1  # the input
    assert [n.op for n in module.graph.nodes if "tile" in n.meta] == ["placeholder"]


def test_a_tile_chosen_before_stays() -> None:
    module = placed(nn.ReLU(), (1, 4, 64, 64))
    (relu,) = (n for n in module.graph.nodes if n.op == "call_function")
    relu.meta["tile"] = (1, 5)
    assert choose_granularity(module) == 1
    assert relu.meta["tile"] == (1, 5)
    assert TILE_PIXELS == 32
