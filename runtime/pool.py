"""Where the cloud's streams live: in this process, or in processes of their own, each with its share of the streams.

A pool answers through `on_answer`. One whose process dies starts it anew: its streams begin again with a key, the
others never notice.
"""

import asyncio
import contextlib
import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO, Protocol

import msgspec

from fluxcompile.errors import FluxError
from fluxcompile.runtime.background import end
from fluxcompile.runtime.device import Device, Work
from fluxcompile.runtime.messages import Frame, Received, Result, Skipped
from fluxcompile.runtime.worker import Answer, Step, Worker

log = logging.getLogger("fluxcompile")
SHORT_LIFE_S, LONGEST_WAIT_S = 5.0, 5.0
"""A process that ends sooner is started anew after a wait, ever longer."""
OnAnswer = Callable[[str, Answer], None]


class Pool(Protocol):
    """Streams by the names of their sessions. `computed` is told the milliseconds that each picture took."""

    on_answer: OnAnswer
    on_computed: Callable[[str, float], None]

    def open(self, session: str, policy: str, task: str) -> None: ...
    def close(self, session: str) -> None: ...
    def frame(self, session: str, frame: Frame) -> None: ...
    async def stop(self) -> None: ...


def timed(step: Step, took_ms: float) -> Result | Skipped | None:
    """The answer of a step, with the time that it took."""
    answer = step.answer
    return msgspec.structs.replace(answer, compute_ms=took_ms) if isinstance(answer, Result) else answer


class LocalPool:
    """A worker in this process, its work done by a device."""

    def __init__(self, worker: Worker, device: Device) -> None:
        self.on_answer: OnAnswer = lambda session, answer: None
        self.on_computed: Callable[[str, float], None] = lambda session, took_ms: None
        self._worker, self._device = worker, device
        self._inbox: deque[tuple[str, Frame, float]] = deque()
        self._awake = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def open(self, session: str, policy: str, task: str) -> None:
        self._worker.open(session, policy, task)

    def close(self, session: str) -> None:
        self._worker.close(session)

    def frame(self, session: str, frame: Frame) -> None:
        self._inbox.append((session, frame, self._device.now_ms()))
        self._awake.set()

    async def stop(self) -> None:
        await end(self._task)

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._inbox or self._worker.waiting:
                while self._inbox:
                    session, frame, came_ms = self._inbox.popleft()
                    taken = partial(self._worker.take, session, frame, came_ms)
                    for told in (await self._device.run(taken, Work("decode")))[0]:
                        self.on_answer(session, told)
                step, took_ms = await self._device.run(lambda: self._worker.step(self._device.now_ms()), _work_of)
                if step is not None:
                    self.on_computed(step.session, took_ms)
                    if (answer := timed(step, took_ms)) is not None:
                        self.on_answer(step.session, answer)


def _work_of(step: Step | None) -> Work:
    if step is None or step.blocks is None:
        return Work("idle")
    return Work("compute", step.blocks, step.dense, looks=True)


# --- a process of its own: commands in by its standard input, answers out by its standard output ---


class _Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str
    policy: str
    task: str


class _Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str


class _Take(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str
    frame: Frame


class _Say(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str
    answer: Received | Result | Skipped


class _Computed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str
    took_ms: float


_Command = _Open | _Close | _Take
_Reply = _Say | _Computed
_commands = msgspec.msgpack.Decoder(_Command)
_replies = msgspec.msgpack.Decoder(_Reply)


def _framed(message: _Command | _Reply) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def serve_pipe(worker: Worker, commands: BinaryIO, replies: BinaryIO) -> None:
    """The life of a pool's process: until the commands end."""
    inbox: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()

    def read() -> None:
        while len(head := commands.read(4)) == 4:
            inbox.put(_commands.decode(commands.read(int.from_bytes(head, "big"))))
        inbox.put(None)

    def say(message: _Reply) -> None:
        replies.write(_framed(message))
        replies.flush()

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            command = inbox.get(block=not worker.waiting)
        except queue.Empty:
            began = time.perf_counter()
            step = worker.step(1000 * began)
            if step is not None:
                took_ms = 1000 * (time.perf_counter() - began)
                say(_Computed(step.session, took_ms))
                if (answer := timed(step, took_ms)) is not None:
                    say(_Say(step.session, answer))
            continue
        match command:
            case None:
                return
            case _Open(session, policy, task):
                try:
                    worker.open(session, policy, task)
                except FluxError as error:  # checked before; it stays without a stream, and its frames are told so
                    log.warning("session %s: %s", session[:8], error)
            case _Close(session):
                worker.close(session)
            case _Take(session, frame):
                for told in worker.take(session, frame, 1000 * time.perf_counter()):
                    say(_Say(session, told))


class ProcessPool:
    """One worker in a process of its own. command: starts the process, which calls `serve_pipe`."""

    def __init__(self, command: Sequence[str]) -> None:
        self.on_answer: OnAnswer = lambda session, answer: None
        self.on_computed: Callable[[str, float], None] = lambda session, took_ms: None
        self.restarts = 0
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._sessions: dict[str, tuple[str, str]] = {}
        self._asked: dict[str, int] = {}
        self._task = asyncio.ensure_future(self._run())

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def open(self, session: str, policy: str, task: str) -> None:
        self._sessions[session] = (policy, task)
        self._tell(_Open(session, policy, task))

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._asked.pop(session, None)
        self._tell(_Close(session))

    def frame(self, session: str, frame: Frame) -> None:
        self._asked[session] = frame.seq
        self._tell(_Take(session, frame))

    async def stop(self) -> None:
        await end(self._task)

    def _tell(self, command: _Command) -> None:
        stdin = None if self._process is None else self._process.stdin
        if stdin is None or stdin.is_closing():
            if isinstance(command, _Take):
                self._lost(command.session)
            return  # the sessions are told to the next process when it starts
        stdin.write(_framed(command))

    def _lost(self, session: str) -> None:
        seq = self._asked.pop(session, None)
        if seq is not None:
            self.on_answer(session, Skipped(seq, "key"))

    async def _run(self) -> None:
        wait_s = 0.0
        while True:
            await asyncio.sleep(wait_s)
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            self._process = process
            assert process.stdin is not None
            assert process.stdout is not None
            for session, (policy, task) in self._sessions.items():
                self._tell(_Open(session, policy, task))
            try:
                await self._listen(process.stdout)
            finally:
                self._process = None
                if process.returncode is None:
                    process.stdin.close()
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                await process.wait()
            self.restarts += 1
            wait_s = min(2 * wait_s + 0.1, LONGEST_WAIT_S) if time.perf_counter() - began < SHORT_LIFE_S else 0.0
            log.warning(
                "a worker's process ended (%s); its %d streams begin anew", process.returncode, len(self._sessions)
            )
            for session in list(self._asked):
                self._lost(session)

    async def _listen(self, replies: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await replies.readexactly(4), "big")
                match _replies.decode(await replies.readexactly(length)):
                    case _Say(session, answer):
                        if not isinstance(answer, Received) and self._asked.get(session) == answer.seq:
                            del self._asked[session]
                        self.on_answer(session, answer)
                    case _Computed(session, took_ms):
                        self.on_computed(session, took_ms)


def python_command(module: str, *arguments: str) -> list[str]:
    """What starts a module of ours in a process of its own."""
    return [sys.executable, "-m", module, *arguments]
