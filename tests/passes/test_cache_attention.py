"""Attention by windows and by queries, in its three settings."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile import OptionError, fluxcompile
from fluxcompile.passes.cache_attention import cache_attention
from tests.helpers import Do, Runner, assert_left_alone, assert_matches, assert_streams, masked, seeded, text_of

SHAPE = (1, 12, 8, 8)
MASK = torch.rand(16, 1, 4, 4)


def tokens(x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of two heads: [1, 2, 64, 2] each."""
    return x.flatten(2).mT.unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)


def windows(x: Tensor) -> tuple[Tensor, ...]:
    """The same of windows of 2 x 2 cells: [16, 2, 4, 2] each."""
    parts = x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).permute(0, 2, 4, 3, 5, 1).reshape(16, 4, 3, 2, 2)
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


attend = F.scaled_dot_product_attention


def test_rewrites() -> None:
    module = masked(Do(lambda x: attend(*tokens(x))), SHAPE)
    assert cache_attention(module) == 1
    assert_expected_inline(
        text_of(module, "rows", "attention"),
        """\
%cache_scaled_dot_product_attention: f32[1x2x64x2] = cache
%rows: i64[64] = flux.rows(%miss_join, %fresh, layout="1 1 y8.x8 1", dim=2)
%index_select: f32[1x2x64x2] = aten.index_select(%getitem, dim=2, %rows)
%scaled_dot_product_attention_1: f32[1x2x64x2] = aten.scaled_dot_product_attention(%index_select, %getitem_1, %getitem_2)
%scaled_dot_product_attention: f32[1x2x64x2] = flux.row_scatter(%scaled_dot_product_attention_1, %cache_scaled_dot_product_attention, %rows, dim=2)
return [%scaled_dot_product_attention]""",
    )
    assert_left_alone(cache_attention, module)


def test_rewrites_incremental() -> None:
    module = masked(Do(lambda x: attend(*tokens(x))), SHAPE)
    assert cache_attention(module, attention="incremental") == 1
    assert_expected_inline(
        text_of(module, "rows", "correct", "getitem(%correct"),
        """\
%rows: i64[64] = flux.rows(%miss_input, %fresh, layout="1 1 y8.x8 1", dim=2)
%correct_attention: (f32[1x2x64x2], f32[1x2x64x2], f32[1x2x64x1], f32[1x2x64x1]) = flux.correct_attention(%getitem, %getitem_1, %getitem_2, %cache_scaled_dot_product_attention_key, %cache_scaled_dot_product_attention_value, %cache_scaled_dot_product_attention_numerator, %cache_scaled_dot_product_attention_denominator, %cache_scaled_dot_product_attention_offset, %rows, %rows, %rows, %fresh, scale=0.7071067811865476)
%getitem_3: f32[1x2x64x2] = getitem(%correct_attention, 1)
%getitem_4: f32[1x2x64x1] = getitem(%correct_attention, 2)
%getitem_5: f32[1x2x64x1] = getitem(%correct_attention, 3)
%scaled_dot_product_attention: f32[1x2x64x2] = getitem(%correct_attention, 0)""",
    )
    assert_left_alone(cache_attention, module, attention="incremental")


BLOCKED: dict[str, Callable[..., Tensor]] = {
    "global": lambda x: attend(*tokens(x)),
    "global, scaled": lambda x: attend(*tokens(x), scale=0.3),
    "windows": lambda x: attend(*windows(x)),
    "windows, masked": lambda x: attend(*windows(x), MASK),
    "one value thrice": lambda x: attend(*[x.flatten(2).mT[:, None]] * 3),
    "three dimensions": lambda x: attend(*[x.flatten(2).mT] * 3),
    "fewer keys": lambda x: attend(tokens(x)[0], *tokens(F.max_pool2d(x, 2))[1:]),
    "a class token": lambda x: attend(*[torch.cat([torch.ones(1, 2, 1, 2), t], 2) for t in tokens(x)]),
}


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("attention", ["exact", "incremental"])
def test_equal_numbers(name: str, attention: str) -> None:
    model = Do(BLOCKED[name])
    module = masked(model, SHAPE)
    assert cache_attention(module, attention=attention) == 1
    assert_streams(model, module)


def rows_of(module: object, frames: list[Tensor]) -> list[int]:
    """How many queries each frame computed, from the program's work."""
    run = Runner(module)  # type: ignore[arg-type]
    counts = []
    for frame in frames:
        run(frame)
        ((_, share),) = run.run.work.items()
        counts.append(round(share * 64))
    return counts


@pytest.mark.parametrize(("attention", "want"), [("exact", [64, 64, 0]), ("active", [64, 1, 0])])
def test_what_a_setting_computes(attention: str, want: list[int]) -> None:
    """One changed token: exact attention computes every query anew, active attention only its own."""
    module = masked(Do(lambda x: attend(*tokens(x))), SHAPE, attention=attention)
    cache_attention(module, attention=attention)
    x = torch.rand(SHAPE)
    y = x.clone()
    y[0, :, 3, 3] += 1
    assert rows_of(module, [x, y, y.clone()]) == want


def test_windows_that_did_not_change_are_not_computed() -> None:
    module = masked(Do(lambda x: attend(*windows(x))), SHAPE)
    cache_attention(module)
    x = torch.rand(SHAPE)
    y = x.clone()
    y[0, 1, 3, 3] += 1
    assert rows_of(module, [x, y, y.clone()]) == [64, 4, 0]


class Reduced(nn.Module):
    """Queries of a fine map against keys of a coarse one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.reduce = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.embed(x)
        q, k = (m.flatten(2).mT[:, None] for m in (fine, self.reduce(fine)))
        return attend(q, k, k)


@pytest.mark.parametrize("attention", ["exact", "incremental"])
def test_queries_that_move_while_keys_stand_still(attention: str) -> None:
    """A pan by one cell of the queries' map is no cell at all of the keys' map."""
    model = seeded(Reduced).double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    stream = fluxcompile(model, x, attention=attention).stream()
    stream(x)
    for vector in ((0, 4), (4, 0), (-4, 8)):
        x = x.roll([-v for v in vector], (2, 3))
        motion = torch.tensor(vector)[:, None, None].expand(2, 4, 4)
        with torch.no_grad():
            assert_matches(stream(x, motion=motion), model(x))


LEFT: dict[str, Callable[..., Tensor]] = {
    "causal": lambda x: attend(*tokens(x), is_causal=True),
    "opaque": lambda x: attend(*[x.reshape(1, 2, 16, 24)] * 3),
    "no place": lambda x: attend(*[x.mean((2, 3)).view(1, 1, 4, 3)] * 3),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = masked(model, SHAPE)
    assert_left_alone(cache_attention, module)
    assert_streams(model, module)


def test_unknown_setting() -> None:
    with pytest.raises(OptionError, match="attention is 'fast'; use one of exact, incremental, active"):
        cache_attention(masked(nn.ReLU(), SHAPE), attention="fast")
