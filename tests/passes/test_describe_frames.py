"""Camera frames become the model's input inside the graph."""

import numpy as np
import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile import Frames, OptionError, fluxcompile
from fluxcompile.ir import text
from fluxcompile.passes.describe_frames import describe_frames
from tests.helpers import Do, assert_left_alone, assert_matches, captured, seeded

SHAPE = (1, 3, 8, 12)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def camera(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def normalised(frame: Tensor) -> Tensor:
    """What the model sees, written out."""
    return (frame.permute(2, 0, 1)[None] / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_rewrites() -> None:
    module = captured(nn.ReLU(), SHAPE)
    assert describe_frames(module, frames=Frames(mean=MEAN, std=STD)) == 1
    assert_expected_inline(
        text(module),
        """\
%input_1: u8[8x12x3] = input
%permute: u8[3x8x12] = aten.permute(%input_1, dims=[2, 0, 1])
%unsqueeze: u8[1x3x8x12] = aten.unsqueeze(%permute, dim=0)
%to: f32[1x3x8x12] = aten.to(%unsqueeze, dtype=f32)
%mul: f32[1x3x8x12] = aten.mul(%to, @frame_scale)
%sub: f32[1x3x8x12] = aten.sub(%mul, @frame_shift)
%relu: f32[1x3x8x12] = aten.relu(%sub)
return [%relu]""",
    )


def test_equal_numbers() -> None:
    frame = torch.from_numpy(camera())
    want = normalised(frame).relu()
    for layout, given in (("hwc", frame), ("chw", frame.permute(2, 0, 1))):
        module = captured(nn.ReLU(), SHAPE)
        describe_frames(module, frames=Frames(mean=MEAN, std=STD, layout=layout))
        module.recompile()
        assert_matches(module(given), [want])


def test_a_model_that_takes_its_channels_last() -> None:
    frame = torch.from_numpy(camera())
    want = normalised(frame).permute(0, 2, 3, 1).relu()
    for layout, given in (("hwc", frame), ("chw", frame.permute(2, 0, 1))):
        module = captured(nn.ReLU(), (1, 8, 12, 3))
        describe_frames(module, frames=Frames(mean=MEAN, std=STD, layout=layout))
        module.recompile()
        assert_matches(module(given), [want])


def test_left_alone() -> None:
    assert_left_alone(describe_frames, captured(nn.ReLU(), SHAPE), frames=None)


def test_a_net_with_a_second_input_that_is_no_image() -> None:
    module = captured(Do(lambda x, y: x * y.sum()), SHAPE, (1, 4))
    assert describe_frames(module, frames=Frames()) == 1


@pytest.mark.parametrize("shapes", [((1, 4),), (SHAPE, SHAPE)])
def test_what_has_not_one_image_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    module = captured(Do(lambda *x: sum(x)), *shapes)
    with pytest.raises(OptionError, match=f"the model has {len(shapes) - (shapes[0] == (1, 4))} of four dimensions"):
        describe_frames(module, frames=Frames())


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(OptionError, match="mean and std have 2 and 1 values, 3 channels"):
        describe_frames(captured(nn.ReLU(), SHAPE), frames=Frames(mean=(0.1, 0.2)))


def test_normalisation_ends_in_the_first_convolution() -> None:
    model = seeded(lambda: nn.Conv2d(3, 4, 3, 2))
    net = fluxcompile(model, torch.zeros(SHAPE), frames=Frames(mean=MEAN, std=STD))
    assert [op.op for op in net.program.graphs["dense"].ops][-1] == "aten.conv2d.default"
    assert not {"aten.mul.Tensor", "aten.sub.Tensor"} & {op.op for op in net.program.graphs["dense"].ops}
    with torch.no_grad():
        assert_matches(net.dense(torch.from_numpy(camera())), model(normalised(torch.from_numpy(camera()))))
    stream = net.stream()
    for seed in (0, 0, 1):
        frame = camera(seed)
        frame[2:4, 3:5] = seed
        assert_matches(stream(frame), net.dense(frame))
