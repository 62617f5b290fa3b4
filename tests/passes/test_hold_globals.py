"""A value without a place is kept until it changes, so that what it scales need not be computed again."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.hold_globals import hold_globals
from tests.helpers import Do, Runner, assert_left_alone, assert_streams, masked, placed, seeded, text_of

SHAPE = (1, 4, 8, 12)


def squeeze_excite() -> nn.Module:
    return seeded(lambda: Do(lambda x, conv: x * conv(x.mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(4, 4, 1)))


def test_rewrites() -> None:
    module = placed(squeeze_excite(), SHAPE)
    assert hold_globals(module) == 1
    assert_expected_inline(
        text_of(module, "sigmoid", "hold"),
        """\
%cache_sigmoid: f32[1x4x1x1] = cache
%sigmoid: f32[1x4x1x1] = aten.sigmoid(%conv2d)
%hold: f32[1x4x1x1] = flux.hold(%sigmoid, %cache_sigmoid, %gate, %fresh)
%mul: f32[1x4x8x12] = aten.mul(%x_0, %hold)""",
    )
    assert_left_alone(hold_globals, module)


def test_others_see_only_a_change() -> None:
    module = masked(squeeze_excite(), SHAPE, first=[hold_globals])
    assert_expected_inline(
        text_of(module, "hold", "miss_join_1"),
        """\
%threshold: f32[] = threshold
%miss_input: b8[96] = flux.miss_input(%x_0, %cache_x_0, %fresh, %threshold, layout="1 4 y8 x12")
%hold: f32[1x4x1x1] = flux.hold(%sigmoid, %cache_sigmoid, %gate, %fresh)
%gate_1: b8[1] = flux.gate(%hold, %cache_sigmoid, %miss_join, @zero, layout="1 4 1 1")
%miss_join_1: b8[96] = flux.miss_join([%miss_input, %gate_1], letters="abcd abCD -> abcd", layouts=["1 4 y8 x12", "1 4 1 1"], out_layout="1 4 y8 x12")
%mul: f32[1x4x8x12] = aten.mul(%merge, %hold)""",
    )
    assert_streams(squeeze_excite(), module)


HELD: dict[str, Callable[..., Tensor]] = {
    "read twice": lambda x: (x * x.mean((2, 3), keepdim=True)) + x.mean((2, 3), keepdim=True),
    "two of them": lambda x: x * x.mean() - x.std(),
    "of a held value": lambda x: (x * x.amax((2, 3), keepdim=True)).sigmoid().mean() * x,
}


@pytest.mark.parametrize("name", HELD)
def test_equal_numbers(name: str) -> None:
    model = Do(HELD[name])
    module = placed(model, SHAPE)
    assert hold_globals(module) >= 1
    assert_streams(model, masked(module))


def test_a_gate_keeps_small_changes_away() -> None:
    """With a gate the scale stays what it was, and only what itself changed misses."""
    model = squeeze_excite()
    module = masked(model, SHAPE, first=[hold_globals])
    run, x = Runner(module), torch.rand(SHAPE)
    (first,) = run(x)
    y = x.clone()
    y[0, 0, 3, 3] += 0.01
    (held,) = run(y, gate=0.5)
    different = (held != first).any(1)[0]
    assert different.nonzero().tolist() == [[3, 3]]
    (free,) = run(y + 0.01, gate=0.0)
    assert (free != held).all()


LEFT: dict[str, Callable[..., Tensor]] = {
    "nobody with a place reads it": lambda x: x.mean((2, 3)).sigmoid(),
    "whole numbers": lambda x: x * x.flatten(2).argmax(-1)[..., None, None],
    "values with a place": lambda x: x * x.sigmoid(),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    assert_left_alone(hold_globals, placed(Do(LEFT[name]), SHAPE))
