"""The two ends of a connection as state machines: bytes in, events out, the clock an argument. No I/O.

Cloud speaks first (a challenge), edge proves that it knows the token, names the program and its stream, and is welcomed
or refused. Then frames go up and results come down until either says goodbye, breaks the rules (ProtocolError) or falls
silent. Both ends of a connection beat, so that one which is open on one side only is noticed on the other.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.messages import (
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

HEARTBEAT_MS = 1000.0
PATIENCE = 3
"""Heartbeats without a byte after which the other side is taken for lost."""
GREETING_MS = 5000.0
"""Within this time a connection must be open."""
MESSAGE_MS = 10000.0
"""Within this time a message that began must be whole."""
MOST_OPEN = 4
"""Frames that edge may have under way without an answer; more would only wait behind each other."""


@dataclass(frozen=True)
class Lost:
    """The other side fell silent: close, and connect anew."""

    reason: str


def proof(token: str, nonce: bytes, program: str, session: str) -> bytes:
    """That one knows the token: HMAC-SHA256 of what the connection is about, good for this nonce alone."""
    return hmac.new(token.encode(), b"\0".join([nonce, program.encode(), session.encode()]), hashlib.sha256).digest()


@dataclass
class _End:
    """What both ends do. `out` collects the bytes to send."""

    now_ms: float
    heartbeat_ms: float = HEARTBEAT_MS
    state: str = "greeting"
    out: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._parser = Parser()
        self._began_ms = self._heard_ms = self._spoke_ms = self._whole_ms = self.now_ms
        self.rtt_ms: float | None = None
        """The shortest round trip of the last heartbeats."""

    def receive(self, data: bytes, now_ms: float) -> Iterator[Message]:
        """What the bytes say, message by message as it is asked for; ProtocolError where they break the rules."""
        if self.state == "closed":
            return
        self._heard_ms = now_ms
        if not self._parser.waiting:
            self._whole_ms = now_ms
        self._parser.feed(data)
        while self.state != "closed":
            message = self._parser.next()
            if message is None:
                return
            self._whole_ms = now_ms
            match message:
                case Ping(at_ms):
                    self._need(self.state == "open", message)
                    self._say(Pong(at_ms), now_ms)
                case Pong(at_ms):
                    self._need(self.state == "open", message)
                    self._saw_round_trip(now_ms - at_ms)
                case Bye() if self.state == "open":
                    self.state = "closed"
                    yield message
                case _:
                    self._need(self._take(message, now_ms), message)
                    yield message

    def on_time(self, now_ms: float) -> Lost | None:
        """To be called about every heartbeat: beats, and tells when the other side is lost."""
        if self.state == "closed":
            return None
        if self.state != "open":
            return self._lost("did not open within", GREETING_MS) if now_ms - self._began_ms > GREETING_MS else None
        if self._parser.waiting and now_ms - self._whole_ms > MESSAGE_MS:
            return self._lost("left a message half said for", MESSAGE_MS)
        if now_ms - self._heard_ms > PATIENCE * self.heartbeat_ms:
            return self._lost("was silent for", PATIENCE * self.heartbeat_ms)
        if now_ms - self._spoke_ms >= self.heartbeat_ms:
            self._say(Ping(now_ms), now_ms)
        return None

    def bye(self, reason: str, now_ms: float, retry_ms: int = 0) -> None:
        if self.state == "open":
            self._say(Bye(reason, retry_ms), now_ms)
        self.state = "closed"

    def take_out(self) -> bytes:
        """The bytes to send now."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def _take(self, message: Message, now_ms: float) -> bool:
        """Whether the message may come now; what it does to this end."""
        raise NotImplementedError

    def _say(self, message: Message, now_ms: float) -> None:
        self.out += encode(message)
        self._spoke_ms = now_ms

    def _need(self, allowed: bool, message: Message) -> None:
        if not allowed:
            state, self.state = self.state, "closed"
            raise ProtocolError(f"a {type(message).__name__} while the connection is {state}")

    def _lost(self, what: str, ms: float) -> Lost:
        self.state = "closed"
        return Lost(f"the other side {what} {ms / 1000:g} s")

    def _open(self) -> None:
        self.state = "open"
        self._parser.most = MAX_BYTES

    def _saw_round_trip(self, took_ms: float) -> None:
        if took_ms >= 0:
            self.rtt_ms = took_ms if self.rtt_ms is None else min(took_ms, 0.9 * self.rtt_ms + 0.1 * took_ms)


