"""What edge and cloud say to each other, and the frames of bytes that carry it: a length, then msgpack.

Every message is one of a closed set; unknown kinds, unknown fields, wrong types and lengths beyond the limit are
refused before anything of them is used.
"""

import struct

import msgspec

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.transport import Packet

VERSION = 1
MAGIC = b"FLUX"
"""Opens every connection, so that a stranger is told at its first bytes."""
MAX_BYTES = 16 << 20
"""The longest message once both sides know each other."""
GREETING_BYTES = 4096
"""The longest before that."""
_LENGTH = struct.Struct(">I")


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Fields in order, the kind first."""


class Challenge(_Message, frozen=True):
    """Cloud, first: prove that you know the token."""

    version: int
    nonce: bytes


class Hello(_Message, frozen=True):
    """Edge: who it is and what it wants run. `proof` is of the nonce; `session` and `digest` resume an old stream."""

    version: int
    proof: bytes
    program: str
    policy: str
    task: str
    camera: str
    session: str = ""
    digest: bytes = b""


class Welcome(_Message, frozen=True):
    """Cloud: the stream is open. `resumed`: its view is the one that `digest` told, go on; else begin with a key."""

    session: str
    resumed: bool
    heartbeat_ms: int


class Refusal(_Message, frozen=True):
    """Cloud: no. `code` is version, token, program, full, draining or protocol; `retry_ms` 0 means do not."""

    code: str
    reason: str
    retry_ms: int = 0


class Frame(_Message, frozen=True):
    """Edge: a picture. Exactly one `Result` or `Skipped` answers it where it is `wanted`; else it freshens caches."""

    seq: int
    wanted: bool
    deadline_ms: float
    packet: Packet


class Received(_Message, frozen=True):
    """Cloud: the picture is here; `digest` is of the view with it."""

    seq: int
    digest: bytes


class Result(_Message, frozen=True):
    """Cloud: the answer to a frame. `blocks` of 16 x 16 pixels were computed, in `compute_ms` after `queue_ms`."""

    seq: int
    values: bytes
    salience: bytes
    blocks: float
    work_share: float
    dense: bool
    compute_ms: float
    queue_ms: float


class Skipped(_Message, frozen=True):
    """Cloud: no answer to this frame. `reason` is late, key (send one) or failed."""

    seq: int
    reason: str


class Ping(_Message, frozen=True):
    """Either: are you there? Times are the sender's own and mean nothing to the other."""

    at_ms: float


class Pong(_Message, frozen=True):
    """Either: the answer, with the time that the ping came with."""

    at_ms: float


class Bye(_Message, frozen=True):
    """Either: the connection ends on purpose; `retry_ms` says when to come again, 0 never."""

    reason: str
    retry_ms: int = 0


Message = (
    Challenge | Hello | Welcome | Refusal | Frame | Received | Result | Skipped | Ping | Pong | Bye
)  # what `decode` gives
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The message as it goes over the wire."""
    body = _encoder.encode(message)
    if len(body) > MAX_BYTES:
        raise ProtocolError(f"a {type(message).__name__} of {len(body)} bytes; the most is {MAX_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Parser:
    """Bytes in, messages out. After a ProtocolError it takes nothing more.

    opening: bytes that must come before the first message.
    """

    def __init__(self, opening: bytes = b"") -> None:
        self.most = GREETING_BYTES
        self._opening = opening
        self._buffer = bytearray()
        self._broken = False

    @property
    def waiting(self) -> bool:
        """Whether part of a message is here, and part of it is not."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Message | None:
        """The next message that is whole; None where more bytes are needed."""
        if self._broken:
            raise ProtocolError("this connection broke the protocol before")
        try:
            return self._next()
        except ProtocolError:
            self._broken = True
            self._buffer.clear()
            raise

    def _next(self) -> Message | None:
        if self._opening:
            if bytes(self._buffer[: len(self._opening)]) != self._opening[: len(self._buffer)]:
                raise ProtocolError("these are not the first bytes of this protocol")
            if len(self._buffer) < len(self._opening):
                return None
            del self._buffer[: len(self._opening)]
            self._opening = b""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self.most:
            raise ProtocolError(f"a message of {length} bytes; the most here is {self.most}")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        try:
            message: Message = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"{length} bytes that are no message: {error}") from error
        return message
