"""Pictures as packets: the sender's view is the receiver's, and what is no packet changes nothing."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import InputError, OptionError, TransportError
from fluxcompile.runtime.changed_blocks import BLOCK
from fluxcompile.runtime.h264 import Region
from fluxcompile.runtime.transport import CODECS, Packet, Receiver, Sender

Image = np.ndarray[Any, np.dtype[np.uint8]]


def pictures(size: tuple[int, int], count: int, seed: int = 0) -> list[Image]:
    """A smooth scene in which a square moves."""
    y, x = np.mgrid[: size[0], : size[1]]
    scene = np.stack([2 * y % 200, x % 220, (y + x) % 180], -1).astype(np.uint8)
    found = []
    for index in range(count):
        picture = scene.copy()
        top, left = 4 + index * 3, 5 + index * 2 + seed
        picture[top : top + 12, left : left + 12] = 250
        found.append(picture)
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(64, 96), (47, 65), (16, 16)])
def test_views_are_equal(codec: str, size: tuple[int, int]) -> None:
    sender, receiver = Sender(size), Receiver()
    for picture in pictures(size, 5):
        packet = sender.send(picture, codec)
        view = receiver.receive(packet)
        assert sender.view is not None
        np.testing.assert_array_equal(view, sender.view)
        assert receiver.digest == sender.digest
        assert np.abs(view.astype(int) - picture).mean() < (0.001 if codec == "raw" else 12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(CODECS), min_size=1, max_size=8), st.integers(0, 100))
def test_codecs_take_turns(codecs: list[str], seed: int) -> None:
    sender, receiver = Sender((48, 80)), Receiver((48, 80))
    for codec, picture in zip(codecs, pictures((48, 80), len(codecs), seed % 7), strict=True):
        receiver.receive(sender.send(picture, codec))
        assert receiver.digest == sender.digest
        if codec == "raw":
            np.testing.assert_array_equal(receiver.view, picture)


def test_what_does_not_matter_is_coded_more_coarsely() -> None:
    """Fewer bytes; what lies in a region is as good as before, what lies outside is not."""
    size, random = (96, 160), np.random.default_rng(0)
    scene = (random.integers(0, 256, (*size, 1), np.uint8) // 4 + 60).repeat(3, 2)  # grey: colours are halved anyway
    region = (16, 32, 48, 64)
    inside = np.zeros(size, np.bool_)
    inside[16:64, 32:96] = True

    def sent(coarser: int, regions: list[Region] | None) -> tuple[int, float, float]:
        sender, num_bytes = Sender(size, crf=20, coarser=coarser), 0
        for shift in range(4):
            picture = np.ascontiguousarray(np.roll(scene, shift, 1))
            num_bytes += len(sender.send(picture, "h264", regions).data)
        assert sender.view is not None
        error = np.abs(sender.view.astype(int) - picture).mean(2)
        return num_bytes, float(error[inside].mean()), float(error[~inside].mean())

    plain, marked = sent(0, [region]), sent(12, [region])
    assert marked[0] < 0.7 * plain[0]
    assert marked[1] < 1.05 * plain[1]
    assert marked[2] > 1.2 * plain[2]
    assert sent(12, None) == plain  # all of it matters
    everywhere = sent(12, [])
    assert everywhere[0] < 0.7 * plain[0]
    assert everywhere[1] > 1.2 * plain[1]


def test_only_what_changed_is_sent() -> None:
    sender = Sender((160, 160))
    first, second = pictures((160, 160), 2)
    for codec in ("raw", "jpeg"):
        whole = sender.send(first, codec)
        again = sender.send(first, codec)
        moved = sender.send(second, codec)
        assert len(again.data) < len(moved.data) < len(whole.data) * 0.7
        sender.restart()


def test_digests_tell_views_apart() -> None:
    one, two = Sender((32, 32)), Sender((32, 32))
    first, second = pictures((32, 32), 2)
    one.send(first, "raw")
    two.send(second, "raw")
    assert one.digest != two.digest
    assert len(one.digest) == 16
    one.restart()
    assert one.digest == b""


def test_the_chain() -> None:
    """What comes twice, or too early, is refused; a key begins anew."""
    sender, receiver = Sender((48, 48)), Receiver()
    packets = [sender.send(picture) for picture in pictures((48, 48), 4)]
    assert [packet.key for packet in packets] == [True, False, False, False]
    with pytest.raises(TransportError, match="packet 1 came where 0"):
        receiver.receive(packets[1])
    receiver.receive(packets[0])
    before = receiver.digest
    for wrong in (packets[0], packets[2]):
        if not wrong.key:
            assert not receiver.follows(wrong)
            with pytest.raises(TransportError, match="send a key packet"):
                receiver.receive(wrong)
    assert receiver.digest == before
    receiver.receive(packets[1])
    sender.restart()
    key = sender.send(pictures((48, 48), 1)[0])
    assert key.key
    assert key.at == 4
    receiver.receive(key)
    assert receiver.digest == sender.digest


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_damage(codec: str, damage: str) -> None:
    """A damaged packet leaves the view; only a key goes on from there."""
    sender, receiver = Sender((48, 64)), Receiver()
    first, second, third = pictures((48, 64), 3)
    receiver.receive(sender.send(first, codec))
    before = receiver.view
    packet = sender.send(second, codec)
    data = {"empty": b"", "cut": packet.data[: len(packet.data) // 3], "noise": b"\x93\xff\x00" * 40}[damage]
    with pytest.raises(TransportError):
        receiver.receive(msgspec.structs.replace(packet, data=data))
    assert receiver.view is before
    with pytest.raises(TransportError, match="send a key"):
        receiver.receive(sender.send(third, codec))
    sender.restart()
    receiver.receive(sender.send(third, codec))
    assert receiver.digest == sender.digest


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(CODECS), st.binary(max_size=200), st.booleans(), st.tuples(st.integers(-3, 70), st.integers(0, 70))
)
def test_any_bytes(codec: str, data: bytes, key: bool, size: tuple[int, int]) -> None:
    receiver = Receiver()
    receiver.receive(Sender((48, 64)).send(pictures((48, 64), 1)[0], "raw"))
    before = receiver.digest
    try:
        view = receiver.receive(Packet(codec, 1, key, size, data))
    except TransportError:
        assert receiver.digest == before
    else:
        assert view.shape == (48, 64, 3)


def test_a_bomb_takes_no_memory() -> None:
    """A packet that unpacks to more than its blocks is refused where that is noticed, not after."""
    import zlib

    bits = np.packbits(np.ones((3, 4), np.bool_)).tobytes()
    bomb = zlib.compress(bytes(1 << 26), 9)
    packet = Packet("raw", 0, True, (48, 64), msgspec.msgpack.encode([bits, bomb]))
    with pytest.raises(TransportError, match="for 12 blocks"):
        Receiver().receive(packet)
    large = Sender((512, 512)).send(pictures((512, 512), 1)[0])
    with pytest.raises(TransportError):
        Receiver().receive(msgspec.structs.replace(large, size=(48, 64)))


def test_refusals() -> None:
    with pytest.raises(OptionError, match="sides must be"):
        Sender((0, 4))
    with pytest.raises(OptionError, match="crf is 99"):
        Sender((16, 16), crf=99)
    with pytest.raises(InputError, match="this sender takes"):
        Sender((16, 16)).send(np.zeros((16, 17, 3), np.uint8))
    with pytest.raises(OptionError, match="codec is 'vp9'"):
        Sender((16, 16)).send(np.zeros((16, 16, 3), np.uint8), "vp9")
    with pytest.raises(TransportError, match="codec 'vp9'"):
        Receiver().receive(Packet("vp9", 0, True, (16, 16), b""))
    assert BLOCK == 16
