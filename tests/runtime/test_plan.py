"""A CPU stream equals dense inference on every frame: any net, clip and mask, in every variant and number of threads."""

import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fluxcompile import Net, Policy, fluxcompile, pass_names
from fluxcompile.errors import InputError, OptionError, ProgramError
from fluxcompile.kernels import cpu
from fluxcompile.models import ZOO, build
from fluxcompile.options import Frames
from fluxcompile.program import Plan
from fluxcompile.runtime.plan import CpuStream
from tests.helpers import Do, assert_matches, assert_near_for_less, seeded
from tests.kernels.compare import VARIANTS
from tests.nets import TRAPS, Attention, Tokens, clips, nets, pans
from tests.test_exact import Everything, quick


def stream_of(net: Net, policy: Policy | None = None, **options: Any) -> CpuStream:
    return CpuStream(net.program, policy or Policy(), **options)


def assert_exact(
    model: nn.Module, frames: list[Tensor], *, threads: int = 1, variant: str | None = None, **options: Any
) -> Net:
    """The stream equals the model on every frame."""
    net = fluxcompile(model, torch.zeros_like(frames[0]), **options)
    stream = stream_of(net, threads=threads, variant=variant)
    for frame in frames:
        with torch.no_grad():
            want = model(frame)
        assert_matches(stream(frame), want)
    return net


