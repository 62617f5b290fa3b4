"""Scale and shift of a convolution's input fold into its weights, where padding lets them."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.ir import text
from fluxcompile.passes.fold_normalisation import fold_normalisation
from tests.helpers import Do, assert_equal_numbers, assert_left_alone, captured, seeded, state_of

SHAPE = (1, 3, 8, 8)
X = torch.rand(SHAPE)


class Normalised(nn.Module):
    """A function of the input and constants per channel, then a convolution."""

    def __init__(self, function: Callable[..., Tensor], conv: nn.Module) -> None:
        super().__init__()
        self.function, self.conv = function, conv
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
        self.register_buffer("gain", torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.function(x, self.mean, self.std, self.gain))


def padded() -> nn.Module:
    return seeded(lambda: nn.Conv2d(3, 4, 3, padding=1))


def test_rewrites() -> None:
    model = Normalised(lambda x, mean, std, _: x * 0.00392 - mean, padded())
    before = state_of(model)
    module = captured(model, SHAPE)
    assert fold_normalisation(module) == 2
    assert_expected_inline(
        text(module),
        """\
%x: f32[1x3x8x8] = input
%sub_1: f32[1x3x8x8] = aten.sub(%x, @conv_shift)
%conv2d_1: f32[1x4x8x8] = aten.conv2d(%sub_1, @conv_weight, @conv.bias, stride=[1, 1], padding=[1, 1])  # conv
return [%conv2d_1]""",
    )
    assert_equal_numbers(model, module, X)
    assert_left_alone(fold_normalisation, module)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_without_padding_the_shift_goes_too() -> None:
    model = Normalised(lambda x, mean, std, _: (x / 255 - mean) / std, seeded(lambda: nn.Conv2d(3, 4, 3, bias=False)))
    module = captured(model, SHAPE)
    assert fold_normalisation(module) == 3
    assert_expected_inline(
        text(module),
        """\
%x: f32[1x3x8x8] = input
%conv2d_1: f32[1x4x6x6] = aten.conv2d(%x, @conv_weight, @conv_bias)  # conv
return [%conv2d_1]""",
    )
    assert_equal_numbers(model, module, X * 255)
    assert_left_alone(fold_normalisation, module)


CHAINS: dict[str, Callable[..., Tensor]] = {
    "scale": lambda x, mean, std, _: x * 2,
    "division": lambda x, mean, std, _: x / std,
    "shift first": lambda x, mean, std, _: (x - mean) / std,
    "up and down": lambda x, mean, std, _: x + 1 - mean,
    "number first": lambda x, mean, std, _: 2 * (1 + x),
    "a channel taken out": lambda x, mean, std, gain: (x - mean) * gain,
    "a channel replaced": lambda x, mean, std, gain: x * gain + mean,
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_equal_numbers(name: str, padding: int | str) -> None:
    model = Normalised(CHAINS[name], seeded(lambda: nn.Conv2d(3, 4, 3, padding=padding)))
    module = captured(model, SHAPE)
    fold_normalisation(module)
    assert_equal_numbers(model, module, X)
    assert_left_alone(fold_normalisation, module)


LEFT: dict[str, Callable[..., Tensor]] = {
    "a shift beside padding": lambda x, mean, std, _: x - mean,
    "a channel scaled to nothing beside padding": lambda x, mean, std, gain: x * gain - mean,
    "not by channel": lambda x, mean, std, _: x * torch.arange(8.0),
    "computed factors": lambda x, mean, std, _: x * x.mean((2, 3), keepdim=True),
    "widened by the factor": lambda x, mean, std, _: x[:, :1] * std,
    "another type": lambda x, mean, std, _: (x > 0.5) * 1.5,
    "alpha": lambda x, mean, std, _: torch.sub(x, mean, alpha=2),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    assert_left_alone(fold_normalisation, captured(Normalised(LEFT[name], padded()), SHAPE))


def test_values_with_a_second_user_are_left_alone() -> None:
    def forward(x: Tensor, conv: nn.Module) -> tuple[Tensor, Tensor]:
        y = x * 2
        return conv(y), y

    assert_left_alone(fold_normalisation, captured(Do(forward, padded()), SHAPE))


def test_grouped_convolutions_are_left_alone() -> None:
    conv = nn.Conv2d(3, 6, 3, groups=3)
    assert_left_alone(fold_normalisation, captured(Normalised(lambda x, *_: x * 2, conv), SHAPE))


def test_computed_weights_are_left_alone() -> None:
    model = Do(lambda x: nn.functional.conv2d(x * 2, x[:, :, :3, :3]))
    assert_left_alone(fold_normalisation, captured(model, SHAPE))


def test_an_image_without_a_batch() -> None:
    model = Do(lambda x, conv: conv(x * 2), padded())
    module = captured(model, (3, 8, 9))
    fold_normalisation(module)
    assert_equal_numbers(model, module, torch.rand(3, 8, 9))
