"""The cloud: connections of many cameras, their streams in pools, each camera admitted or told why not.

The server knows connections and sessions; what is computed, and in what order, is the pools' part. A camera whose
connection broke finds its stream for a while; a slow reader is cut off before its answers pile up; no message of one
session ever reaches another.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.background import end
from fluxcompile.runtime.channel import Channel
from fluxcompile.runtime.messages import Frame, Hello, Message, Received, Refusal, Result, Skipped, Welcome
from fluxcompile.runtime.pool import Pool
from fluxcompile.runtime.protocol import CloudEnd
from fluxcompile.runtime.worker import Answer

log = logging.getLogger("fluxcompile")
TICK_MS = 100.0
LOAD_OVER_MS = 10_000.0
"""The time over which a pool's load is measured."""
NEW_MS = 1000.0
"""Age from which a camera's own load is believed; till then it is taken to be as the others'."""
FULL = 0.9
"""Share of its time that a pool may be busy with the cameras it has, when another comes."""
SLOW_READER_BYTES = 4 << 20
"""Answers that wait to be read, at which a camera is cut off."""
RETRY_MS = 2000


@dataclass(frozen=True)
class Limits:
    """What a server takes on at most. linger_ms: how long a stream outlives its connection."""

    cameras: int = 64
    connections: int = 256
    linger_ms: float = 30_000.0


@dataclass
class Counts:
    """What a server did, for its metrics."""

    frames: int = 0
    results: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    resumed: int = 0
    on_result: Callable[[float, float, float], None] = lambda queue_ms, compute_ms, work_share: None


@dataclass(eq=False)
class _Session:
    """A camera's stream. `digest` is of its view, as far as the pool has told."""

    name: str
    key: tuple[str, str, str]
    pool: Pool
    digest: bytes = b""
    connection: "_Connection | None" = None
    opened_ms: float = 0.0
    left_ms: float = 0.0
    computed: deque[tuple[float, float]] = field(default_factory=deque)

    def load(self, now_ms: float) -> float | None:
        """The share of its pool's time that it took lately; None while it is new."""
        while self.computed and self.computed[0][0] < now_ms - LOAD_OVER_MS:
            self.computed.popleft()
        age_ms = now_ms - self.opened_ms
        return None if age_ms < NEW_MS else sum(ms for _, ms in self.computed) / min(age_ms, LOAD_OVER_MS)


@dataclass(eq=False)
class _Connection:
    channel: Channel
    end: CloudEnd
    session: _Session | None = None
    wanted: set[int] = field(default_factory=set)
    """Frames that are not answered yet."""


