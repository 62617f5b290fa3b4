"""Plans: what becomes a kernel, a view or a region, the order of steps, shared constants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile import Net, fluxcompile, load
from fluxcompile.program import Plan
from tests.helpers import Do, assert_matches, seeded
from tests.nets import Attention, Tokens


def compiled(model: nn.Module, *shape: int, **options: Any) -> Net:
    return fluxcompile(seeded(lambda: model), torch.zeros(shape), **options)


def plan_of(model: nn.Module, *shape: int, **options: Any) -> Plan:
    plan = compiled(model, *shape, **options).program.plan
    assert plan is not None
    return plan


def of(function: Callable[..., Any], *parts: nn.Module) -> Plan:
    return plan_of(Do(function, *parts), 1, 4, 8, 8)


def steps(plan: Plan) -> list[str]:
    """The names of the steps that compute values."""
    return [s.op for s in plan.steps if s.op not in ("input", "output", "result", "window", "join", "limit", "reach")]


def regions(plan: Plan) -> list[list[str]]:
    """The ops of each region."""
    return [[o.op.split(".")[1] for o in s.body.ops if "." in o.op] for s in plan.steps if s.body]


# --- golden text ------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A stem, then two convolutions beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        return x + F.silu(self.b(F.silu(self.a(x))))


def test_activations_and_residuals_go_into_the_convolution() -> None:
    assert_expected_inline(
        plan_of(Residual(), 1, 3, 16, 16).text(),
        """\
