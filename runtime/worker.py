"""The cloud's streams: pictures come in, answers go out, fairly. No I/O, and the clock is an argument.

A stream decodes what comes at once, for a packet out of turn would be lost; it computes only its newest picture. Wanted
frames go before those that merely freshen caches, the streams take turns, and what is too late is told so.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import FluxError, TransportError
from fluxcompile.runtime.camera import Eye
from fluxcompile.runtime.messages import Frame, Received, Result, Skipped
from fluxcompile.runtime.salience import Salience
from fluxcompile.runtime.values import pack, unpack

log = logging.getLogger("fluxcompile")
Answer = Received | Result | Skipped


@dataclass(frozen=True)
class _Job:
    frame: Frame
    came_ms: float

    def late(self, now_ms: float) -> bool:
        return self.frame.deadline_ms > 0 and now_ms - self.came_ms > self.frame.deadline_ms


@dataclass(frozen=True)
class Step:
    """One picture's turn: of which stream, the answer if one is wanted, what was computed (None: it was too late)."""

    session: str
    answer: Result | Skipped | None
    blocks: float | None = None
    dense: bool = False


class _Session:
    """One stream: what the camera's view is, and what of it is still to be computed."""

    def __init__(self, camera: Eye) -> None:
        self.camera = camera
        self.receiver = camera.receiver()
        self.seq = -1
        self.wanted: _Job | None = None
        self.extra: _Job | None = None


class Worker:
    """Streams that share a processor. open_camera: makes the camera of a policy and a task, by their words."""

    def __init__(self, open_camera: Callable[[str, str], Eye]) -> None:
        self._open_camera = open_camera
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def __contains__(self, session: str) -> bool:
        return session in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session: str, policy: str, task: str) -> None:
        """A new stream; its first packet must be a key. OptionError for a policy or a task that means nothing."""
        self._sessions[session] = _Session(self._open_camera(policy, task))

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)

    def digest(self, session: str) -> bytes:
        """Of the stream's view; empty where there is none."""
        return bytes(self._sessions[session].receiver.digest) if session in self._sessions else b""

    def take(self, session: str, frame: Frame, now_ms: float) -> list[Answer]:
        """A frame has come: what to say at once."""
        found = self._sessions.get(session)
        if found is None:
            return [Skipped(frame.seq, "key")]
        if frame.seq <= found.seq:  # it came before; then it was answered, or will be
            return []
        found.seq = frame.seq
        try:
            found.receiver.receive(frame.packet)
        except TransportError as error:
            log.info("session %s: frame %d: %s", session[:8], frame.seq, error)
            return [Skipped(frame.seq, "key")]
        told: list[Answer] = [Received(frame.seq, found.receiver.digest)]
        if frame.wanted and found.wanted is not None:
            told.append(Skipped(found.wanted.frame.seq, "late"))  # its picture is seen no more
        if frame.wanted:
            found.wanted = _Job(frame, now_ms)
        else:
            found.extra = _Job(frame, now_ms)
        return told

    @property
    def waiting(self) -> bool:
        """Whether anything is to be computed."""
        return any(s.wanted or s.extra for s in self._sessions.values())

    def step(self, now_ms: float) -> Step | None:
        """Compute one picture; None where nothing waits."""
        name = next((n for n, s in self._sessions.items() if s.wanted), None)
        name = name or next((n for n, s in self._sessions.items() if s.extra), None)
        if name is None:
            return None
        self._sessions.move_to_end(name)
        found = self._sessions[name]
        job, found.wanted, found.extra = found.wanted or found.extra, None, None  # a wanted one is at least as new
        assert job is not None
        frame = job.frame
        if job.late(now_ms):
            return Step(name, Skipped(frame.seq, "late") if frame.wanted else None)
        picture = found.receiver.view
        assert picture is not None
        try:
            found.camera.look(picture)
            done = found.camera.compute()
        except FluxError as error:
            log.warning("session %s: frame %d: %s", name[:8], frame.seq, error)
            found.camera.reset()
            return Step(name, Skipped(frame.seq, "failed") if frame.wanted else None)
        answer = Result(
            seq=frame.seq,
            values=pack(done.result),
            salience=b"" if done.salience is None else pack(_coded(done.salience)),
            blocks=done.blocks,
            work_share=done.work_share,
            dense=done.dense,
            compute_ms=0.0,  # for who measures it to fill in
            queue_ms=now_ms - job.came_ms,
        )
        return Step(name, answer if frame.wanted else None, done.blocks, done.dense)


def _coded(salience: Salience) -> npt.NDArray[np.uint8]:
    """In bytes; what matters at all stays above 0."""
    return np.ceil(255 * salience).astype(np.uint8)


def salience_of(data: bytes) -> Salience | None:
    """The salience in a Result."""
    if not data:
        return None
    levels: npt.NDArray[Any] = unpack(data, np.ndarray)
    return levels.astype(np.float32) / np.float32(255)
