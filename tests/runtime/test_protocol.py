"""The wire: messages survive it, strangers do not get through it, silence is noticed."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.messages import (
    GREETING_BYTES,
    MAGIC,
    MAX_BYTES,
    VERSION,
    Bye,
    Challenge,
    Frame,
    Hello,
    Message,
    Parser,
    Ping,
    Pong,
    Received,
    Refusal,
    Result,
    Skipped,
    Welcome,
    encode,
)
from fluxcompile.runtime.protocol import GREETING_MS, MESSAGE_MS, MOST_OPEN, CloudEnd, EdgeEnd, Lost, proof
from fluxcompile.runtime.transport import Packet

PACKET = Packet("raw", 3, False, (48, 64), b"abc")
MESSAGES: list[Message] = [
    Challenge(1, b"nonce"),
    Hello(1, b"proof", "program", "{}", "detect", "camera", "session", b"digest"),
    Welcome("session", True, 1000),
    Refusal("full", "no room", 2000),
    Frame(7, True, 50.0, PACKET),
    Received(7, b"digest"),
    Result(7, b"values", b"salience", 12.0, 0.1, False, 8.5, 0.2),
    Skipped(8, "late"),
    Ping(1.5),
    Pong(1.5),
    Bye("done", 0),
]


def welcome(hello: Hello) -> Welcome | Refusal:
    return Welcome("session", bool(hello.digest), 1000)


def hello_of(program: str = "program") -> Hello:
    return Hello(VERSION, b"", program, "{}", "detect", "camera")


def ends(
    token: str = "secret", theirs: str | None = None, admit: Callable[[Hello], Any] = welcome
) -> tuple[EdgeEnd, CloudEnd]:
    return EdgeEnd(0.0, token=token, hello=hello_of()), CloudEnd(0.0, token=theirs or token, admit=admit)


def talk(
    edge: EdgeEnd, cloud: CloudEnd, now_ms: float = 0.0, step: int = 1 << 20
) -> tuple[list[Message], list[Message]]:
    """All that both have to say, in pieces of `step` bytes; what edge and cloud heard."""
    heard: tuple[list[Message], list[Message]] = ([], [])
    while edge.out or cloud.out:
        for sender, receiver, events in ((edge, cloud, heard[1]), (cloud, edge, heard[0])):
            data = sender.take_out()
            for at in range(0, len(data), step):
                events.extend(receiver.receive(data[at : at + step], now_ms))
    return heard


def opened() -> tuple[EdgeEnd, CloudEnd]:
    edge, cloud = ends()
    talk(edge, cloud)
    assert edge.state == cloud.state == "open"
    return edge, cloud


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_messages_survive(message: Message, step: int) -> None:
    parser, data = Parser(), encode(message)
    found = []
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
        found += [m for m in [parser.next()] if m is not None]
    assert found == [message]
    assert not parser.waiting


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_conversation(step: int) -> None:
    edge, cloud = ends()
    heard = talk(edge, cloud, step=step)
    assert [type(m) for m in heard[0]] == [Challenge, Welcome]
    assert [type(m) for m in heard[1]] == [Hello]
    edge.send(Frame(0, True, 0.0, PACKET), 1.0)
    cloud.answer(Result(0, b"", b"", 1.0, 1.0, True, 1.0, 0.0), 2.0)
    heard = talk(edge, cloud, 3.0, step)
    assert [type(m) for m in heard[0]] == [Result]
    assert [type(m) for m in heard[1]] == [Frame]
    edge.bye("done", 4.0)
    assert [type(m) for m in talk(edge, cloud, 4.0)[1]] == [Bye]
    assert edge.state == cloud.state == "closed"


def test_no_queue() -> None:
    """More frames than MOST_OPEN are not taken before some are answered."""
    edge, cloud = opened()
    for seq in range(MOST_OPEN):
        edge.send(Frame(seq, seq % 2 == 0, 0.0, PACKET), 1.0)
    assert not edge.free
    with pytest.raises(ProtocolError, match="frame 9"):
        edge.send(Frame(9, True, 0.0, PACKET), 1.0)
    cloud.answer(Received(1, b""), 2.0)  # of one that is not wanted: that is all it gets
    cloud.answer(Received(0, b""), 2.0)
    talk(edge, cloud, 2.0)
    assert edge.free
    edge.send(Frame(9, True, 0.0, PACKET), 3.0)
    assert not edge.free


def test_who_may_come() -> None:
    edge, cloud = ends("wrong", "right")
    heard = talk(edge, cloud)[0]
    assert [m.code for m in heard if isinstance(m, Refusal)] == ["token"]
    assert edge.state == cloud.state == "closed"
    edge, cloud = ends(admit=lambda hello: Refusal("full", "no room", 100))
    assert [m.code for m in talk(edge, cloud)[0] if isinstance(m, Refusal)] == ["full"]
    edge = EdgeEnd(0.0, token="t", hello=msgspec.structs.replace(hello_of(), version=99))
    cloud = CloudEnd(0.0, token="t", admit=welcome)
    assert [m.code for m in talk(edge, cloud)[0] if isinstance(m, Refusal)] == ["version"]
    edge = EdgeEnd(0.0, token="t", hello=hello_of())
    with pytest.raises(ProtocolError, match="speaks version 99"):
        list(edge.receive(encode(Challenge(99, b"")), 0.0))


def test_a_replay_is_refused() -> None:
    """What an honest camera said opens nothing a second time, for the challenge is another."""
    edge, cloud = ends()
    said = bytearray(edge.take_out())
    list(edge.receive(cloud.take_out(), 0.0))
    said += edge.take_out()
    list(cloud.receive(bytes(said), 0.0))
    assert cloud.state == "open"
    again = CloudEnd(0.0, token="secret", admit=welcome)
    again.take_out()
    list(again.receive(bytes(said), 0.0))
    assert again.state == "closed"
    assert proof("secret", b"1", "p", "s") != proof("secret", b"2", "p", "s")
    assert proof("secret", b"1", "p", "s") != proof("secret", b"1", "p", "t")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "first bytes"),
        (MAGIC + (GREETING_BYTES + 1).to_bytes(4, "big"), f"the most here is {GREETING_BYTES}"),
        (MAGIC + b"\x00\x00\x00\x02\xc1\xc1", "that are no message"),
        (MAGIC + b"\x00\x00\x00\x00", "that are no message"),
        (MAGIC + encode(Frame(0, True, 0.0, PACKET)), "a Frame while the connection is greeting"),
        (MAGIC + encode(Ping(1.0)), "a Ping while the connection is greeting"),
        (MAGIC + encode(Welcome("", True, 1)), "a Welcome while the connection is greeting"),
    ],
    ids=["http", "long", "noise", "empty", "frame", "ping", "welcome"],
)
def test_strangers(data: bytes, message: str) -> None:
    cloud = CloudEnd(0.0, token="t", admit=welcome)
    with pytest.raises(ProtocolError, match=message):
        list(cloud.receive(data, 0.0))


def test_what_is_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=f"the most is {MAX_BYTES}"):
        encode(Frame(0, True, 0.0, msgspec.structs.replace(PACKET, data=bytes(MAX_BYTES))))
    _, cloud = opened()
    with pytest.raises(ProtocolError, match=f"the most here is {MAX_BYTES}"):
        list(cloud.receive((MAX_BYTES + 1).to_bytes(4, "big"), 0.0))


def test_silence() -> None:
    """Both ends beat; without a byte for three beats the other is lost; half a message does not hold a connection."""
    edge, cloud = opened()
    for now_ms in range(0, 20_000, 100):
        assert edge.on_time(now_ms) is None
        assert cloud.on_time(now_ms) is None
        talk(edge, cloud, now_ms)
    assert edge.rtt_ms == 0
    assert edge.on_time(22_000) is None
    assert isinstance(edge.on_time(23_100), Lost)
    list(cloud.receive(encode(Ping(0.0))[:3], 20_000))
    lost = None
    for now_ms in range(20_000, 40_000, 100):
        if now_ms % 1000 == 0:
            list(cloud.receive(b"", now_ms))
        lost = cloud.on_time(now_ms)
        if lost is not None:
            break
    assert lost is not None
    assert "half said" in lost.reason
    assert now_ms == 20_000 + MESSAGE_MS + 100


def test_slow_greetings() -> None:
    cloud = CloudEnd(0.0, token="t", admit=welcome)
    assert cloud.on_time(GREETING_MS) is None
    list(cloud.receive(MAGIC[:2], GREETING_MS))
    assert isinstance(cloud.on_time(GREETING_MS + 1), Lost)
    assert cloud.on_time(GREETING_MS + 2) is None


def test_clocks_may_differ() -> None:
    """Times come back to who sent them; the other side's clock is never looked at."""
    edge, cloud = EdgeEnd(5e9, token="t", hello=hello_of()), CloudEnd(-3e6, token="t", admit=welcome)
    for sender, receiver, now_ms in ((cloud, edge, 5e9), (edge, cloud, -3e6), (cloud, edge, 5e9)):
        list(receiver.receive(sender.take_out(), now_ms))
    assert edge.on_time(5e9 + 1000) is None
    list(cloud.receive(edge.take_out(), -3e6 + 500))
    list(edge.receive(cloud.take_out(), 5e9 + 1025))
    assert edge.rtt_ms == 25


kinds = st.sampled_from(MESSAGES)
pieces = st.one_of(
    st.binary(max_size=60),
    kinds.map(encode),
    kinds.map(encode).flatmap(lambda data: st.integers(0, len(data)).map(lambda n: data[:n])),
    kinds.map(encode).flatmap(
        lambda data: st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)).map(
            lambda found: data[: found[0]] + bytes([found[1]]) + data[found[0] + 1 :]
        )
    ),
)


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.booleans(), st.lists(st.tuples(pieces, st.floats(0, 3000)), max_size=12))
def test_any_bytes_at_any_time(ours: bool, is_open: bool, said: list[tuple[bytes, float]]) -> None:
    """Whatever comes: an event, an error that says so, never anything else, and no memory that grows with it."""
    edge, cloud = opened() if is_open else ends()
    end: EdgeEnd | CloudEnd = edge if ours else cloud
    now_ms = 0.0
    for data, after_ms in said:
        now_ms += after_ms
        try:
            for event in end.receive(data, now_ms):
                assert isinstance(event, Message)
        except ProtocolError:
            break
        end.on_time(now_ms)
    assert len(end._parser._buffer) <= sum(len(data) for data, _ in said)
    assert len(end.out) < 2000 + 100 * len(said)
