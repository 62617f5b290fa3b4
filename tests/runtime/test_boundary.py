"""Boundary maps as bytes: both ends agree to the bit, errors stay bounded, nothing but the right bytes is taken."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxcompile import BoundaryError, InputError, Net, OptionError, Partition, fluxcompile
from fluxcompile.models import ZOO, build
from fluxcompile.program import Input
from fluxcompile.runtime.boundary import CHECK, HEADER, MapReceiver, MapSender
from fluxcompile.runtime.precision import PRECISIONS
from tests.helpers import assert_matches, clip_of
from tests.test_exact import quick

Array = np.ndarray[Any, Any]
SPECS = [
    Input("map", "input", "f32", [1, 6, 9, 13], "1 6 y9 x13"),
    Input("heads", "input", "f32", [1, 2, 12, 3], "1 2 y3.x4 3"),
    Input("chain", "input", "f32", [1, 14, 5], "1 (2+3x4) 5"),
    Input("classes", "input", "f32", [1, 7]),
    Input("frame", "input", "u8", [9, 13, 3], "y9 x13 3"),
]


def ends(specs: list[Input] = SPECS, **options: Any) -> tuple[MapSender, MapReceiver]:
    same = {k: v for k, v in options.items() if k != "tolerance"}
    return MapSender(specs, **options), MapReceiver(specs, **same)


def noise(random: np.random.Generator, spec: Input, spread: float = 1.0) -> Array:
    if spec.dtype == "u8":
        return random.integers(0, 256, spec.shape, np.uint8)
    return (spread * random.standard_normal(spec.shape)).astype(np.float32)


@st.composite
def clips(draw: Any) -> list[list[Array]]:
    """Maps of several frames, of any scale: changed in a few places, drifting slowly, wholly new, or the same."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    spread = draw(st.sampled_from((1e-3, 1.0, 300.0)))
    found = [[noise(random, spec, spread) for spec in SPECS]]
    for event in draw(st.lists(st.sampled_from(("patch", "drift", "new", "same")), max_size=5)):
        maps = [m.copy() for m in found[-1]]
        for i, spec in enumerate(SPECS):
            if event == "new":
                maps[i] = noise(random, spec, spread)
            elif event == "drift" and spec.dtype == "f32":
                maps[i] += np.float32(spread * 0.003)
            elif event == "patch":
                at = tuple(slice(k := int(random.integers(n)), k + 2) for n in maps[i].shape)
                maps[i][at] = noise(random, spec, spread)[at]
        found.append(maps)
    return found


@quick(40)
@given(clips(), st.sampled_from(sorted(PRECISIONS)), st.sampled_from((1, 3, 4, 255)))
def test_both_ends_agree_and_errors_never_add_up(clip: list[list[Array]], precision: str, tile: int) -> None:
    sender, receiver = ends(precision=precision, tile=tile)
    bound = PRECISIONS[precision].tolerance
    peaks = [np.abs(m.astype(np.float64)).max() for m in clip[0]]
    for maps in clip:
        got = receiver.decode(sender.encode(maps))
        assert sender.digest() == receiver.digest()
        peaks = [max(p, np.abs(m.astype(np.float64)).max()) for p, m in zip(peaks, maps, strict=True)]
        for spec, want, have, peak in zip(SPECS, maps, got.maps, peaks, strict=True):
            assert (have.dtype, have.shape) == (want.dtype, want.shape)
            off = np.abs(have.astype(np.float64) - want).max()
            assert off <= (0 if spec.dtype == "u8" else 1.001 * bound * peak), spec.name


def test_quantisation_is_within_half_a_step() -> None:
    """And what is left is halved many times over when the tile is sent again."""
    sender, receiver = ends(SPECS[:1], tolerance=0.0)
    value = noise(np.random.default_rng(0), SPECS[0])
    low, high = value.min((0, 2, 3), keepdims=True), value.max((0, 2, 3), keepdims=True)
    step = (np.maximum(high, 0) - np.minimum(low, 0)) / 255
    (first,) = receiver.decode(sender.encode([value])).maps
    assert (np.abs(first - value) <= 0.501 * step).all()
    assert np.abs(first - value).max() > 0.1 * step.min()
    (second,) = receiver.decode(sender.encode([value])).maps
    assert np.abs(second - value).max() < step.max() / 100


def test_only_tiles_that_changed_are_sent() -> None:
    sender, receiver = ends(SPECS[:1])
    value = noise(np.random.default_rng(0), SPECS[0])
    whole = sender.encode([value])
    assert receiver.decode(whole).misses[0].all()
    nothing = sender.encode([value])
    assert len(nothing) < 40 < len(whole)
    assert not receiver.decode(nothing).misses[0].any()
    value[0, 2, 5, 6] += 3
    (miss,) = receiver.decode(sender.encode([value])).misses
    assert miss[4:8, 4:8].all()
    assert miss.sum() == 16


def test_what_is_slow_is_sent_in_the_end() -> None:
    """A drift too small to be sent in one frame is compared with what the receiver has."""
    sender, receiver = ends(SPECS[:1])
    value = noise(np.random.default_rng(0), SPECS[0])
    receiver.decode(sender.encode([value]))
    sent = []
    for _ in range(20):
        value = value + np.float32(0.004)
        got = receiver.decode(sender.encode([value]))
        sent.append(bool(got.misses[0].any()))
        assert np.abs(got.maps[0] - value).max() <= np.abs(value).max() / 128
    assert not sent[0]
    assert any(sent)


