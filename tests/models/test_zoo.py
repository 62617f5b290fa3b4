"""Each small model of the zoo builds, runs, repeats and exports; each large one has its published size."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fluxcompile.models import ZOO, build
from fluxcompile.models.deeplab import DeepLab
from fluxcompile.models.sdpose import SDPose, peaks
from fluxcompile.models.swin import Swin

SHAPES = {
    "yolo11-mini": [(1, 8, 84)],
    "yolo11-seg-mini": [(1, 40, 84), (1, 32, 16, 16)],
    "yolo11-pose-mini": [(1, 56, 84)],
    "resnet-mini": [(1, 10)],
    "mobilenet-mini": [(1, 10)],
    "efficientnet-mini": [(1, 10)],
    "convnext-mini": [(1, 10)],
    "vit-mini": [(1, 10)],
    "vit-seg-mini": [(1, 4, 8, 12)],
    "swin-mini": [(1, 10)],
    "segformer-mini": [(1, 5, 16, 24)],
    "detr-mini": [(1, 10, 6), (1, 10, 4)],
    "unet-mini": [(1, 2, 64, 96)],
    "deeplab-mini": [(1, 5, 64, 96)],
    "deeplab-mobilenet-mini": [(1, 5, 64, 96)],
    "sdpose-mini": [(1, 17, 16, 12)],
}
MINIS = [name for name in ZOO if name.endswith("-mini")]

# Parameters: torchvision's and timm's own counts; YOLO11's from its yaml files (there 16 DFL bins count too);
# SegFormer, DETR, U-Net and SDPose as their papers round them.
PARAMETERS = {
    "yolo11n": 2_624_080 - 16,
    "yolo11s": 9_458_752 - 16,
    "yolo11m": 20_114_688 - 16,
    "yolo11l": 25_372_160 - 16,
    "yolo11x": 56_966_176 - 16,
    "yolo11n-seg": 2_876_848 - 16,
    "yolo11s-seg": 10_113_248 - 16,
    "yolo11m-seg": 22_420_896 - 16,
    "yolo11l-seg": 27_678_368 - 16,
    "yolo11x-seg": 62_142_656 - 16,
    "yolo11n-pose": 2.9e6,
    "yolo11s-pose": 9.9e6,
    "yolo11m-pose": 20.9e6,
    "yolo11l-pose": 26.2e6,
    "yolo11x-pose": 58.8e6,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "mobilenet-small": 2_542_856,
    "mobilenet-large": 5_483_032,
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "convnext-tiny": 28_589_128,
    "convnext-small": 50_223_688,
    "vit-tiny": 5_717_416,
    "vit-small": 22_050_664,
    "vit-base": 86_567_656,
    "swin-tiny": 28_288_354,
    "swin-small": 49_606_258,
    "swin-base": 87_768_224,
    "segformer-b0": 3.75e6,
    "segformer-b1": 13.7e6,
    "segformer-b2": 27.5e6,
    "detr-r50": 41.5e6,
    "unet": 31.0e6,
    "sdpose-t": 4.4e6,
    "sdpose-s-v2": 6.2e6,
}
# Published multiply-adds, in 1e9; SDPose's count leaves out the two products inside attention.
GMACS = {
    "yolo11n": 6.5 / 2,
    "yolo11m": 68.0 / 2,
    "resnet-50": 4.09,
    "segformer-b0": 8.4,
    "sdpose-t": 1.8,
    "sdpose-s-v2": 4.7,
}


def leaves(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@pytest.fixture(scope="module")
def mini(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


def every_mini(test: object) -> object:
    return pytest.mark.parametrize(("mini", "name"), [(n, n) for n in MINIS], indirect=["mini"], ids=MINIS)(test)


def test_every_family_has_a_mini():
    assert set(MINIS) == set(SHAPES)
    families = {"yolo11" if name.startswith("yolo11") else name.split("-")[0] for name in ZOO}
    assert families == {name.split("-")[0] for name in MINIS}


@every_mini
def test_runs(mini, name):
    assert not any(layer.training for layer in mini.modules())
    with torch.no_grad():
        outputs, others = leaves(mini(ZOO[name].example())), leaves(mini(torch.randn(ZOO[name].input_shape)))
    assert [tuple(y.shape) for y in outputs] == SHAPES[name]
    for y, other in zip(outputs, others, strict=True):
        assert y.isfinite().all()
        assert y.abs().max() < 1000  # boxes are in pixels, the rest is of order one
        assert (y - other).abs().max() > 1e-3  # the input matters


@every_mini
def test_exports(mini, name):
    example = ZOO[name].example(1)
    program = torch.export.export(mini, (example,), strict=False)
    with torch.no_grad():
        expected, given = leaves(mini(example)), leaves(program.module()(example))
    for a, b in zip(expected, given, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


@every_mini
def test_repeats_by_seed(mini, name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again, other = build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    example = ZOO[name].example()
    with torch.no_grad():
        for a, b, c in zip(leaves(mini(example)), leaves(again(example)), leaves(other(example)), strict=True):
            assert torch.equal(a, b)
            assert not torch.equal(a, c)


@every_mini
def test_norms_are_not_identities(mini, name):
    for layer in mini.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            assert layer.weight.std() > 0.05
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean.abs().max() > 0.01
            assert layer.running_var.min() > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ZOO[name].build().parameters())
    if isinstance(PARAMETERS[name], int):
        assert count == PARAMETERS[name]
    else:
        assert count == pytest.approx(PARAMETERS[name], rel=0.01)


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds(name):
    with torch.device("meta"):
        model = ZOO[name].build().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(ZOO[name].input_shape))
    counts = counter.get_flop_counts()["Global"]
    if name.startswith("sdpose"):
        counts = {op: n for op, n in counts.items() if op is not torch.ops.aten.bmm}
    assert sum(counts.values()) / 2e9 == pytest.approx(GMACS[name], rel=0.02)


def test_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match=r"'resnet50' is not in the zoo; near it: .*resnet-50"):
        build("resnet50")


def test_swin_says_which_sizes_fit():
    with pytest.raises(ValueError, match="map of 60x56 cells does not divide into windows of 7"):
        Swin(image=(240, 224))


@pytest.mark.parametrize("backbone", ["resnet-mini", "mobilenet-mini"])
def test_deeplab_keeps_the_last_map_at_stride_16(backbone):
    model = DeepLab(backbone, 5, 32)
    assert [m.shape[2] for m in model.trunk(torch.zeros(1, 3, 64, 64))][-2:] == [4, 4]


def test_sdpose_cycles_share_weights_and_change_the_result():
    once, twice = SDPose("mini", 1).eval(), build("sdpose-mini")
    once.load_state_dict(twice.state_dict())
    example = ZOO["sdpose-mini"].example()
    with torch.no_grad():
        assert (once(example) - twice(example)).abs().max() > 0.1


def test_peaks_are_pixels():
    heatmaps = torch.zeros(1, 17, 64, 48)
    heatmaps[0, 3, 10, 20] = 0.5
    assert peaks(heatmaps)[0, 3].tolist() == [82, 42, 0.5]