b0[0:16x16, 0:3] = input(planar=True, dtype=f32, name=x) rows m0
m2 = reach(in=m0, width=16)
m3 = window(in=m2, reads_y=@plan.span_8x2, reads_x=@plan.span_8x2, size=[16, 16])
m4 = window(in=m0, reads_y=@plan.reads_8x3, reads_x=@plan.reads_8x3, size=[16, 16], near=m3)
b1[0:8x8, 0:8] = conv2d(x=b0[0:16x16, 0:3], weight=@stem.weight, bias=@stem.bias, stride=[2, 2], padding=[1, 1], dilation=[1, 1], groups=1, act=[silu, 0.0, 0.0, None]) rows m4 changed m1  # stem
m6 = window(in=m1, reads_y=@plan.reads_8x3_1, reads_x=@plan.reads_8x3_1, size=[8, 8], near=m3)
b2[0:8x8, 0:8] = conv2d(x=b1[0:8x8, 0:8], weight=@a.weight, bias=@a.bias, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1, act=[silu, 0.0, 0.0, None]) rows m6 changed m5  # a
m7 = window(in=m5, reads_y=@plan.reads_8x3_1, reads_x=@plan.reads_8x3_1, size=[8, 8], near=m3)
m8 = join(readers=[{'kind': 'range', 'in': {'mask': 1}, 'first_in': 0, 'first_out': 0, 'count': 64}, {'kind': 'range', 'in': {'mask': 7}, 'first_in': 0, 'first_out': 0, 'count': 64}])
b3[0:8x8, 0:8] = conv2d(x=b2[0:8x8, 0:8], weight=@b.weight, bias=@b.bias, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1, act=[silu, 0.0, 0.0, None], residual=b1[0:8x8, 0:8], residual_first=False) rows m8  # b
output(x=b3[0:8x8, 0:8], index=0, shape=[1, 8, 8, 8], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m8""",
    )


class Split(nn.Module):
    """Halves of channels, one of them convolved, and all laid side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.c(torch.cat([first, second, self.b(second)], 1))


def test_splits_and_concatenations_are_parts_of_a_buffer() -> None:
    plan = plan_of(Split(), 1, 3, 8, 8, without=["limit_spread"])
    assert plan.buffers == [(64, 3), (64, 12), (64, 4)]
    assert_expected_inline(
        plan.text(),
        """\
b0[0:8x8, 0:3] = input(planar=True, dtype=f32, name=x) rows m0
b1[0:8x8, 0:8] = conv2d(x=b0[0:8x8, 0:3], weight=@a.weight, bias=@a.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m0  # a
m1 = window(in=m0, reads_y=@plan.reads_8x3, reads_x=@plan.reads_8x3, size=[8, 8])
b1[0:8x8, 8:12] = conv2d(x=b1[0:8x8, 4:8], weight=@b.weight, bias=@b.bias, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1) rows m1  # b
m2 = join(readers=[{'kind': 'range', 'in': {'mask': 0}, 'first_in': 0, 'first_out': 0, 'count': 64}, {'kind': 'range', 'in': {'mask': 1}, 'first_in': 0, 'first_out': 0, 'count': 64}])
b2[0:8x8, 0:4] = conv2d(x=b1[0:8x8, 0:12], weight=@c.weight, bias=@c.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m2  # c
output(x=b2[0:8x8, 0:4], index=0, shape=[1, 4, 8, 8], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m2""",
    )


def test_tokens() -> None:
    """A class token before the map's, positions, attention with heads, and a token that gates all."""
    tokens = Tokens(8, 4, 4, Attention(8, 2, fused=True), token=True, positions=True)
    assert_expected_inline(
        plan_of(tokens, 1, 8, 4, 4).text(),
        """\
b0[0:4x4, 0:8] = input(planar=True, dtype=f32, name=x) rows m0
b1[0:1x1, 0:8] = constant(value=@plan.tokens)
b1[1:16x1, 0:8] = pointwise(x=b0[0:16x1, 0:8], terms=[]) rows m0
m1 = join(readers=[{'kind': 'range', 'in': {'mask': 0}, 'first_in': 0, 'first_out': 1, 'count': 16}])
b2[0:17x1, 0:8] = pointwise(x=b1[0:17x1, 0:8], terms=[[add, 0.0, 0.0, @plan.positions.rows]]) rows m1
b3[0:17x1, 0:8] = layer_norm(x=b2[0:17x1, 0:8], gamma=@plan.attention.norm.weight, beta=@plan.attention.norm.bias, epsilon=1e-05) rows m1  # attention.norm
b4[0:17x1, 0:8] = conv2d(x=b3[0:17x1, 0:8], weight=@plan.attention.q.weight.rows, bias=@plan.attention.q.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m1  # attention.q
b5[0:17x1, 0:16] = conv2d(x=b3[0:17x1, 0:8], weight=@plan.attention.kv.weight.rows, bias=@plan.attention.kv.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m1  # attention.kv
m2 = join(readers=[{'kind': 'range', 'in': {'mask': 1}, 'first_in': 0, 'first_out': 0, 'count': 17}, {'kind': 'any', 'in': {'mask': 1}}, {'kind': 'any', 'in': {'mask': 1}}])
m3 = join(readers=[{'kind': 'range', 'in': {'mask': 2}, 'first_in': 0, 'first_out': 0, 'count': 1}])
m4 = reach(in=m0, width=4)
m5 = window(in=m4, reads_y=@plan.span_4x1, reads_x=@plan.span_4x1, size=[4, 4])
m6 = join(readers=[{'kind': 'range', 'in': {'mask': 2}, 'first_in': 1, 'first_out': 0, 'count': 16}])
m7 = limit(in=m6, near=m5)
m8 = join(readers=[{'kind': 'range', 'in': {'mask': 3}, 'first_in': 0, 'first_out': 0, 'count': 1}, {'kind': 'range', 'in': {'mask': 7}, 'first_in': 0, 'first_out': 1, 'count': 16}])
b6[0:17x1, 0:8] = attention(heads=2, scale=0.5, q=b4[0:17x1, 0:8], k=b5[0:17x1, 0:8], v=b5[0:17x1, 8:16], keys=@plan.keys, group_of=@plan.group_of, member_of=@plan.member_of) rows m8  # attention
m9 = join(readers=[{'kind': 'range', 'in': {'mask': 1}, 'first_in': 0, 'first_out': 0, 'count': 17}, {'kind': 'range', 'in': {'mask': 8}, 'first_in': 0, 'first_out': 0, 'count': 17}])
b7[0:17x1, 0:8] = conv2d(x=b6[0:17x1, 0:8], weight=@plan.attention.out.weight.rows, bias=@plan.attention.out.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, residual=b2[0:17x1, 0:8], residual_first=True) rows m9  # attention.out
b8[0:17x1, 0:8] = layer_norm(x=b7[0:17x1, 0:8], gamma=@plan.mlp.0.weight, beta=@plan.mlp.0.bias, epsilon=1e-05) rows m9  # mlp.0
b9[0:17x1, 0:16] = conv2d(x=b8[0:17x1, 0:8], weight=@plan.mlp.1.weight.rows, bias=@plan.mlp.1.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, act=[gelu, 0.0, 0.0, None]) rows m9  # mlp.1
b10[0:17x1, 0:8] = conv2d(x=b9[0:17x1, 0:16], weight=@plan.mlp.3.weight.rows, bias=@plan.mlp.3.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, residual=b7[0:17x1, 0:8], residual_first=True) rows m9  # mlp.3
m10 = join(readers=[{'kind': 'range', 'in': {'mask': 9}, 'first_in': 0, 'first_out': 0, 'count': 1}])
b11[0:1x1, 0:8] = pointwise(x=b10[0:1x1, 0:8], terms=[[sigmoid, 0.0, 0.0, None]]) rows m10
b12[0:1x1, 0:8] = hold(x=b11[0:1x1, 0:8]) rows m10 changed m11
m12 = join(readers=[{'kind': 'range', 'in': {'mask': 9}, 'first_in': 1, 'first_out': 0, 'count': 16}])
m13 = join(readers=[{'kind': 'range', 'in': {'mask': 12}, 'first_in': 0, 'first_out': 0, 'count': 16}, {'kind': 'any', 'in': {'mask': 11}}])
m14 = limit(in=m13, near=m5)
b13[0:4x4, 0:8] = pointwise(x=b10[1:4x4, 0:8], terms=[[mul, 0.0, 0.0, {'vector': {'map': [12, 0, 1, 1, 0, 8]}}]]) rows m14
output(x=b13[0:4x4, 0:8], index=0, shape=[1, 8, 4, 4], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m14""",
    )


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        x = x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()
        return {"map": x, "classes": self.head(x.mean((2, 3)))}


def test_attention_that_is_corrected() -> None:
    """Its state lies in buffers, and what changed of q, k and v are masks of their own."""
    tokens = Tokens(8, 4, 4, Attention(8, 2, fused=True), token=False, positions=False)
    plan = plan_of(tokens, 1, 8, 4, 4, attention="incremental")
    assert_expected_inline(
        "\n".join(line for line in plan.text().splitlines() if "attention(" in line),
        """b4[0:4x4, 0:8] = correct_attention(heads=2, scale=0.5, q=b2[0:4x4, 0:8], k=b3[0:4x4, 0:8], v=b3[0:4x4, 8:16], k_old=b5[0:4x4, 0:8], v_old=b6[0:4x4, 0:8], mean=b7[0:4x4, 0:8], sums=b8[0:4x4, 0:6], queries=m0, keys=[m0, m0]) rows m5 changed m1  # attention""",
    )
    bias = Tokens(8, 4, 4, Attention(8, 2, fused=True, bias=torch.ones(16, 16)), token=False, positions=False)
    assert "correct_attention" not in steps(plan_of(bias, 1, 8, 4, 4, attention="incremental"))
    assert "correct_attention" not in steps(plan_of(tokens, 1, 8, 4, 4))


def test_what_has_no_place_is_held() -> None:
    assert_expected_inline(
        plan_of(SqueezeExcite(), 1, 3, 8, 8, without=["limit_spread"]).text(),
        """\
b0[0:8x8, 0:3] = input(planar=True, dtype=f32, name=x) rows m0
m2 = window(in=m0, reads_y=@plan.reads_8x3, reads_x=@plan.reads_8x3, size=[8, 8])
b1[0:8x8, 0:8] = conv2d(x=b0[0:8x8, 0:3], weight=@conv.weight, bias=@conv.bias, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1) rows m2 changed m1  # conv
b2[0:1x1, 0:8] = mean(x=b1[0:8x8, 0:8]) rows m1
m3 = join(readers=[{'kind': 'any', 'in': {'mask': 1}}])
b3[0:1x1, 0:8] = conv2d(x=b2[0:1x1, 0:8], weight=@plan.fc.weight.rows, bias=@plan.fc.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, act=[sigmoid, 0.0, 0.0, None]) rows m3  # fc
b4[0:1x1, 0:8] = hold(x=b3[0:1x1, 0:8]) rows m3 changed m4
m6 = join(readers=[{'kind': 'range', 'in': {'mask': 1}, 'first_in': 0, 'first_out': 0, 'count': 64}, {'kind': 'any', 'in': {'mask': 4}}])
b5[0:8x8, 0:8] = pointwise(x=b1[0:8x8, 0:8], terms=[[mul, 0.0, 0.0, {'vector': {'map': [4, 0, 1, 1, 0, 8]}}]]) rows m6 changed m5
b6[0:1x1, 0:8] = mean(x=b5[0:8x8, 0:8]) rows m5
m7 = join(readers=[{'kind': 'any', 'in': {'mask': 5}}])
b7[0:1x1, 0:5] = conv2d(x=b6[0:1x1, 0:8], weight=@plan.head.weight.rows, bias=@plan.head.weight.rows.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m7  # head
output(x=b5[0:8x8, 0:8], index=0, shape=[1, 8, 8, 8], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m5
output(x=b7[0:1x1, 0:5], index=1, shape=[1, 5], row_at=@plan.row_at.1, channel_at=@plan.channel_at.1) rows m7""",
    )


def test_what_no_kernel_knows_is_a_region() -> None:
    """With the ops around it left as kernels; what a region gives that is no map of floats stays with torch."""
    plan = of(lambda x, a, b: (b(a(x).cumsum(3).cumprod(2)), x.argmax(1) + 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    assert regions(plan) == [["cumsum", "cumprod"], ["argmax", "add"]]
    assert_expected_inline(
        plan.text(),
        """\
b0[0:8x8, 0:4] = input(planar=True, dtype=f32, name=x_0) rows m0
m1 = reach(in=m0, width=8)
m2 = window(in=m1, reads_y=@plan.span_8x1, reads_x=@plan.span_8x1, size=[8, 8])
m3 = limit(in=m0, near=m2)
b1[0:8x8, 0:4] = conv2d(x=b0[0:8x8, 0:4], weight=@parts.0.weight, bias=@parts.0.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m3  # parts.0
m4 = join(readers=[{'kind': 'group', 'in': {'mask': 3}, 'table': {'@': 'plan.keys_64'}, 'keys': {'@': 'plan.keys_64'}, 'count': 8}])
m5 = limit(in=m4, near=m2)
m6 = join(readers=[{'kind': 'group', 'in': {'mask': 5}, 'table': {'@': 'plan.keys_64.1'}, 'keys': {'@': 'plan.keys_64.1'}, 'count': 8}])
m7 = limit(in=m6, near=m2)
region(operands=[{'name': 'conv2d', 'shape': [1, 4, 8, 8], 'layout': '1 4 y8 x8', 'part': {'map': [1, 0, 8, 8, 0, 4]}, 'order': {'@': 'plan.order'}}], results=[{'name': 'cumprod', 'shape': [1, 4, 8, 8], 'layout': '1 4 y8 x8', 'part': {'map': [2, 0, 8, 8, 0, 4]}, 'order': {'@': 'plan.order'}}], misses=[m7])
b3[0:8x8, 0:4] = conv2d(x=b2[0:8x8, 0:4], weight=@parts.1.weight, bias=@parts.1.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1) rows m7  # parts.1
region(operands=[{'name': 'merge', 'shape': [1, 4, 8, 8], 'layout': '1 4 y8 x8', 'part': {'map': [0, 0, 8, 8, 0, 4]}, 'order': {'@': 'plan.order'}}], results=[{'name': 'add'}], misses=[m0])
output(x=b3[0:8x8, 0:4], index=0, shape=[1, 4, 8, 8], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m7
result(index=1, value={'%': 'add'})""",
    )


def test_windows_moves_and_resizes() -> None:
    plan = of(
        lambda x, up: (
            up(x.flip(3)), F.pad(x, (1, 1, 1, 1), value=0.5), F.avg_pool2d(x, 3, 2, 1),
            F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        ),
        nn.ConvTranspose2d(4, 4, 2, 2),
    )  # fmt: skip
    assert_expected_inline(
        plan.text(),
        """\
b0[0:8x8, 0:4] = input(planar=True, dtype=f32, name=x_0) rows m0
m1 = join(readers=[{'kind': 'table', 'in': {'mask': 0}, 'table': {'@': 'plan.lookup_64'}}])
b1[0:8x8, 0:4] = gather(x=b0[0:8x8, 0:4], table=@plan.gather_64, relative=False, fill=0.0) rows m1
m2 = window(in=m1, reads_y=@plan.reads_16x2, reads_x=@plan.reads_16x2, size=[8, 8])
b2[0:16x16, 0:4] = conv_transpose2d(x=b1[0:8x8, 0:4], stride=[2, 2], padding=[0, 0], dilation=[1, 1], weight=@parts.0.weight, bias=@parts.0.bias, groups=1) rows m2  # parts.0
m3 = join(readers=[{'kind': 'table', 'in': {'mask': 0}, 'table': {'@': 'plan.lookup_100'}}])
b3[0:10x10, 0:4] = gather(x=b0[0:8x8, 0:4], table=@plan.gather_100, relative=False, fill=0.5) rows m3
m4 = reach(in=m0, width=8)
m5 = window(in=m4, reads_y=@plan.span_4x2, reads_x=@plan.span_4x2, size=[8, 8])
m6 = window(in=m0, reads_y=@plan.reads_4x3, reads_x=@plan.reads_4x3, size=[8, 8], near=m5)
b4[0:4x4, 0:4] = pool2d(x=b0[0:8x8, 0:4], kind=mean, divisor=9.0, kernel=[3, 3], stride=[2, 2], padding=[1, 1], dilation=[1, 1]) rows m6
m7 = window(in=m4, reads_y=@plan.span_16x1, reads_x=@plan.span_16x1, size=[8, 8])
m8 = window(in=m0, reads_y=@plan.reads_16x2_1, reads_x=@plan.reads_16x2_1, size=[8, 8], near=m7)
b5[0:16x16, 0:4] = resample2d(x=b0[0:8x8, 0:4], index_y=@plan.taps_16_8, weight_y=@plan.taps_16_8.weight, index_x=@plan.taps_16_8, weight_x=@plan.taps_16_8.weight) rows m8
output(x=b2[0:16x16, 0:4], index=0, shape=[1, 4, 16, 16], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m2
output(x=b3[0:10x10, 0:4], index=1, shape=[1, 4, 10, 10], row_at=@plan.row_at.1, channel_at=@plan.channel_at.1) rows m3
output(x=b4[0:4x4, 0:4], index=2, shape=[1, 4, 4, 4], row_at=@plan.row_at.2, channel_at=@plan.channel_at.2) rows m6
output(x=b5[0:16x16, 0:4], index=3, shape=[1, 4, 16, 16], row_at=@plan.row_at, channel_at=@plan.channel_at) rows m8""",
    )


# --- views ------------------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[..., Any]] = {
    "reshape": lambda x, conv: conv(x.reshape(1, 4, 64).reshape(1, 4, 8, 8)),
    "there and back": lambda x, conv: conv(x.permute(0, 2, 3, 1).flatten(1, 2).mT.unflatten(2, (8, 8))),
    "identity": lambda x, conv: conv(x.contiguous().view(1, 4, 8, 8)),
    "channels": lambda x, conv: conv(x)[:, 1:3],
    "shuffle": lambda x, conv: conv(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "slice of a concatenation": lambda x, conv: torch.cat([conv(x), x.relu()], 1)[:, :4],
    "unsqueezed": lambda x, conv: conv(x)[:, :, None].squeeze(2),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_copy_nothing(name: str) -> None:
    assert set(steps(of(VIEWS[name], nn.Conv2d(4, 4, 3, padding=1)))) <= {"conv2d", "pointwise"}
    assert "gather" not in of(VIEWS[name], nn.Conv2d(4, 4, 3, padding=1)).text()


def test_a_value_laid_into_two_places_is_copied_once() -> None:
    plan = of(lambda x, conv: (lambda y: (torch.cat([y, x], 1), torch.cat([x, y], 1)))(conv(x)), nn.Conv2d(4, 4, 1))
    assert steps(plan).count("conv2d") == 1
    # of four parts one may lie where it was made, and an input stays where it is
    assert steps(plan).count("pointwise") + steps(plan).count("gather") == 3


def test_channels_in_another_order_turn_the_weights() -> None:
    """Instead of the map."""
    plan = of(
        lambda x, a, b: b(a(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1),
    )
    assert steps(plan) == ["conv2d", "conv2d"]


# --- left alone -------------------------------------------------------------------------------------------------------

ALONE: dict[str, tuple[Callable[..., Any], list[list[str]]]] = {
    "sums along a row": (lambda x, conv: conv(x.cumsum(3)), [["cumsum"]]),
    "integers": (lambda x, conv: conv(x).argmax(1) * 2, [["argmax", "mul"]]),
    "bools": (lambda x, conv: (conv(x) > 0).float(), [["gt", "to"]]),
    "weights that are computed": (lambda x, conv: F.conv2d(x, conv.weight * x.mean()), [["mean"], ["mul"], ["conv2d"]]),
    "a bias that is computed": (lambda x, conv: F.conv2d(x, conv.weight, x.mean((0, 2, 3))), [["conv2d"]]),
    "a batch": (lambda x, conv: conv(x.reshape(2, 4, 4, 8)), [["conv2d"]]),
    "indices of a pool": (lambda x, conv: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0, [["max_pool2d_with_indices", "mul"]]),
    "division that rounds": (lambda x, conv: torch.div(conv(x), 0.3, rounding_mode="floor"), [["div"]]),
    "powers": (lambda x, conv: conv(x).pow(3), [["pow"]]),
    "a clamp by a tensor": (lambda x, conv: conv(x).clamp(min=x), [["clamp"]]),
    "causal attention": (
        lambda x, conv: F.scaled_dot_product_attention(*[conv(x).flatten(2).mT] * 3, is_causal=True),
        [["scaled_dot_product_attention"]],
    ),
    "a softmax along the map": (lambda x, conv: conv(x).softmax(3), [["softmax"]]),
    "the greatest of all": (lambda x, conv: conv(x).amax(), [["amax"]]),
    "the mean of some rows": (lambda x, conv: conv(x).mean(3), [["mean"]]),
    "sorted": (lambda x, conv: conv(x).flatten(1).topk(3)[0], [["topk"]]),
    "two of a run, one apart": (lambda x, conv: conv(x.cumsum(3).cumsum(2)).cumsum(1), [["cumsum", "cumsum"], ["cumsum"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_left_alone(name: str) -> None:
    function, want = ALONE[name]
    model = seeded(lambda: Do(function, nn.Conv2d(4, 4, 3, padding=1)))
    net = fluxcompile(model, torch.zeros(1, 4, 8, 8))
    assert net.program.plan is not None
    assert regions(net.program.plan) == want
    random = torch.Generator().manual_seed(0)
    stream, frame = net.stream(backend="cpu"), torch.rand(1, 4, 8, 8, generator=random)
    for _ in range(3):
        assert_matches(stream(frame), net.dense(frame))
        frame = frame.clone()
        frame[..., 2, 3] += 1


def test_a_region_that_is_not_read_anew_does_not_run() -> None:
    net = fluxcompile(Do(lambda x: (x.cumsum(3), x.mean((2, 3)))).eval(), torch.zeros(1, 4, 8, 8))
    stream = net.stream(backend="cpu")
    for frame, ran in (
        (torch.zeros(1, 4, 8, 8), True),
        (torch.zeros(1, 4, 8, 8), False),
        (torch.ones(1, 4, 8, 8), True),
    ):
        stream(frame)
        ((_, _, region), *_) = stream._build.segments()  # type: ignore[union-attr]
        assert region is not None
        assert region.ran == ran


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_inputs_of_other_types_have_no_plan(dtype: torch.dtype) -> None:
    net = fluxcompile(Do(lambda x: x + 1).eval(), torch.zeros((1, 4, 8, 8), dtype=dtype))
    assert net.program.plan is None


def test_one_input_of_another_type_is_enough() -> None:
    net = fluxcompile(Do(lambda x, i: x * i.sum()).eval(), (torch.zeros(1, 4, 8, 8), torch.ones(3, dtype=torch.int64)))
    assert net.program.plan is None


# --- as data ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_same_every_time() -> None:
    one, other = (plan_of(SqueezeExcite(), 1, 3, 8, 8) for _ in range(2))
    assert one == other
    assert one.text() == other.text()


def test_constants_are_shared() -> None:
    """Tables of equal windows, weights with the graph's, and nothing is stored that nobody names."""
    conv = nn.Conv2d(4, 4, 3, padding=1)
    net = compiled(Do(lambda x, a, b: b(a(b(x).relu()).relu()), nn.Conv2d(4, 4, 3, padding=1), conv), 1, 4, 8, 8)
    assert net.program.plan is not None
    named = [n for n in net.program.constants if n.startswith("plan.")]
    assert sum("reads" in n for n in named) == 1
    assert not any("weight" in n or "bias" in n for n in named)
    text = net.program.plan.text()
    assert all(f"@{n}" in text for n in named)


def test_a_saved_plan_is_the_same(tmp_path: Path) -> None:
    """And gives the same to the bit."""
    net = compiled(SqueezeExcite(), 1, 3, 8, 8)
    net.save(tmp_path / "net.flux")
    again = load(tmp_path / "net.flux")
    assert again.program.plan == net.program.plan
    one, other = net.stream(backend="cpu"), again.stream(backend="cpu")
    for frame in (torch.ones(1, 3, 8, 8), torch.rand(1, 3, 8, 8)):
        a, b = one(frame), other(frame)
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_infinite_settings_survive_a_file(tmp_path: Path) -> None:
    """JSON has no word for infinity."""
    net = compiled(Do(lambda x: (x.clamp(min=0.25), F.pad(x, (1, 1), value=-torch.inf).clamp(max=0.5))), 1, 3, 8, 8)
    net.save(tmp_path / "net.flux")
    again, frame = load(tmp_path / "net.flux"), torch.rand(1, 3, 8, 8)
    assert_matches(again.stream(backend="cpu")(frame), net.dense(frame))


def test_each_buffer_and_mask_is_used() -> None:
    plan = plan_of(SqueezeExcite(), 1, 3, 8, 8)
    text = plan.text()
    assert all(f"b{i}[" in text for i in range(len(plan.buffers)))
    assert all(f"m{i}" in text for i in range(len(plan.masks)))
