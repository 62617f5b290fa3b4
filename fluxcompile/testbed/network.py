"""Links whose rate follows a trace: the time at which bytes arrive, for the simulator and for the real shaper alike."""

import asyncio
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from fluxcompile.errors import OptionError

TRICKLE_MBPS = 1e-3
"""A trace's 0 stands for this: a radio that is as good as dead."""


@dataclass(frozen=True)
class Trace:
    """Megabits a second, from each time on, then again. `times_s` begin at 0, and end with the trace's length."""

    times_s: tuple[float, ...]
    mbps: tuple[float, ...]
    name: str = ""

    def __post_init__(self) -> None:
        steps = len(self.times_s) - 1
        if steps < 1 or len(self.mbps) != steps or self.times_s[0] != 0:
            raise OptionError(
                f"trace {self.name}: {steps} steps and {len(self.mbps)} rates; there must be one for each"
            )
        if any(b <= a for a, b in pairwise(self.times_s)) or not all(math.isfinite(r) and r >= 0 for r in self.mbps):
            raise OptionError(f"trace {self.name}: times must rise, and rates be 0 or more")

    @classmethod
    def constant(cls, mbps: float, name: str = "") -> "Trace":
        return cls((0.0, 1.0), (mbps,), name or f"{mbps:g} Mbit/s")

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """A CSV file with the columns time_s and mbps, a row for each second."""
        try:
            with path.open(newline="") as file:
                rows = [(float(row["time_s"]), float(row["mbps"])) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise OptionError(f"{path}: no trace with columns time_s and mbps ({error})") from error
        if len(rows) < 2:
            raise OptionError(f"{path}: a trace of {len(rows)} rows; it needs two or more")
        start = rows[0][0]
        times = [time - start for time, _ in rows]
        return cls((*times, 2 * times[-1] - times[-2]), tuple(rate for _, rate in rows), path.stem)

    @property
    def mean_mbps(self) -> float:
        return float(np.average(self.mbps, weights=np.diff(self.times_s)))

    def scaled(self, mean_mbps: float) -> "Trace":
        """The same ups and downs around another mean."""
        by = mean_mbps / self.mean_mbps
        return Trace(self.times_s, tuple(rate * by for rate in self.mbps), self.name)

    def done_s(self, start_s: float, num_bytes: float) -> float:
        """When so many bytes are through that began at `start_s`."""
        bits, length = 8e-6 * num_bytes, self.times_s[-1]
        rounds, at = divmod(start_s, length)
        index = int(np.searchsorted(self.times_s, at, "right")) - 1
        while True:
            rate = max(self.mbps[index], TRICKLE_MBPS)
            end = self.times_s[index + 1]
            if bits <= rate * (end - at):
                return rounds * length + at + bits / rate
            bits -= rate * (end - at)
            at, index = end, index + 1
            if index == len(self.mbps):
                rounds, at, index = rounds + 1, 0.0, 0


@dataclass
class Shape:
    """One direction of a link: a trace's rate, first in first out, then half a round trip."""

    trace: Trace
    rtt_ms: float = 0.0
    offset_s: float = 0.0
    down: Sequence[tuple[float, float]] = ()
    """Spans of time (from, to), in seconds, in which nothing goes through."""
    _free_s: float = field(default=0.0, repr=False)

    def arrival_s(self, now_s: float, num_bytes: int) -> float:
        """When bytes that are sent now are there; they then are in the queue."""
        start = self._up_s(max(now_s, self._free_s))
        self._free_s = self.trace.done_s(start + self.offset_s, num_bytes) - self.offset_s
        return self._up_s(self._free_s) + self.rtt_ms / 2000

    def _up_s(self, now_s: float) -> float:
        """The first time from now on at which the link is up."""
        for begin, end in self.down:
            if begin <= now_s < end:
                now_s = end
        return now_s


class Pipe:
    """One end of a simulated connection."""

    def __init__(self, shape: Shape, peer: str) -> None:
        self.peer, self.backlog = peer, 0
        self._shape = shape
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._other: Pipe | None = None
        self._closed, self._last_s = False, 0.0

    async def read(self) -> bytes:
        return b"" if self._closed and self._inbox.empty() else await self._inbox.get()

    def write(self, data: bytes) -> None:
        if not data or self._closed or self._other is None:
            return
        loop = asyncio.get_running_loop()
        self.backlog += len(data)
        self._last_s = self._shape.arrival_s(loop.time(), len(data))
        loop.call_at(self._last_s, self._arrived, data)

    async def close(self) -> None:
        """The other end sees it behind everything that is on its way, as with TCP."""
        self._hang_up()
        if self._other is not None:
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._last_s, loop.time()), self._other._hang_up)

    def cut(self) -> None:
        """Both ends see it at once, and what is on its way is lost."""
        self._hang_up()
        if self._other is not None:
            self._other._hang_up()

    def _hang_up(self) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.put_nowait(b"")

    def _arrived(self, data: bytes) -> None:
        self.backlog -= len(data)
        if self._other is not None and not self._other._closed:
            self._other._inbox.put_nowait(data)


def joined(up: Shape, down: Shape) -> tuple[Pipe, Pipe]:
    """Both ends of a connection: what the first writes goes up, what the second writes comes down."""
    first, second = Pipe(up, "cloud"), Pipe(down, "edge")
    first._other, second._other = second, first
    return first, second
