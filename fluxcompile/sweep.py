"""The sweep: architectures the compiler has never seen, each compiled and held against dense inference.

Random weights, one short moving clip: an object crosses a textured scene, the camera pans by whole strides (the caches
are told so), one hard cut. What is measured for each: was it captured, how much of its work is blocked, and the
largest error of an exact stream over the range of the output.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxcompile.errors import CaptureError, FluxError, OptionError
from fluxcompile.sources import SourceError, find

FRAMES = 12
PAN = 32
"""Pixels the camera pans at once: one total stride of most nets."""

CENSUS = {
    "torchvision": """
    alexnet convnext_base convnext_small convnext_tiny deeplabv3_resnet101 deeplabv3_resnet50 densenet121
    densenet161 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
    efficientnet_b4 efficientnet_v2_m efficientnet_v2_s fcn_resnet101 fcn_resnet50 googlenet inception_v3 maxvit_t
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_small regnet_x_1_6gf regnet_x_3_2gf
    regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_1_6gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_s
    swin_t swin_v2_s swin_v2_t vit_b_16 vit_b_32
    """.split(),
    "timm": """
    beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224 convit_tiny
    convmixer_768_32 convnext_atto convnextv2_atto crossvit_tiny_240 cs3darknet_s cspdarknet53 darknet53 davit_tiny
    deit3_small_patch16_224 deit_tiny_patch16_224 dla34 dm_nfnet_f0 eca_nfnet_l0 ecaresnet26t edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8
    focalnet_tiny_srf gcresnet33ts gernet_s ghostnetv2_100 gmlp_s16_224 halonet26t haloregnetz_b hardcorenas_a
    hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_tiny inception_v3 lambda_resnet26t lcnet_050 levit_128s
    mambaout_femto maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s16_224 mobilenetv4_conv_small
    mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small
    nf_regnet_b0 pit_ti_224 poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_004 repvgg_a0 repvit_m0_9
    res2net50_26w_4s resmlp_12_224 resnest14d rexnet_100 sam2_hiera_tiny samvit_base_patch16 sehalonet33ts
    selecsls42 semnasnet_075 sequencer2d_s seresnet18 shvit_s1 skresnet18 starnet_s1 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tf_efficientnet_lite0 tiny_vit_5m_224 tresnet_m
    twins_svt_small visformer_tiny vit_small_patch14_dinov2 vit_tiny_patch16_224 vitamin_small_224 volo_d1_224
    vovnet39a xception41 xcit_tiny_12_p16_224
    """.split(),
}
"""The architectures a sweep visits by default, by the package that holds them."""


@dataclass
class Row:
    """What the sweep found of one model. `max_relative_error` is over the dense output's range, worst frame."""

    name: str
    captured: bool
    reason: str = ""
    blocked_mac_share: float = 0.0
    max_relative_error: float | None = None
    macs: int = 0
    compile_s: float = 0.0
    work_share: float = 0.0
    dense: tuple[str, ...] = ()


def names_from(packages: Sequence[str]) -> list[str]:
    """The default names of each package, and of our own zoo for "zoo"."""
    names = []
    for package in packages:
        if package == "zoo":
            from fluxcompile.models import ZOO

            names += list(ZOO)
        elif package in CENSUS:
            names += [f"{package}/{n}" for n in CENSUS[package]]
        else:
            raise OptionError(f"no models are known of {package!r}; use {', '.join(CENSUS)} or zoo")
    return names


def sweep(
    names: Sequence[str], *, resume: Path | None = None, on_row: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Measure each model. With `resume`, a file of one JSON row a line, what stands there is not measured again."""
    known = {r.name: r for r in _rows(resume)} if resume else {}
    rows = []
    for name in names:
        row = known.get(name)
        if row is None:
            row = measure(name)
            if resume:
                with resume.open("a") as f:
                    f.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
        on_row(row)
    return rows


def _rows(path: Path) -> Iterator[Row]:
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield Row(**json.loads(line))
        except (ValueError, TypeError):
            continue  # the line an interrupted run was writing


def measure(name: str) -> Row:
    """Compile one model and run it exactly over the clip."""
    import torch

    from fluxcompile.pipeline import fluxcompile

    torch.manual_seed(0)
    try:
        model = find(f"zoo:{name}")
    except (SourceError, ImportError) as e:
        return Row(name, False, f"not found: {e}")
    shapes = [tuple(s) for s in model.shapes or ()]
    start = time.perf_counter()
    try:
        net = fluxcompile(model.module, tuple(torch.rand(s) for s in shapes))
    except CaptureError as e:
        return Row(name, False, str(e).split("\n")[0])
    except FluxError as e:
        return Row(name, False, f"compiler error: {e}".split("\n")[0])
    seconds = time.perf_counter() - start
    told = net.explain()
    dense = tuple(sorted({f"{x.op}: {x.reason}" for x in told.layers if x.form == "dense"}))
    row = Row(name, True, "", told.blocked_mac_share, None, told.total_macs, seconds, 0.0, dense[:5])
    stream, worst, work = net.stream(), 0.0, []
    for frame, motion in moving_clip(shapes[0]):
        got, want = _leaves(stream(frame, motion=motion)), _leaves(net.dense(frame))
        worst = max(worst, *(relative_error(g, w) for g, w in zip(got, want, strict=True)))
        work.append(stream.stats.work_share)
    row.max_relative_error, row.work_share = worst, sum(work[1:]) / len(work[1:])
    del net, stream, model
    gc.collect()
    return row


def relative_error(got: Any, want: Any) -> float:
    """The largest difference over the range of what is wanted; of whole numbers and truths, 0 or infinite."""
    if not want.is_floating_point():
        return 0.0 if bool((got == want).all()) else float("inf")
    spread = float(want.max() - want.min()) or float(want.abs().max()) or 1.0
    error = float((got - want).abs().max()) / spread
    return error if error == error else float("inf")


def _leaves(tree: Any) -> list[Any]:
    from torch.utils import _pytree

    return [x for x in _pytree.tree_leaves(tree) if x is not None]


def moving_clip(shape: Sequence[int], frames: int = FRAMES, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """(frame, motion) pairs of `shape` (1, channels, h, w): an object, a pan in the middle, a cut near the end."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    channels, h, w = shape[-3:]

    def texture(rows: int, columns: int) -> Any:
        coarse = torch.rand((1, channels, rows // 8 + 2, columns // 8 + 2), generator=generator)
        fine = torch.rand((1, channels, rows, columns), generator=generator)
        return 0.8 * torch.nn.functional.interpolate(coarse, (rows, columns), mode="bilinear") + 0.2 * fine

    scene, thing = texture(h, w + 2 * PAN), texture(h // 5, w // 5)
    still = torch.zeros(2, -(-h // 16), -(-w // 16), dtype=torch.int32)
    left = 0
    for i in range(frames):
        motion = still
        if i in (frames // 3, 2 * frames // 3):
            left += PAN
            motion = still.clone()
            motion[1] = PAN
        if i == frames - 2:
            scene = texture(h, w + 2 * PAN)
        frame = scene[..., left : left + w].clone()
        y, x = (h // 8 + 5 * i) % (h - h // 5), (w // 8 + 7 * i) % (w - w // 5)
        frame[..., y : y + h // 5, x : x + w // 5] = thing
        yield frame.reshape(tuple(shape)), motion
