"""The cloud's streams: apart from each other, fair to each other, one answer to each frame."""

from typing import Any

import msgspec
import numpy as np
import pytest

from fluxcompile.errors import OptionError, ProtocolError
from fluxcompile.remote import checker, policy_from_words, policy_words, worker_of
from fluxcompile.runtime.camera import moved
from fluxcompile.runtime.messages import Frame, Received, Result, Skipped
from fluxcompile.runtime.transport import Sender
from fluxcompile.runtime.values import pack, unpack
from fluxcompile.runtime.worker import Worker, salience_of
from fluxcompile.tasks.instances import Instances
from fluxcompile.tasks.maps import Maps
from tests.remote import EXACT, MOVING, SIZE, pictures, small_net


def opened(*sessions: str) -> Worker:
    worker = worker_of(small_net())
    for session in sessions:
        worker.open(session, policy_words(MOVING), "segment")
    return worker


def frames(count: int, seed: int = 0, **changes: Any) -> list[Frame]:
    sender = Sender(SIZE, crf=10)
    return [
        msgspec.structs.replace(Frame(seq, True, 0.0, sender.send(picture)), **changes)
        for seq, picture in enumerate(pictures(count, seed=seed))
    ]


def test_one_answer_each() -> None:
    worker = opened("one")
    for frame in frames(5):
        (received,) = worker.take("one", frame, 0.0)
        assert isinstance(received, Received)
        assert worker.take("one", frame, 0.0) == []  # it comes twice
        step = worker.step(1.0)
        assert step is not None
        assert isinstance(step.answer, Result)
        assert step.answer.seq == frame.seq
        assert step.answer.queue_ms == 1.0
        assert not worker.waiting
        assert worker.step(2.0) is None


def test_the_newest_counts() -> None:
    """Of two wanted frames that wait the older is told to be late; a late one is not computed."""
    worker = opened("one")
    first, second, third = frames(3, deadline_ms=20.0)
    worker.take("one", first, 0.0)
    told = worker.take("one", second, 1.0)
    assert [type(m) for m in told] == [Received, Skipped]
    assert told[1] == Skipped(0, "late")
    step = worker.step(21.5)
    assert step is not None
    assert step.answer == Skipped(1, "late")
    worker.take("one", third, 30.0)
    step = worker.step(31.0)
    assert step is not None
    assert isinstance(step.answer, Result)


def test_turns() -> None:
    """Wanted frames before others, and a stream that has much to ask does not keep the next waiting."""
    worker = opened("one", "two", "three")
    clips = {name: frames(4, seed) for seed, name in enumerate(("one", "two", "three"))}
    worker.take("three", msgspec.structs.replace(clips["three"][0], wanted=False), 0.0)
    worker.take("one", clips["one"][0], 0.0)
    worker.take("two", clips["two"][0], 0.0)
    order = []
    for index in range(1, 3):
        step = worker.step(0.0)
        assert step is not None
        order.append(step.session)
        worker.take("one", clips["one"][index], 0.0)
    assert order == ["one", "two"]
    last = [worker.step(0.0), worker.step(0.0)]
    assert [step.session for step in last if step] == ["one", "three"]
    assert last[1] is not None
    assert last[1].answer is None
    assert last[1].blocks > 0


def test_streams_are_apart() -> None:
    """What one stream sees changes nothing of what another answers."""
    alone, together = opened("one"), opened("one", "two")
    for ours, theirs in zip(frames(6), frames(6, seed=3), strict=True):
        alone.take("one", ours, 0.0)
        together.take("two", theirs, 0.0)
        together.take("one", ours, 0.0)
        answers = {step.session: step.answer for step in (together.step(0.0), together.step(0.0)) if step}
        step = alone.step(0.0)
        assert step is not None
        assert answers["one"] == step.answer
        assert answers["two"] != step.answer