def floats(clip: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """The frames of a clip in float32; the plan follows no motion."""
    return [frame.float() for frame, _ in clip]


# --- random nets ------------------------------------------------------------------------------------------------------


@quick(40)
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    note(str(model))
    assert_exact(model.float(), floats(data.draw(clips(shape))), threads=data.draw(st.sampled_from((1, 2))))


@quick(12)
@given(st.data())
def test_random_nets_with_passes_left_out(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    without = data.draw(st.lists(st.sampled_from(pass_names()), min_size=1, max_size=4, unique=True))
    note(f"{model}\n{without}")
    assert_exact(model.float(), floats(data.draw(clips(shape))), without=without)


@pytest.mark.parametrize("name", TRAPS)
def test_where_it_is_easy_to_be_wrong(name: str) -> None:
    assert_exact(Do(TRAPS[name]).eval(), floats(pans((1, 4, 32, 48))))


@pytest.fixture(scope="module")
def everything() -> nn.Module:
    return seeded(Everything)


@pytest.fixture(scope="module")
def clip() -> list[Tensor]:
    return floats(pans((1, 3, 32, 48)))


@pytest.fixture(scope="module")
def net(everything: nn.Module, clip: list[Tensor]) -> Net:
    return fluxcompile(everything, clip[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_variants_and_threads(variant: str, threads: int, net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net, threads=threads, variant=variant)
    for frame in clip[:4]:
        assert_matches(stream(frame), net.dense(frame))


def test_threads_do_not_change_a_bit(net: Net, clip: list[Tensor]) -> None:
    one, two = stream_of(net), stream_of(net, threads=2)
    for frame in clip:
        for a, b in zip(one(frame).values(), two(frame).values(), strict=True):
            assert torch.equal(a, b)


def test_all_passes_left_out(everything: nn.Module, clip: list[Tensor]) -> None:
    assert_exact(everything, clip, without=pass_names())


@pytest.mark.parametrize("attention", ["incremental", "active"])
def test_attention_settings(attention: str, everything: nn.Module, clip: list[Tensor]) -> None:
    """Incremental attention is exact; active attention is where nothing changed."""
    net = fluxcompile(everything, clip[0], attention=attention)
    stream = stream_of(net)
    for frame in clip if attention == "incremental" else [clip[0]] * 2:
        assert_matches(stream(frame), net.dense(frame))


# --- the zoo ----------------------------------------------------------------------------------------------------------


def patches(frame: Tensor, count: int) -> list[Tensor]:
    """The frame, and how it is after one place after the other changed; then nothing changes, then everything."""
    random = torch.Generator().manual_seed(1)
    found = [frame]
    for _ in range(count):
        y, x = (int(torch.randint(n - 8, (), generator=random)) for n in frame.shape[-2:])
        found.append(found[-1].clone())
        found[-1][..., y : y + 8, x : x + 8] += torch.rand(8, 8, generator=random) - 0.5
    return [*found, found[-1].clone(), frame.roll(5, -1)]


@pytest.mark.parametrize("name", [n for n in ZOO if n.endswith("-mini")])
def test_zoo(name: str) -> None:
    model = build(name)
    net = fluxcompile(model, ZOO[name].example())
    streams = [stream_of(net), stream_of(net, threads=2)]
    for i, frame in enumerate(patches(ZOO[name].example(), 3)):
        with torch.no_grad():
            want = model(frame)
        for stream in streams[: 1 if i > 2 else 2]:
            assert_matches(stream(frame), want)
            assert stream.stats is not None
            assert stream.stats.dense == (i == 0)
            assert stream.stats.work_share == (1 if i == 0 else 0) or 0 < i != 4


@pytest.fixture(scope="module")
def few() -> list[tuple[Net, list[Tensor]]]:
    """A detector, a segmenter and a transformer."""
    names = ("yolo11-mini", "deeplab-mobilenet-mini", "segformer-mini")
    return [(fluxcompile(build(n), ZOO[n].example()), patches(ZOO[n].example(), 1)[:2]) for n in names]


@pytest.mark.parametrize("variant", [v for v in cpu.variants()[1:] if v not in ("plain", "wide")])
def test_zoo_in_other_variants(variant: str, few: list[tuple[Net, list[Tensor]]]) -> None:
    for net, frames in few:
        stream = stream_of(net, variant=variant)
        for frame in frames:
            assert_matches(stream(frame), net.dense(frame))


# --- policies and given masks -----------------------------------------------------------------------------------------


def convolutions() -> nn.Module:
    """Windows alone: here masks of a plan are those of the graph."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 8, 3, 1, 2, dilation=2), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 4, 4, 2, 1),
        )
    )  # fmt: skip


class Shown:
    """The picture a stream has taken from its frames so far, as its policy says."""

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold
        self.seen: Tensor | None = None

    def __call__(self, frame: Tensor, miss: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The picture, and the pixels taken from this frame."""
        if self.seen is None:
            self.seen, new = frame.clone(), torch.ones(frame.shape[2:], dtype=torch.bool)
        else:
            new = ((frame - self.seen).abs() > self.threshold).any(1)[0] if miss is None else miss
            self.seen = torch.where(new, frame, self.seen)
        return self.seen, new


@quick(10)
@given(st.data())
def test_a_given_mask(data: st.DataObject) -> None:
    """The pixels it names are taken, the others are as they were, whatever the frame says; or frames are compared."""
    model = seeded(Everything)
    net, shown = fluxcompile(model, torch.zeros(1, 3, 32, 48)), Shown()
    stream = stream_of(net)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for _ in range(4):
        frame = torch.rand(1, 3, 32, 48, generator=random)
        share = data.draw(st.sampled_from((None, 0.0, 0.001, 0.1, 1.0)))
        miss = None if share is None else torch.rand(32, 48, generator=random) < share
        if miss is not None and data.draw(st.booleans()):
            miss[:] = False
            miss[data.draw(st.sampled_from((0, -1)))] = True
        first = shown.seen is None
        seen, new = shown(frame, None if first else miss)
        assert_matches(stream(frame, miss=None if miss is None else miss.numpy()), net.dense(seen))
        assert stream.stats is not None
        np.testing.assert_array_equal(stream.stats.miss, new.numpy())
        assert stream.stats.dense == first


@pytest.mark.parametrize("threshold", [0.0, 0.02, 1e30])
def test_a_threshold(threshold: float, net: Net, clip: list[Tensor]) -> None:
    """What moved by no more is not taken, from the picture as it was when it was last taken."""
    stream, shown = stream_of(net, Policy(exact=False, threshold=threshold)), Shown(threshold)
    random = torch.Generator().manual_seed(0)
    frame = clip[0]
    for _ in range(4):
        seen, new = shown(frame)
        assert_matches(stream(frame), net.dense(seen))
        assert stream.stats is not None
        np.testing.assert_array_equal(stream.stats.miss, new.numpy())
        frame = frame + 0.03 * (torch.rand(frame.shape, generator=random) - 0.5)


def spot(clip: list[Tensor], y: int = 14, x: int = 20) -> Tensor:
    """The first frame with four new pixels."""
    return changed(clip[0], ..., slice(y, y + 2), slice(x, x + 2))


@pytest.mark.parametrize("radius", [0, 1, 4, 9])
def test_a_radius(radius: int, clip: list[Tensor]) -> None:
    """A change is followed to every cell that has a pixel within the radius, and to none beyond it."""
    net = fluxcompile(convolutions(), clip[0])
    stream = stream_of(net, Policy(exact=False, radius=radius))
    before, after = stream(clip[0]), stream(spot(clip))
    moved = (after != before)[0].any(0)
    cell = 8  # pixels of the coarsest map, whose cells are computed whole
    y, x = (slice(max(0, (low - radius) // cell * cell), -(-(low + 2 + radius) // cell) * cell) for low in (14, 20))
    assert moved[14:16, 20:22].any()
    moved[y, x] = False
    assert not moved.any()


@pytest.mark.parametrize("radius", [40, 2**31, 10**12, None])
def test_a_radius_beyond_the_frame_is_none(radius: int | None, net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net, Policy(exact=False, radius=radius))
    for frame in clip:
        assert_matches(stream(frame), net.dense(frame))


def test_a_larger_radius_computes_more_and_is_nearer(clip: list[Tensor]) -> None:
    """And its masks are those of the reference: no more misses there, layer by layer, than the reference allows for."""
    net = fluxcompile(convolutions(), clip[0])
    want = net.dense(spot(clip))
    found = []
    for radius in (0, 4, 16, None):
        policy = Policy(exact=False, radius=radius)
        stream, reference = stream_of(net, policy), net.stream(policy, backend="reference")
        for s in (stream, reference):
            s(clip[0])
        got = stream(spot(clip))
        reference(spot(clip))
        a, b = stream.stats, reference.stats
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.miss, b.miss)
        assert all(a.layers[k] <= b.layers[k] for k in b.layers), (a.layers, b.layers)  # which computes whole tiles
        found.append((a.work_share, -float((got - want).abs().sum())))
    assert found == sorted(found)
    assert found[0][0] < found[-1][0] / 2
    assert found[-1][1] > -1e-2


def test_an_approximate_policy_does_less_and_is_near(net: Net, clip: list[Tensor]) -> None:
    exact, near = stream_of(net), stream_of(net, Policy(exact=False, threshold=0.05, radius=4, gate=0.1))
    assert_near_for_less(net, exact, near, clip[0])


@quick(10)
@given(st.data())
def test_random_nets_with_policies(data: st.DataObject) -> None:
    """Whatever a policy leaves stale, a reset makes right; one that leaves nothing stale is exact."""
    model, shape = data.draw(nets(most=3))
    settings = {
        "threshold": data.draw(st.sampled_from((0.0, 0.1))),
        "radius": data.draw(st.sampled_from((None, 0, 3, 100))),
        "gate": data.draw(st.sampled_from((0.0, 0.1))),
        "gate_by": data.draw(st.sampled_from(("largest", "mean"))),
    }
    note(f"{model}\n{settings}")
    exact = settings["threshold"] == settings["gate"] == 0.0 and settings["radius"] in (None, 100)
    net = fluxcompile(model.float(), torch.zeros(shape))
    stream = stream_of(net, Policy(exact=False, **settings))
    for frame in floats(data.draw(clips(shape))):
        outputs = stream(frame)
        assert stream.stats is not None
        assert 0 <= stream.stats.work_share <= 1
        if exact:
            assert_matches(outputs, net.dense(frame))
    stream.reset()
    assert_matches(stream(frame), net.dense(frame))


def test_a_gate_by_mean_lets_pass_what_is_weak_but_wide() -> None:
    """On both backends: one weak cell stops, many side by side go on, where the largest change of each would stop."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 3, padding=1)))
    frame = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    net = fluxcompile(model, frame)
    for backend in ("cpu", "reference"):
        moved = {}
        for gate_by in ("largest", "mean"):
            for side in (1, 8):
                stream = net.stream(Policy(exact=False, gate=0.5, gate_by=gate_by), backend=backend)
                before = stream(frame).clone()
                weak = frame.clone()
                weak[..., 4 : 4 + side, 4 : 4 + side] += 0.3 * float(frame.std())
                moved[gate_by, side] = bool((stream(weak) - before).abs().max() > 1e-3)
        assert moved == {("largest", 1): False, ("largest", 8): False, ("mean", 1): False, ("mean", 8): True}, backend


def test_a_gate_of_nothing_but_large_changes(clip: list[Tensor]) -> None:
    """What is recomputed but came out almost as it was is not passed on."""
    net = fluxcompile(convolutions(), clip[0])
    stream = stream_of(net, Policy(exact=False, gate=0.5))
    stream(clip[0])
    frame = clip[0].clone()
    frame[..., 10, 10] += 1e-3
    before = stream(clip[0])
    assert_matches(stream(frame), before)
    assert stream.stats is not None
    first, *others = stream.stats.layers.values()
    assert first > 0
    assert not any(others)
    frame[..., 8:14, 8:14] += 30
    outputs = stream(frame)
    assert (outputs - before).abs().max() > 0.5


# --- state ------------------------------------------------------------------------------------------------------------


def test_returning_and_standing_still(net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    assert stream.stats is None
    a, b = clip[0], clip[-1]
    for frame in (a, b, a, a):
        assert_matches(stream(frame), net.dense(frame))
    assert stream.stats is not None
    assert (stream.stats.work_share, stream.stats.miss.any(), stream.stats.dense) == (0.0, False, False)
    assert stream.stats.frame == 3
    assert stream.cache_bytes > 0


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_work_of_a_transposed_convolution(stride: int) -> None:
    """Its phases are of uneven size; together they are all of it."""
    stream = stream_of(fluxcompile(nn.ConvTranspose2d(4, 4, stride, stride).eval(), torch.zeros(1, 4, 7, 9)))
    for frame, share in ((torch.zeros(1, 4, 7, 9), 1.0), (changed(torch.zeros(1, 4, 7, 9), ..., 6, 8), 1 / 63)):
        stream(frame)
        assert stream.stats is not None
        assert stream.stats.work_share == pytest.approx(share)
    stream = stream_of(fluxcompile(nn.ConvTranspose2d(4, 4, 3, stride, 1).eval(), torch.zeros(1, 4, 7, 9)))
    stream(torch.zeros(1, 4, 7, 9))
    assert stream.stats is not None
    assert stream.stats.work_share == 1


def test_reset_starts_over(net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    stream(clip[0])
    stream.reset()
    assert_matches(stream(clip[1], miss=np.zeros((32, 48), bool)), net.dense(clip[1]))
    assert stream.stats is not None
    assert (stream.stats.work_share, bool(stream.stats.miss.all()), stream.stats.dense) == (1.0, True, True)


def test_a_frame_with_motion_runs_dense(net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    for i, motion in enumerate(
        (np.zeros((2, 2, 3), np.int32), np.full((2, 2, 3), 4), None, torch.ones((2, 2, 3), dtype=torch.int32))
    ):
        assert_matches(stream(clip[i], motion=motion), net.dense(clip[i]))
        assert stream.stats is not None
        assert stream.stats.dense == (i != 2)


def test_a_frame_with_motion_and_a_mask_is_checked_whole(net: Net, clip: list[Tensor]) -> None:
    """It runs dense, so that what is outside the mask is read."""
    stream = stream_of(net)
    stream(clip[0])
    broken = clip[1].clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        stream(broken, motion=np.ones((2, 2, 3), np.int32), miss=np.zeros((32, 48), bool))
    assert_matches(stream(clip[1]), net.dense(clip[1]))


def test_streams_share_nothing(net: Net, clip: list[Tensor]) -> None:
    one, other = stream_of(net), stream_of(net)
    for a, b in zip(clip, reversed(clip), strict=True):
        assert_matches(one(a), net.dense(a))
        assert_matches(other(b), net.dense(b))


def test_the_frame_is_the_callers(net: Net, clip: list[Tensor]) -> None:
    """A camera's buffer, written again and again."""
    stream, buffer = stream_of(net), torch.zeros_like(clip[0])
    for frame in clip:
        buffer.copy_(frame)
        assert_matches(stream(buffer), net.dense(frame))
        buffer.fill_(torch.nan)


@pytest.mark.parametrize("tensors", [True, False])
def test_results_that_are_kept_stay(tensors: bool, net: Net, clip: list[Tensor]) -> None:
    """The caller may keep every result, some, a part of one, or none."""
    stream = stream_of(net)
    kept: list[tuple[Any, Tensor]] = []
    for i, frame in enumerate((*clip, clip[0])):
        outputs, want = stream(frame if tensors else frame.numpy()), net.dense(frame)
        if i % 3 == 0:
            kept += [(outputs[k], want[k]) for k in outputs]
        elif i % 3 == 1:
            kept.append((outputs["map"][0, 1], want["map"][0, 1]))
        for got, right in kept:
            assert isinstance(got, Tensor) == tensors
            assert_matches(as_tensors(got), right)


def test_results_that_are_not_kept_are_written_again(net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    places = []
    for frame in clip[:4]:
        outputs = stream(frame.numpy())
        places.append(outputs["map"].ctypes.data)
        del outputs
    assert len(set(places)) == 1


def test_results_of_the_last_frame_alone_take_turns(net: Net, clip: list[Tensor]) -> None:
    """As in a loop that keeps what it got until it gets the next; now and then a frame is not kept, or kept longer."""
    stream = stream_of(net)
    places, longer = set(), []
    for i in range(12):
        frame = clip[i % len(clip)]
        outputs = stream(frame.numpy())
        places.add(outputs["map"].ctypes.data)
        assert_matches(as_tensors(outputs), net.dense(frame))
        if i in (5, 6):
            del outputs
        elif i == 9:
            longer.append((outputs, net.dense(frame)))
    assert len(places) == 3
    for kept, want in longer:
        assert_matches(as_tensors(kept), want)


@pytest.mark.parametrize("tensors", [True, False])
def test_what_the_caller_does_to_results(tensors: bool, net: Net, clip: list[Tensor]) -> None:
    """Is seen nowhere: a tensor is a copy, an array cannot be written to."""
    stream = stream_of(net)
    for frame in clip:
        outputs = stream(frame if tensors else frame.numpy())
        assert_matches(as_tensors(outputs), net.dense(frame))
        for value in outputs.values():
            if tensors:
                value.zero_()
            else:
                with pytest.raises(ValueError, match="read-only"):
                    value[:] = 0
        if frame is clip[2]:
            del value, outputs


# --- what is refused --------------------------------------------------------------------------------------------------

BLANK = np.zeros((1, 3, 32, 48), np.float32)
NOWHERE = np.zeros((32, 48), bool)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "shape": (BLANK[..., 1:], {}, r"input x: shape \(1, 3, 32, 47\), the net was compiled for \(1, 3, 32, 48\)"),
    "no batch": (BLANK[0], {}, "shape"),
    "type": (BLANK.astype(np.float64), {}, "dtype float64, the net was compiled for float32"),
    "bytes": (BLANK.astype(np.uint8), {}, "dtype uint8"),
    "half": (torch.zeros(1, 3, 32, 48, dtype=torch.bfloat16), {}, "is no array of numbers"),
    "nothing": (None, {}, "is no array of numbers"),
    "words": ("frame", {}, "is no array of numbers"),
    "ragged": ([[1], [1, 2]], {}, "is no array of numbers"),
    "NaN": (np.where(BLANK == 0, np.nan, BLANK).astype(np.float32), {}, "NaN or infinite"),
    "infinite": (np.full_like(BLANK, np.inf), {}, "NaN or infinite"),
    "mask shape": (BLANK, {"miss": NOWHERE[1:]}, r"miss: bool \(31, 48\), expected bool \(32, 48\)"),
    "mask of channels": (BLANK, {"miss": np.zeros((3, 32, 48), bool)}, "miss: bool"),
    "mask type": (BLANK, {"miss": NOWHERE.astype(np.uint8)}, "miss: uint8"),
    "mask words": (BLANK, {"miss": "all"}, "miss"),
    "motion shape": (BLANK, {"motion": np.zeros((2, 3, 2), np.int32)}, r"motion: int32 \(2, 3, 2\), expected integers"),
    "motion type": (BLANK, {"motion": np.zeros((2, 2, 3))}, "motion: float64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_frames_leave_no_trace(case: str, net: Net, clip: list[Tensor]) -> None:
    frame, given_, message = REFUSED[case]
    stream = stream_of(net)
    with pytest.raises(InputError, match=message):
        stream(frame, **given_)
    for good in clip[:3]:
        assert_matches(stream(good), net.dense(good))
        before = stream.stats
        with pytest.raises(InputError, match=message):
            stream(frame, **given_)
        assert before is not None
        assert stream.stats is not None
        assert stream.stats.frame == before.frame
        np.testing.assert_array_equal(stream.stats.miss, before.miss)


def test_frames_in_any_memory(net: Net, clip: list[Tensor]) -> None:
    """Strided, read-only, with gradients asked for, channels last."""
    stream = stream_of(net)
    wide = torch.stack([clip[1], clip[2]], -1)
    frozen = clip[3].numpy().copy()
    frozen.flags.writeable = False
    assert_matches(stream(wide[..., 0]), net.dense(clip[1]))
    assert_matches(as_tensors(stream(wide.numpy()[..., 1])), net.dense(clip[2]))
    assert_matches(as_tensors(stream(frozen)), net.dense(clip[3]))
    assert_matches(stream(clip[0].clone().requires_grad_()), net.dense(clip[0]))
    assert_matches(stream(clip[1].to(memory_format=torch.channels_last)), net.dense(clip[1]))


def test_refused_counts(net: Net) -> None:
    for frames in ((), (BLANK, BLANK)):
        with pytest.raises(InputError, match=r"takes 1 inputs \(x\), got"):
            stream_of(net)(*frames)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_outside_the_mask_are_not_read(bad: float, net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    stream(clip[0])
    frame, miss = clip[0].clone(), NOWHERE.copy()
    frame[..., 4:8, 4:8] += 1
    miss[4:8, 4:8] = True
    want = net.dense(frame)
    frame[0, 1, 20, 20] = bad
    assert_matches(stream(frame, miss=miss), want)
    miss[20, 20] = True
    with pytest.raises(InputError, match="NaN"):
        stream(frame, miss=miss)
    assert_matches(stream(clip[1]), net.dense(clip[1]))


# --- frames, inputs and outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("tensors", [True, False])
def test_frames_of_a_camera(layout: str, tensors: bool) -> None:
    frames = Frames(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), layout=layout)
    net = fluxcompile(convolutions(), torch.zeros(1, 3, 32, 48), frames=frames)
    stream, random = stream_of(net), np.random.default_rng(0)
    frame = random.integers(0, 256, net.input_shapes[0], dtype=np.uint8)
    for _ in range(3):
        got = stream(torch.from_numpy(frame) if tensors else frame)
        assert_matches(as_tensors(got), as_tensors(net.dense(frame)))
        frame = frame.copy()
        frame[frame > 250] ^= 255


@pytest.mark.parametrize("frames", [None, Frames(mean=(0.4, 0.5, 0.6)), Frames(layout="chw")])
def test_a_model_that_takes_its_channels_last(frames: Frames | None) -> None:
    model = nn.Sequential(Do(lambda x: (x * 2 - 1).permute(0, 3, 1, 2)), *convolutions()).eval()
    net = fluxcompile(model, torch.zeros(1, 32, 48, 3), frames=frames)
    assert net.explain().blocked_mac_share == 1.0
    shape, random = net.input_shapes[0], np.random.default_rng(0)
    frame = random.random(shape, np.float32) if frames is None else random.integers(0, 200, shape, dtype=np.uint8)
    for backend in ("cpu", "reference"):
        stream = net.stream(backend=backend)
        for _ in range(3):
            assert_matches(as_tensors(stream(frame)), as_tensors(net.dense(frame)))
            frame = frame.copy()
            frame[
                (..., slice(4, 8), slice(0, 5)) if shape[0] == 3 else (..., slice(4, 8), slice(0, 5), slice(None))
            ] += 1
        assert stream.stats.work_share < 0.7


def as_tensors(outputs: Any) -> Any:
    """Copies of a tree's arrays."""
    return tree_map(lambda v: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v, outputs)


def both(net: Net, *clip: tuple[Tensor, ...]) -> CpuStream:
    """The stream equals dense inference, as tensors and as arrays."""
    stream, arrays = stream_of(net), stream_of(net)
    for frames in clip:
        want = net.dense(*frames)
        assert_matches(stream(*frames), want)
        assert_matches(as_tensors(arrays(*(f.numpy() for f in frames))), want)
    return stream


def changed(frame: Tensor, *at: Any) -> Tensor:
    frame = frame.clone()
    frame[at] += 1
    return frame


def of(function: Any, *parts: Any, clip: Any = None) -> CpuStream:
    """A function of a frame, over a short clip."""
    a = torch.rand(1, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    b = changed(a, ..., 3, 4)
    frames = clip or ((a,), (b,), (b,), (changed(b, ..., slice(0, 2), slice(14, 16)),), (a,))
    model = seeded(lambda: Do(function, *parts))
    return both(fluxcompile(model, tuple(torch.zeros_like(f) for f in frames[0])), *frames)


def test_several_inputs() -> None:
    a, b, v = torch.rand(1, 4, 12, 16), torch.rand(1, 4, 6, 8), torch.rand(1, 4)
    clip = ((a, b), (changed(a, ..., 2, 2), b), (a, changed(b, ..., 5, 7)), (a, b))
    of(lambda x, y, conv: conv(x) + F.interpolate(y, scale_factor=2), nn.Conv2d(4, 4, 3, padding=1), clip=clip)
    stream = of(
        lambda x, v, conv: conv(x) * v[:, :, None, None],
        nn.Conv2d(4, 4, 3, padding=1),
        clip=((a, v), (changed(a, ..., 2, 2), v), (a, changed(v, ..., 1)), (a, v)),
    )
    assert stream.stats is not None
    assert stream.stats.miss.shape == (12, 16)


def test_a_given_mask_is_of_images() -> None:
    """An input without a place is compared all the same."""
    a, v = torch.rand(1, 4, 12, 16), torch.rand(1, 4)
    model = seeded(lambda: Do(lambda x, v, conv: conv(x) * v[:, :, None, None], nn.Conv2d(4, 4, 3, padding=1)))
    net = fluxcompile(model, (a, v))
    stream = stream_of(net)
    stream(a, v)
    b, w = changed(a, ..., 2, 2), changed(v, ..., 1)
    miss = np.zeros((12, 16), bool)
    assert_matches(stream(b, w, miss=miss), net.dense(a, w))
    miss[2, 2] = True
    assert_matches(stream(b, w, miss=miss), net.dense(b, w))


OUTPUTS: dict[str, Any] = {
    "the input": lambda x, conv: x,
    "the input and more": lambda x, conv: {"x": x, "y": conv(x)},
    "a view of the input": lambda x, conv: (x[:, 1:3], x.flatten(2).mT, conv(x)),
    "a constant": lambda x, conv: (conv(x), torch.arange(3.0), torch.ones(2, dtype=torch.int64)),
    "twice the same": lambda x, conv: (lambda y: [y, y, {"again": y}])(conv(x)),
    "parts of one": lambda x, conv: conv(x).split((1, 3), 1),
    "in another order": lambda x, conv: conv(x).permute(0, 3, 2, 1),
    "every second": lambda x, conv: conv(x)[:, :, ::2, 1::3],
    "nothing": lambda x, conv: {"none": None, "a": (conv(x), None, [])},
    "numbers": lambda x, conv: (conv(x), x.shape[2], 0.5, "name"),
    "integers": lambda x, conv: (conv(x).argmax(1), conv(x)),
    "bools": lambda x, conv: conv(x) > 0,
    "a scalar": lambda x, conv: conv(x).mean(),
    "a vector": lambda x, conv: conv(x).mean((2, 3)),
    "the greatest": lambda x, conv: conv(x).flatten(1).topk(5),
    "repeated": lambda x, conv: conv(x)[:, :1].expand(-1, 3, -1, -1),
    "a concatenation with the input": lambda x, conv: torch.cat([x, conv(x), x], 1),
    "inside a concatenation": lambda x, conv: (lambda y: (y, torch.cat([y, y.relu()], 1)))(conv(x)),
    "a residual of itself": lambda x, conv: (lambda y: y + y)(conv(x)),
    "made by a region and read again": lambda x, conv: conv(x.cumsum(3) * 0.1),
    "between regions": lambda x, conv: conv(x.cumsum(3) * 0.1).cumsum(2).sum(1, keepdim=True) + conv(x),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(name: str) -> None:
    of(OUTPUTS[name], nn.Conv2d(4, 4, 3, padding=1))


def merged(x: Tensor) -> Tensor:
    """Blocks of 2 x 2 cells with their channels side by side: (1, 6, 8, 16)."""
    return x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3)


BLOCKS: dict[str, Any] = {
    "normed": lambda x, norm, mix: norm(merged(x)),
    "mixed": lambda x, norm, mix: mix(merged(x)),
    "normed and mixed": lambda x, norm, mix: mix(norm(merged(x))),
    "normed, bent and mixed": lambda x, norm, mix: mix(norm(merged(x)).relu()),
    "normed twice": lambda x, norm, mix: norm(norm(merged(x))),
    "as a map": lambda x, norm, mix: norm(merged(x)).permute(0, 3, 1, 2),
    "as tokens": lambda x, norm, mix: norm(merged(x)).flatten(1, 2),
    "in pieces": lambda x, norm, mix: norm(merged(x)).split(8, -1),
    "one channel": lambda x, norm, mix: norm(merged(x))[..., 3],
    "a residual": lambda x, norm, mix: merged(x) + norm(merged(x)),
    "a residual after": lambda x, norm, mix: merged(x)[..., :8] + mix(norm(merged(x))),
    "side by side": lambda x, norm, mix: torch.cat([norm(merged(x)), merged(x)], -1),
    "their mean": lambda x, norm, mix: norm(merged(x)).mean((1, 2)),
    "read by a region": lambda x, norm, mix: norm(merged(x)).cumsum(-1),
    "attended to": lambda x, norm, mix: F.scaled_dot_product_attention(*[norm(merged(x)).flatten(1, 2)] * 3),
    "convolved": lambda x, norm, mix: F.conv2d(norm(merged(x)).permute(0, 3, 1, 2), torch.ones(3, 16, 3, 3)),
    "laid flat": lambda x, norm, mix: F.linear(x.flatten(1), torch.arange(5 * 768.0).view(5, 768) / 768),
    "turned and laid flat": lambda x, norm, mix: F.linear(
        x.relu().permute(0, 3, 1, 2).flatten(1), torch.arange(5 * 768.0).view(5, 768) / 768
    ).relu(),
    "a part laid flat": lambda x, norm, mix: F.linear(x[:, 1:3].flatten(1), torch.ones(5, 384)),
    "lines laid flat": lambda x, norm, mix: F.linear(x.permute(0, 2, 3, 1).flatten(2), torch.ones(5, 64)),
    "one cell widened": lambda x, norm, mix: torch.cat(
        [x, F.interpolate(x.mean((2, 3), keepdim=True).relu(), size=(12, 16), mode="bilinear")], 1
    ),
    "only one cell widened": lambda x, norm, mix: F.interpolate(x.mean((2, 3), keepdim=True), size=(12, 16)),
    "widened and held": lambda x, norm, mix: x * x.mean((1, 2, 3), keepdim=True).sigmoid().expand(1, 4, 1, 1),
    "widened twice": lambda x, norm, mix: torch.cat([x, *[x.mean((2, 3), keepdim=True).expand(x.shape)] * 2], 1),
    "strips widened": lambda x, norm, mix: torch.cat([x.mean(2, keepdim=True).expand(x.shape), x], 1),
    "one token widened": lambda x, norm, mix: torch.cat([x.mean((2, 3))[:, None].expand(1, 3, 4), x.flatten(2).mT], 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_cells(name: str) -> None:
    of(BLOCKS[name], nn.LayerNorm(16), nn.Linear(16, 8))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 17)])
def test_small_maps(size: tuple[int, int]) -> None:
    """Of one cell, of one row, of one column."""
    h, w = size
    a = torch.rand(1, 4, h, w)
    clip = ((a,), (changed(a, ..., 0, 0),), (changed(a, ..., -1, -1),), (changed(a, 0, 1),), (a,))
    of(
        lambda x, conv, pool, up: (up(pool(conv(x).relu())), x.mean((2, 3)), F.avg_pool2d(x, 3, 2, 1)),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.MaxPool2d(3, 2, 1),
        nn.ConvTranspose2d(8, 4, 2, 2),
        clip=clip,
    )


def test_images_of_bytes() -> None:
    """A model that takes bytes and does its own arithmetic on them."""
    a = torch.randint(0, 256, (1, 3, 12, 16), dtype=torch.uint8)
    b = a.clone()
    b[..., 3:5, 3:5] ^= 255
    for function in (
        lambda x, conv: conv(x.float() / 255),
        lambda x, conv: (x, x[:, 1:], conv(x.float())),
        lambda x, conv: (x // 2, conv((x + x).float())),
        lambda x, conv: conv(x.flip(3).to(torch.float32)),
    ):
        of(function, nn.Conv2d(3, 4, 3, padding=1), clip=((a,), (b,), (b,), (a,)))


def test_values_that_overflow_come_back() -> None:
    """Infinite and NaN values in maps, held vectors and gated rows give way to finite ones."""
    a = torch.rand(1, 4, 12, 16)
    huge = a.clone()
    huge[..., 3:5, 3:5] = 1e30  # whose square is infinite
    of(
        lambda x, conv: (lambda y: (y, (y - y).mean((2, 3)), conv(x * (y * y).mean((2, 3), keepdim=True)).relu()))(
            conv(x)
        ),
        nn.Conv2d(4, 4, 3, padding=1),
        clip=((a,), (huge,), (a,), (huge,), (huge,), (changed(a, ..., 7, 7),)),
    )


def test_nets_the_kernels_cannot_read() -> None:
    net = fluxcompile(nn.Conv2d(3, 3, 3).double().eval(), torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(ProgramError, match=r"this net takes x f64|this net takes .* f64; use backend='reference'"):
        stream_of(net)


def test_backends_of_a_net(net: Net, clip: list[Tensor]) -> None:
    assert_matches(net.stream(backend="cpu", threads=2)(clip[0]), net.dense(clip[0]))
    with pytest.raises(OptionError, match="backend is 'gpu'"):
        net.stream(backend="gpu")


# --- without torch ----------------------------------------------------------------------------------------------------

BARE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "fluxcompile.passes"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Refuse())
import numpy as np
import fluxcompile
from fluxcompile.errors import ProgramError

net = fluxcompile.load(sys.argv[1])
if len(sys.argv) == 2:
    try:
        net.stream(backend="cpu")
    except ProgramError as e:
        print(e)
    sys.exit()
stream, stored = net.stream(backend="cpu"), np.load(sys.argv[2])
for i, frame in enumerate(stored["frames"]):
    for name, value in stream(frame).items():
        want = stored[f"{name}{i}"]
        assert type(value) is np.ndarray
        assert np.abs(value - want).max() <= 1e-4 * np.abs(want).max(), (name, i)
print("ok", round(stream.stats.work_share, 3))
"""


def bare(*arguments: Path) -> str:
    """What a Python without torch says."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class NoRegion(nn.Module):
    """Everything of `Everything` that has a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU()), nn.Linear(8, 5)
        self.tokens = Tokens(8, 16, 24, Attention(8, 2, fused=True), token=True, positions=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.tokens(self.stem(x))
        return {"map": F.interpolate(y, scale_factor=2.0), "classes": self.head(y.mean((2, 3)))}


def test_without_torch(tmp_path: Path, clip: list[Tensor]) -> None:
    net = fluxcompile(seeded(NoRegion), clip[0])
    assert net.program.plan is not None
    assert "region" not in net.program.plan.text()
    net.save(tmp_path / "net.flux")
    frames = [*clip[:3], clip[2]]
    stored = {f"{k}{i}": v.numpy() for i, f in enumerate(frames) for k, v in net.dense(f).items()}
    np.savez(tmp_path / "stored.npz", frames=np.stack([f.numpy() for f in frames]), **stored)
    assert bare(tmp_path / "net.flux", tmp_path / "stored.npz") == "ok 0.0"


def test_a_region_without_torch(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 3), sums=Do(lambda x: x.cumsum(3))))
    fluxcompile(model.eval(), torch.zeros(1, 3, 8, 8)).save(tmp_path / "net.flux")
    assert re.match(r"sums.*: cumsum has no kernel on the CPU and runs through torch", bare(tmp_path / "net.flux"))


# --- controls ---------------------------------------------------------------------------------------------------------


def test_a_stale_map_is_seen(net: Net, clip: list[Tensor]) -> None:
    stream = stream_of(net)
    stream(clip[0])
    for buffer in stream._build.buffers:
        buffer *= 1.01
    with pytest.raises(AssertionError):
        assert_matches(stream(changed(clip[0], ..., 5, 5)), net.dense(changed(clip[0], ..., 5, 5)))


def test_a_forgotten_row_is_seen(net: Net, clip: list[Tensor]) -> None:
    """A mask that the caller vouches for and that lacks a pixel."""
    stream = stream_of(net)
    stream(clip[0])
    frame, miss = changed(clip[0], ..., slice(5, 7), 5), NOWHERE.copy()
    miss[5, 5] = True
    with pytest.raises(AssertionError):
        assert_matches(stream(frame, miss=miss), net.dense(frame))


def _renamed(plan: Plan) -> None:
    plan.steps[-1].op = "argument"


def _lost(plan: Plan) -> None:
    next(s for s in plan.steps if s.op == "conv2d").args["weight"] = {"@": "nowhere"}


def _beyond(plan: Plan) -> None:
    next(s for s in plan.steps if s.op == "conv2d").args["x"]["map"][0] = 99


def _short(plan: Plan) -> None:
    next(s for s in plan.steps if s.op == "conv2d").args.pop("stride")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, "unknown step argument; this program was made by another version"),
        (_lost, "the plan's step conv2d does not fit .*nowhere"),
        (_beyond, "the plan's step conv2d does not fit"),
        (_short, "the plan's step conv2d does not fit .*stride"),
    ],
)
def test_a_plan_that_was_tampered_with(change: Callable[[Plan], None], message: str) -> None:
    net = fluxcompile(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3))), torch.zeros(1, 3, 8, 8))
    assert net.program.plan is not None
    change(net.program.plan)
    with pytest.raises(ProgramError, match=message):
        net.stream()