class Server:
    """Serves one program. check: tells why a policy and a task, in words, cannot be served; None where they can.

    token: what cameras must know. Must be made where the event loop runs.
    """

    def __init__(
        self,
        program: str,
        pools: Sequence[Pool],
        *,
        token: str,
        check: Callable[[str, str], str | None],
        limits: Limits | None = None,
        heartbeat_ms: float = 1000.0,
    ) -> None:
        self.counts = Counts()
        self._program, self._pools, self._token, self._check = program, pools, token, check
        self._limits, self._heartbeat_ms = limits or Limits(), heartbeat_ms
        self._sessions: dict[str, _Session] = {}
        self._connections: set[_Connection] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._draining = False
        for pool in pools:
            pool.on_answer, pool.on_computed = self._answer, self._computed
        self._ticking = asyncio.ensure_future(self._tick())

    # --- connections ---

    async def talk(self, channel: Channel) -> None:
        """One connection, to its end."""
        if len(self._connections) >= self._limits.connections:
            await channel.close()  # before anything is kept of it
            return
        end = CloudEnd(self._now_ms(), token=self._token, admit=lambda hello: self._admit(connection, hello),
                       heartbeat_ms=self._heartbeat_ms)  # fmt: skip
        connection = _Connection(channel, end)
        self._connections.add(connection)
        try:
            self._flush(connection)
            while data := await channel.read():
                self.counts.received_bytes += len(data)
                for event in end.receive(data, self._now_ms()):
                    self._on(connection, event)
                self._flush(connection)
                if end.state == "closed":
                    break
        except ProtocolError as error:
            self.counts.broken += 1
            log.warning("%s: %s", channel.peer, error)
            if end.state == "greeting":
                end.refuse("protocol", str(error), self._now_ms())
                self._flush(connection)
        finally:
            self._connections.discard(connection)
            session = connection.session
            if session is not None and session.connection is connection:
                session.connection, session.left_ms = None, self._now_ms()
            await channel.close()

    def _admit(self, connection: _Connection, hello: Hello) -> Welcome | Refusal:
        refusal = self._refusal(hello)
        if refusal is not None:
            self.counts.refused[refusal.code] = self.counts.refused.get(refusal.code, 0) + 1
            log.info("%s: camera %s refused: %s", connection.channel.peer, hello.camera, refusal.reason)
            return refusal
        key = (hello.policy, hello.task, hello.camera)
        found = self._sessions.get(hello.session)
        resumed = found is not None and found.key == key and found.digest != b"" and found.digest == hello.digest
        if found is None or found.key != key:
            found = self._opened(hello, key)
        elif found.connection is not None:  # the camera is back before its old connection was missed
            found.connection.end.bye("the camera connected anew", self._now_ms())
            self._cut_off(found.connection)
        found.connection, connection.session = connection, found
        self.counts.resumed += resumed
        return Welcome(found.name, resumed, round(self._heartbeat_ms))

    def _refusal(self, hello: Hello) -> Refusal | None:
        if self._draining:
            return Refusal("draining", "this server is about to stop", RETRY_MS)
        if hello.program != self._program:
            return Refusal("program", f"this server runs program {self._program[:12]}, not {hello.program[:12]}")
        wrong = self._check(hello.policy, hello.task)
        if wrong is not None:
            return Refusal("program", wrong)
        if hello.session in self._sessions:
            return None
        if len(self._sessions) >= self._limits.cameras:
            return Refusal("full", f"{len(self._sessions)} cameras are served, the most there may be", RETRY_MS)
        pool, load = self._roomiest()
        if load > FULL and any(session.pool is pool for session in self._sessions.values()):
            return Refusal("full", f"with another camera it would be busy {load:.0%} of its time", RETRY_MS)
        return None

    def _roomiest(self) -> tuple[Pool, float]:
        """The pool with most room for another camera, and the share of its time that it should be busy with it."""
        now_ms = self._now_ms()
        loads = [(session.pool, session.load(now_ms)) for session in self._sessions.values()]
        known = [load for _, load in loads if load is not None]
        usual = sum(known) / len(known) if known else 0.0

        def expected(pool: Pool) -> tuple[float, int]:
            mine = [usual if load is None else load for home, load in loads if home is pool]
            return sum(mine) + usual, len(mine)

        pool = min(self._pools, key=expected)
        return pool, expected(pool)[0]

    def _opened(self, hello: Hello, key: tuple[str, str, str]) -> _Session:
        pool, _ = self._roomiest()
        session = _Session(secrets.token_hex(16), key, pool, opened_ms=self._now_ms())
        self._sessions[session.name] = session
        pool.open(session.name, hello.policy, hello.task)
        return session

    def _on(self, connection: _Connection, event: Message) -> None:
        session = connection.session
        if isinstance(event, Frame) and session is not None:
            self.counts.frames += 1
            if event.wanted:
                connection.wanted.add(event.seq)
            if self._draining:
                self._answer(session.name, Skipped(event.seq, "late"))
            else:
                session.pool.frame(session.name, event)

    # --- answers ---

    def _answer(self, name: str, answer: Answer) -> None:
        session = self._sessions.get(name)
        if session is None:
            return
        match answer:
            case Received():
                session.digest = answer.digest
            case Result():
                self.counts.results += 1
                self.counts.on_result(answer.queue_ms, answer.compute_ms, answer.work_share)
            case Skipped():
                self.counts.skipped[answer.reason] = self.counts.skipped.get(answer.reason, 0) + 1
                if answer.reason == "key":
                    session.digest = b""
        connection = session.connection
        if connection is not None:
            if not isinstance(answer, Received):
                connection.wanted.discard(answer.seq)
            connection.end.answer(answer, self._now_ms())
            self._flush(connection)

    def _computed(self, name: str, took_ms: float) -> None:
        session = self._sessions.get(name)
        if session is not None:
            session.computed.append((self._now_ms(), took_ms))

    def _flush(self, connection: _Connection) -> None:
        data = connection.end.take_out()
        self.counts.sent_bytes += len(data)
        connection.channel.write(data)
        if connection.channel.backlog > SLOW_READER_BYTES:
            log.warning("%s: does not read its answers; cut off", connection.channel.peer)
            connection.end.state = "closed"
            self._cut_off(connection)

    def _cut_off(self, connection: _Connection) -> None:
        closing = asyncio.ensure_future(connection.channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # --- the whole ---

    @property
    def cameras(self) -> int:
        """Streams that are kept."""
        return len(self._sessions)

    def loads(self) -> list[float]:
        """Of each pool, the share of the last seconds that it was busy."""
        now_ms = self._now_ms()
        return [
            sum(session.load(now_ms) or 0.0 for session in self._sessions.values() if session.pool is pool)
            for pool in self._pools
        ]

    async def drain(self, patience_ms: float = 2000.0) -> None:
        """Take no more cameras, let what is under way be answered, say goodbye to each, stop."""
        self._draining = True
        until_ms = self._now_ms() + patience_ms
        while any(connection.wanted for connection in self._connections) and self._now_ms() < until_ms:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.end.bye("this server is about to stop", self._now_ms(), RETRY_MS)
            self._flush(connection)
        while self._connections and self._now_ms() < until_ms:
            for connection in list(self._connections):
                await connection.channel.close()
            await asyncio.sleep(0.01)
        await end(self._ticking)
        for pool in self._pools:
            await pool.stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_MS / 1000)
            now_ms = self._now_ms()
            for connection in list(self._connections):
                lost = connection.end.on_time(now_ms)
                self._flush(connection)
                if lost is not None:
                    log.warning("%s: %s", connection.channel.peer, lost.reason)
                    await connection.channel.close()
            for session in list(self._sessions.values()):
                if session.connection is None and now_ms - session.left_ms > self._limits.linger_ms:
                    del self._sessions[session.name]
                    session.pool.close(session.name)

    @staticmethod
    def _now_ms() -> float:
        return 1000 * asyncio.get_running_loop().time()