def test_a_lost_message_is_noticed_and_a_whole_one_mends_it() -> None:
    sender, receiver = ends()
    random = np.random.default_rng(0)
    clip = [[noise(random, s) for s in SPECS] for _ in range(3)]
    receiver.decode(sender.encode(clip[0]))
    sender.encode(clip[1])
    late = sender.encode(clip[2])
    before = receiver.digest()
    with pytest.raises(BoundaryError, match="message 2 follows 0: one was lost"):
        receiver.decode(late)
    assert receiver.digest() == before != sender.digest()
    sender.reset()
    receiver.decode(sender.encode(clip[2]))
    assert receiver.digest() == sender.digest()
    assert_matches(receiver.views[4].give(), clip[2][4])


def resealed(body: bytes) -> bytes:
    """A message with the right check."""
    return body + CHECK.pack(zlib.crc32(body))


@quick(60)
@given(st.data())
def test_garbage_is_refused_and_changes_nothing(data: st.DataObject) -> None:
    sender, receiver = ends()
    random = np.random.default_rng(1)
    receiver.decode(sender.encode([noise(random, s) for s in SPECS]))
    message = sender.encode([noise(random, s) for s in SPECS])
    before = receiver.digest()
    kind = data.draw(st.sampled_from(("cut", "flip", "random", "resealed", "longer")))
    if kind == "cut":
        bad = message[: data.draw(st.integers(0, len(message) - 1))]
    elif kind == "flip":
        at = data.draw(st.integers(0, len(message) - 1))
        bad = message[:at] + bytes([message[at] ^ data.draw(st.integers(1, 255))]) + message[at + 1 :]
    elif kind == "random":
        bad = data.draw(st.binary(max_size=200))
    elif kind == "resealed":  # whoever knows the check: a body of anything
        bad = resealed(message[: HEADER.size] + zlib.compress(data.draw(st.binary(max_size=300))))
    else:
        bad = resealed(
            message[: HEADER.size] + zlib.compress(zlib.decompress(message[HEADER.size : -CHECK.size]) + b"0")
        )
    with pytest.raises(BoundaryError):
        receiver.decode(bad)
    assert receiver.digest() == before
    receiver.decode(message)
    assert receiver.digest() == sender.digest()


def test_a_bomb_is_not_inflated() -> None:
    sender, receiver = ends(SPECS[:1])
    message = sender.encode([noise(np.random.default_rng(0), SPECS[0])])
    with pytest.raises(BoundaryError):
        receiver.decode(resealed(message[: HEADER.size] + zlib.compress(bytes(10**8))))


def test_values_that_are_no_numbers_are_refused() -> None:
    sender, receiver = ends(SPECS[:1], precision="fp32")
    value = noise(np.random.default_rng(0), SPECS[0])
    message = sender.encode([value])
    body = bytearray(zlib.decompress(message[HEADER.size : -CHECK.size]))
    body[2:6] = struct.pack("<f", np.nan)
    with pytest.raises(BoundaryError, match="NaN"):
        receiver.decode(resealed(message[: HEADER.size] + zlib.compress(bytes(body))))
    value[0, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="1 values are NaN or infinite"):
        sender.encode([value])


def test_options_of_both_ends_must_agree() -> None:
    message = MapSender(SPECS[:1], precision="fp16").encode([noise(np.random.default_rng(0), SPECS[0])])
    for other in (MapReceiver(SPECS[:1]), MapReceiver(SPECS[:1], "fp16", 8), MapReceiver(SPECS[:2], "fp16")):
        with pytest.raises(BoundaryError, match="both ends need the same options"):
            other.decode(message)
    newer = bytearray(message[: -CHECK.size])
    newer[4] = 9
    with pytest.raises(BoundaryError, match="version 9"):
        MapReceiver(SPECS[:1], "fp16").decode(resealed(bytes(newer)))


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(OptionError, match="precision is 'int9'; use one of fp32, fp16, int8"):
        MapSender(SPECS, precision="int9")
    with pytest.raises(OptionError, match="tile is 0"):
        MapSender(SPECS, tile=0)
    with pytest.raises(OptionError, match="tolerance is 2"):
        MapSender(SPECS, tolerance=2)
    with pytest.raises(OptionError, match="holds f64"):
        MapSender([Input("map", "input", "f64", [1, 2])])
    sender = MapSender(SPECS[3:4], precision="fp16")
    with pytest.raises(InputError, match="shape"):
        sender.encode([np.zeros((2, 7), np.float32)])
    with pytest.raises(InputError, match=r"1e\+06 is beyond float16; use int8 or fp32"):
        sender.encode([np.full((1, 7), 1e6, np.float32)])
    assert MapReceiver(SPECS[3:4], "fp16").decode(sender.encode([np.ones((1, 7), np.float32)])).maps[0].max() == 1


@pytest.fixture(scope="module")
def halves() -> tuple[Net, Partition]:
    net = fluxcompile(build("yolo11-mini"), ZOO["yolo11-mini"].example())
    return net, net.partition(at="stage4")


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.1)])
def test_halves_with_bytes_between_them(halves: tuple[Net, Partition], precision: str, most: float) -> None:
    """The cloud computes what it was sent, by the masks that came with it, and gives nearly what the whole net gives."""
    net, parts = halves
    assert parts.edge is not None
    assert parts.cloud is not None
    edge, cloud = parts.edge.stream(), parts.cloud.stream()
    sender, receiver = ends(parts.boundary, precision=precision)
    for frame in clip_of((1, 3, 64, 64)):
        early = edge(frame.numpy())
        maps, misses = receiver.decode(sender.encode(early["boundary"]))
        got = parts.outputs(early, cloud(*maps, miss=misses))
        (want,), (have,) = ([torch.as_tensor(np.array(x)) for x in tree] for tree in (net.dense(frame.numpy()), got))
        assert (have - want).abs().max() <= most * want.abs().max()
        (again,) = (torch.as_tensor(np.array(x)) for x in parts.outputs(early, parts.cloud.dense(*maps)))
        assert_matches(have, again)
