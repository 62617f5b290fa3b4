"""Streams on a Ray cluster: an actor for each stream's state, started anew where one dies; it begins with a key.

Bytes go in and out, as they do with a process of this machine; Ray places the actors. The net travels as the bytes of
its file, once, in Ray's object store.
"""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fluxcompile.runtime.messages import Frame, Message, Received, Result, Skipped
from fluxcompile.runtime.pool import OnAnswer, Pool, timed
from fluxcompile.runtime.worker import Worker

log = logging.getLogger("fluxcompile")
_frames = msgspec.msgpack.Decoder(Frame)
_answers = msgspec.msgpack.Decoder(list[Received | Result | Skipped])
STREAM = "stream"


class StreamActor:
    """One stream, where Ray has put it."""

    def __init__(self, program: bytes, policy: str, task: str, threads: int) -> None:
        from fluxcompile.net import load
        from fluxcompile.remote import worker_of

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.flux"
            path.write_bytes(program)
            net = load(path)
        self._worker: Worker = worker_of(net, threads)
        self._worker.open(STREAM, policy, task)

    def frame(self, data: bytes, waited_ms: float) -> tuple[bytes, float]:
        """What is to be said of a frame, and the milliseconds that it took."""
        began = time.perf_counter()
        answers: list[Message] = list(self._worker.take(STREAM, _frames.decode(data), 1000 * began - waited_ms))
        took_ms = 0.0
        while (step := self._worker.step(1000 * time.perf_counter())) is not None:
            took_ms = 1000 * (time.perf_counter() - began)
            answers += [answer for answer in [timed(step, took_ms)] if answer is not None]
        return msgspec.msgpack.encode(answers), took_ms

    def node(self) -> str:
        """Where it is."""
        import ray

        return str(ray.get_runtime_context().get_node_id())


class RayPool:
    """Streams on a cluster that Ray is connected to. cpus: what Ray sets aside for each stream."""

    def __init__(self, program: bytes, *, threads: int = 1, cpus: float = 0.25) -> None:
        import ray

        self.on_answer: OnAnswer = lambda session, answer: None
        self.on_computed: Callable[[str, float], None] = lambda session, took_ms: None
        self.restarts = 0
        self._threads = threads
        self._program = ray.put(program)
        self._make = ray.remote(num_cpus=cpus, max_restarts=0, scheduling_strategy="SPREAD")(StreamActor)
        self.actors: dict[str, Any] = {}
        self._opened: dict[str, tuple[str, str]] = {}
        self._under_way: set[asyncio.Future[None]] = set()

    def open(self, session: str, policy: str, task: str) -> None:
        self._opened[session] = (policy, task)
        self.actors[session] = self._make.remote(self._program, policy, task, self._threads)

    def close(self, session: str) -> None:
        import ray

        self._opened.pop(session, None)
        actor = self.actors.pop(session, None)
        if actor is not None:
            ray.kill(actor)

    def frame(self, session: str, frame: Frame) -> None:
        actor = self.actors.get(session)
        if actor is None:
            self.on_answer(session, Skipped(frame.seq, "key"))
            return
        asked = asyncio.ensure_future(self._ask(session, actor, frame))
        self._under_way.add(asked)
        asked.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        for asked in list(self._under_way):
            asked.cancel()
        for session in list(self.actors):
            self.close(session)

    async def _ask(self, session: str, actor: Any, frame: Frame) -> None:
        import ray

        try:
            data, took_ms = await actor.frame.remote(msgspec.msgpack.encode(frame), 0.0)
        except ray.exceptions.RayActorError as error:
            if self.actors.get(session) is actor:  # the first of its frames that misses it
                log.warning("session %s: its actor is gone (%s); it begins anew", session[:8], type(error).__name__)
                self.restarts += 1
                self.open(session, *self._opened[session])
            self.on_answer(session, Skipped(frame.seq, "key"))
            return
        except ray.exceptions.RayTaskError as error:
            log.warning("session %s: frame %d: %s", session[:8], frame.seq, str(error).splitlines()[-1])
            self.on_answer(session, Skipped(frame.seq, "failed"))
            return
        if took_ms:
            self.on_computed(session, took_ms)
        for answer in _answers.decode(data):
            self.on_answer(session, answer)


def ray_pools(net: Path, address: str, threads: int = 1) -> list[Pool]:
    """Connect to a cluster ("auto", "local" or an address), and the one pool on it."""
    import ray

    if not ray.is_initialized():
        with contextlib.redirect_stdout(None):
            ray.init(address=None if address == "local" else address, logging_level=logging.WARNING, log_to_driver=True)
    return [RayPool(net.read_bytes(), threads=threads)]
