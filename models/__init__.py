"""The zoo: plain torch modules, written from the papers, for tests and benchmarks.

    from fluxcompile.models import ZOO, build
    model = build("yolo11n", seed=0)              # random weights of moderate range, eval mode
    outputs = model(ZOO["yolo11n"].example())

Published weights: `yolo11.load_yolo11`, `vit.load_vit_segment`.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fluxcompile.models.convnext import ConvNeXt
from fluxcompile.models.deeplab import DeepLab
from fluxcompile.models.detr import DETR
from fluxcompile.models.efficientnet import EfficientNet
from fluxcompile.models.mobilenet import MobileNet
from fluxcompile.models.resnet import ResNet
from fluxcompile.models.sdpose import SDPose
from fluxcompile.models.segformer import SegFormer
from fluxcompile.models.swin import Swin
from fluxcompile.models.unet import UNet
from fluxcompile.models.vit import ViT, ViTSegment
from fluxcompile.models.weights import picture, randomise
from fluxcompile.models.yolo11 import YOLO11

__all__ = ["ZOO", "Entry", "build"]

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: its name, how to make it, the input it takes, what it is for, how pixels become input."""

    name: str
    make: Callable[[], nn.Module]
    input_shape: Shape  # [b, 3, h, w]
    task: str  # classify, detect, segment, keypoints
    pixels: str = "imagenet"  # RGB in [0, 1] less ImageNet's mean over its deviation; "unit": RGB in [0, 1]

    def build(self) -> nn.Module:
        """The module in eval mode, with torch's own initial weights; `build(name)` gives livelier ones."""
        return self.make().eval()

    def example(self, seed: int = 0) -> Tensor:
        """An input of the right shape with the smoothness of a photograph, in [0, 1] whatever `pixels` says."""
        return picture(self.input_shape, seed)


def _square(side: int) -> Shape:
    return (1, 3, side, side)


_ENTRIES = [
    *(
        Entry(f"yolo11{size}{suffix}", partial(YOLO11, size, head, classes), _square(640), task, "unit")
        for head, suffix, classes, task in (
            ("detect", "", 80, "detect"),
            ("segment", "-seg", 80, "segment"),
            ("pose", "-pose", 1, "keypoints"),
        )
        for size in "nsmlx"
    ),
    Entry("yolo11-mini", partial(YOLO11, "mini", "detect", 4), _square(64), "detect", "unit"),
    Entry("yolo11-seg-mini", partial(YOLO11, "mini", "segment", 4), _square(64), "segment", "unit"),
    Entry("yolo11-pose-mini", partial(YOLO11, "mini", "pose", 1), _square(64), "keypoints", "unit"),
    *(Entry(f"resnet-{size}", partial(ResNet, size), _square(224), "classify") for size in ("18", "34", "50", "101")),
    Entry("resnet-mini", partial(ResNet, "mini", 10), _square(64), "classify"),
    *(Entry(f"mobilenet-{size}", partial(MobileNet, size), _square(224), "classify") for size in ("small", "large")),
    Entry("mobilenet-mini", partial(MobileNet, "mini", 10), _square(64), "classify"),
    *(
        Entry(f"efficientnet-{size}", partial(EfficientNet, size), _square(side), "classify")
        for size, side in (("b0", 224), ("b1", 240), ("b2", 260), ("b3", 300))
    ),
    Entry("efficientnet-mini", partial(EfficientNet, "mini", 10), _square(64), "classify"),
    *(Entry(f"convnext-{size}", partial(ConvNeXt, size), _square(224), "classify") for size in ("tiny", "small")),
    Entry("convnext-mini", partial(ConvNeXt, "mini", 10), _square(64), "classify"),
    *(Entry(f"vit-{size}", partial(ViT, size), _square(224), "classify") for size in ("tiny", "small", "base")),
    Entry("vit-mini", partial(ViT, "mini", 10, image=(64, 96)), (1, 3, 64, 96), "classify"),
    Entry("vit-seg", ViTSegment, (1, 3, 256, 448), "segment"),
    Entry("vit-seg-mini", partial(ViTSegment, image=(64, 96), dim=64, depth=2, heads=2), (1, 3, 64, 96), "segment"),
    *(Entry(f"swin-{size}", partial(Swin, size), _square(224), "classify") for size in ("tiny", "small", "base")),
    Entry("swin-mini", partial(Swin, "mini", 10, image=(64, 96), window=4), (1, 3, 64, 96), "classify"),
    *(Entry(f"segformer-{size}", partial(SegFormer, size), _square(512), "segment") for size in ("b0", "b1", "b2")),
    Entry("segformer-mini", partial(SegFormer, "mini", 5), (1, 3, 64, 96), "segment"),
    Entry("detr-r50", DETR, (1, 3, 800, 1056), "detect"),
    Entry("detr-mini", partial(DETR, "mini", 5, image=(64, 96)), (1, 3, 64, 96), "detect"),
    Entry("unet", UNet, _square(512), "segment", "unit"),
    Entry("unet-mini", partial(UNet, 8, 2, 3), (1, 3, 64, 96), "segment", "unit"),
    Entry("deeplab-resnet-50", partial(DeepLab, "resnet-50"), _square(512), "segment"),
    Entry("deeplab-mobilenet", partial(DeepLab, "mobilenet-large"), _square(512), "segment"),
    Entry("deeplab-mini", partial(DeepLab, "resnet-mini", 5, 32), (1, 3, 64, 96), "segment"),
    Entry("deeplab-mobilenet-mini", partial(DeepLab, "mobilenet-mini", 5, 32), (1, 3, 64, 96), "segment"),
    Entry("sdpose-t", partial(SDPose, "t"), (1, 3, 256, 192), "keypoints"),
    Entry("sdpose-s-v2", partial(SDPose, "s-v2"), (1, 3, 256, 192), "keypoints"),
    Entry("sdpose-t-cycled", partial(SDPose, "t", 2), (1, 3, 256, 192), "keypoints"),
    Entry("sdpose-mini", partial(SDPose, "mini", 2), (1, 3, 64, 48), "keypoints"),
]
ZOO = {entry.name: entry for entry in _ENTRIES}


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The named model in eval mode, its random weights fixed by the seed; torch's own generator is left alone."""
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=5, cutoff=0.4) or list(ZOO)
        raise ValueError(f"{name!r} is not in the zoo; near it: {', '.join(near)}")
    entry = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        model = entry.build()
    randomise(model, entry.input_shape[2:], seed)
    return model