class EdgeEnd(_End):
    """The camera's end.

    program: hash of what is to be run. session, digest: of the stream to go on with, empty for a new one.
    """

    def __init__(self, now_ms: float, *, token: str, hello: Hello, heartbeat_ms: float = HEARTBEAT_MS) -> None:
        super().__init__(now_ms, heartbeat_ms)
        self._token, self._hello = token, hello
        self._open_frames: dict[int, bool] = {}
        self._last = -1
        self.out += MAGIC

    @property
    def free(self) -> bool:
        """Whether another frame may be sent: a slow link gets no queue."""
        return self.state == "open" and len(self._open_frames) < MOST_OPEN

    def send(self, frame: Frame, now_ms: float) -> None:
        if not self.free or frame.seq <= self._last:
            raise ProtocolError(f"frame {frame.seq} while the connection is {self.state}, after frame {self._last}")
        self._last = frame.seq
        self._open_frames[frame.seq] = frame.wanted
        self._say(frame, now_ms)

    def _take(self, message: Message, now_ms: float) -> bool:
        match message, self.state:
            case Challenge(version, nonce), "greeting":
                if version != VERSION:
                    self.state = "closed"
                    raise ProtocolError(f"the server speaks version {version}, this side {VERSION}; upgrade the older")
                known = proof(self._token, nonce, self._hello.program, self._hello.session)
                self._say(msgspec.structs.replace(self._hello, proof=known), now_ms)
                self.state = "proving"
            case Welcome(_, _, heartbeat_ms), "proving":
                self.heartbeat_ms = min(self.heartbeat_ms, max(heartbeat_ms, 1))
                self._open()
            case Refusal(), "greeting" | "proving":
                self.state = "closed"
            case Received(seq), "open":
                if self._open_frames.get(seq) is False:
                    del self._open_frames[seq]
            case ((Result(seq) | Skipped(seq)), "open"):
                self._open_frames.pop(seq, None)
            case _:
                return False
        return True


class CloudEnd(_End):
    """The server's end. `admit` decides on a Hello whose proof is right: a Welcome, or a Refusal."""

    def __init__(
        self,
        now_ms: float,
        *,
        token: str,
        admit: Callable[[Hello], Welcome | Refusal],
        heartbeat_ms: float = HEARTBEAT_MS,
        nonce: bytes | None = None,
    ) -> None:
        super().__init__(now_ms, heartbeat_ms)
        self._parser = Parser(MAGIC)
        self._token, self._admit = token, admit
        self._nonce = nonce or secrets.token_bytes(16)
        self._last = -1
        self._say(Challenge(VERSION, self._nonce), now_ms)

    def answer(self, message: Received | Result | Skipped, now_ms: float) -> None:
        if self.state == "open":
            self._say(message, now_ms)

    def refuse(self, code: str, reason: str, now_ms: float, retry_ms: int = 0) -> None:
        self._say(Refusal(code, reason, retry_ms), now_ms)
        self.state = "closed"

    def _take(self, message: Message, now_ms: float) -> bool:
        match message, self.state:
            case Hello(), "greeting":
                self._greet(message, now_ms)
            case Frame(seq), "open":
                if seq <= self._last:
                    return True  # said before: the session knows that it has it
                self._last = seq
            case _:
                return False
        return True

    def _greet(self, hello: Hello, now_ms: float) -> None:
        if hello.version != VERSION:
            self.refuse("version", f"this server speaks version {VERSION}, not {hello.version}", now_ms)
            return
        known = proof(self._token, self._nonce, hello.program, hello.session)
        if not hmac.compare_digest(known, hello.proof):
            self.refuse("token", "the token is not this server's", now_ms)
            return
        answer = self._admit(hello)
        self._say(answer, now_ms)
        if isinstance(answer, Welcome):
            self._open()
        else:
            self.state = "closed"
