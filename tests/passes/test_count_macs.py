"""What each layer costs, against torch's own counter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fluxcompile.ir import text
from fluxcompile.passes.count_macs import count_macs
from tests.helpers import Do, placed

SHAPE = (1, 4, 8, 12)
LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(4, 6, 3, 2, 1),
    "grouped": nn.Conv2d(4, 6, (1, 5), groups=2, dilation=2),
    "transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2),
    "linear": Do(lambda x, m: m(x.permute(0, 2, 3, 1)), nn.Linear(4, 5)),
    "matmul": Do(lambda x: x.flatten(2).mT @ x.flatten(2)),
    "bmm": Do(lambda x: torch.bmm(x.flatten(2).mT, torch.ones(1, 4, 7))),
    "addmm": Do(lambda x: torch.addmm(torch.ones(7), x.flatten(2)[0].mT, torch.ones(4, 7))),
    "conv1d": Do(lambda x, m: m(x.flatten(2)), nn.Conv1d(4, 6, 3)),
    "einsum": Do(lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(5, 4))),
    "attention": Do(lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_counts_what_torch_counts(name: str) -> None:
    module = placed(LAYERS[name], SHAPE)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        LAYERS[name](torch.zeros(SHAPE))
    assert sum(layer["macs"] for layer in module.meta["layers"]) == counter.get_total_flops() / 2


FREE: dict[str, Callable[..., Any]] = {
    "pointwise": lambda x: x.relu() + 1,
    "pool": lambda x: F.max_pool2d(x, 2),
    "one operand": lambda x: torch.einsum("bchw->bhwc", x),
    "several results": lambda x: x.max(1)[0],
}


@pytest.mark.parametrize("name", FREE)
def test_left_alone(name: str) -> None:
    assert count_macs(placed(Do(FREE[name]), SHAPE)) == 0


def test_names_and_reasons() -> None:
    """A module called twice is two layers."""

    def forward(x: Tensor, conv: nn.Module, linear: nn.Module) -> Tensor:
        y = conv(conv(x).reshape(1, 4, 12, 8))
        return linear(y.mean((2, 3)))

    module = placed(Do(forward, nn.Conv2d(4, 4, 1), nn.Linear(4, 2)), SHAPE)
    before = text(module)
    assert count_macs(module) == 3
    assert text(module) == before
    layers = module.meta["layers"]
    assert [(x["name"], x["macs"]) for x in layers] == [("parts.0", 1536), ("parts.0#2", 1536), ("parts.1", 8)]
    cut = "reshape cuts across the map: ((1, 4, 8, 12),)"
    assert [x["reason"] for x in layers] == ["", cut, cut]