def test_what_is_unknown_or_damaged() -> None:
    worker = opened("one")
    first, second, third = frames(3)
    assert worker.take("nobody", first, 0.0) == [Skipped(0, "key")]
    worker.take("one", first, 0.0)
    worker.step(0.0)
    digest = worker.digest("one")
    assert len(digest) == 16
    damaged = msgspec.structs.replace(second, packet=msgspec.structs.replace(second.packet, data=b"noise"))
    assert worker.take("one", damaged, 0.0) == [Skipped(1, "key")]
    assert worker.take("one", third, 0.0) == [Skipped(2, "key")]
    assert not worker.waiting
    assert worker.digest("one") == digest
    worker.close("one")
    assert worker.digest("one") == b""
    with pytest.raises(OptionError, match="policy that cannot be read"):
        worker.open("two", "[]", "segment")
    with pytest.raises(OptionError, match="task is 'chess'"):
        worker.open("two", policy_words(MOVING), "chess")


def test_another_size_in_one_stream() -> None:
    """A packet of another size than the stream's is not taken for its next."""
    worker = opened("one")
    worker.take("one", frames(1)[0], 0.0)
    small = Sender((32, 32)).send(np.zeros((32, 32, 3), np.uint8))
    assert worker.take("one", Frame(1, True, 0.0, small), 0.0) == [Skipped(1, "key")]


def test_pictures_that_do_not_fit() -> None:
    """A picture larger than the net's input is told to have failed; the stream goes on."""
    worker = opened("one")
    large = Sender((128, 128)).send(np.zeros((128, 128, 3), np.uint8))
    worker.take("one", Frame(0, True, 0.0, large), 0.0)
    step = worker.step(0.0)
    assert step is not None
    assert step.answer == Skipped(0, "failed")


def test_policies_cross_the_wire() -> None:
    for policy in (EXACT, MOVING):
        assert policy_from_words(policy_words(policy)) == policy
    check = checker(small_net())
    assert check(policy_words(MOVING), "segment") is None
    assert "no limit" not in str(check('{"radius": -1, "exact": false}', "segment"))
    for words, task in (
        ("{", "segment"),
        ('{"speed": 9}', "segment"),
        (policy_words(EXACT), "chess"),
        ('{"radius":-1}', "segment"),
    ):
        assert check(words, task)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.zeros((0, 6), np.float32), np.ndarray),
        ([np.arange(4), np.ones((2, 2), np.bool_)], list[np.ndarray]),
        (Maps([np.arange(6, dtype=np.uint8).reshape(2, 3)], (64, 96)), Maps),
        (Instances(np.ones((2, 6), np.float32), np.ones((2, 3, 4), bool), np.ones((3, 4), bool), (8, 8)), Instances),
    ],
    ids=["boxes", "list", "maps", "instances"],
)
def test_results_cross_the_wire(value: Any, kind: Any) -> None:
    found = unpack(pack(value), kind)
    assert pack(found) == pack(value)
    with pytest.raises(ProtocolError):
        unpack(pack(value)[:-3], kind)
    with pytest.raises(ProtocolError):
        unpack(b"noise", kind)
    with pytest.raises(ProtocolError):
        unpack(pack({"no": "array"}), kind)


def test_arrays_that_lie() -> None:
    import zlib

    for dtype, shape, size in (
        ("<f4", (2, 2), 15),
        ("|O", (1,), 8),
        ("what", (1,), 1),
        ("|u1", (-1,), 1),
        ("<f4", (1 << 40,), 4),
    ):
        data = zlib.compress(msgspec.msgpack.encode([dtype, shape, bytes(size)]))
        with pytest.raises(ProtocolError):
            unpack(data, np.ndarray)


def test_salience_moves() -> None:
    salience = np.zeros((6, 8), np.float32)
    salience[2, 3] = 1
    np.testing.assert_array_equal(np.argwhere(moved(salience, (8, -16))), [[3, 1]])
    np.testing.assert_array_equal(np.argwhere(moved(salience, (4, 0))), [[2, 3], [3, 3]])
    assert moved(salience, (-100, 0)).sum() == 0
    assert salience_of(b"") is None
    step_of = salience_of(pack(np.array([[0, 255]], np.uint8)))
    np.testing.assert_array_equal(step_of, [[0.0, 1.0]])
