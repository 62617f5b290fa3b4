"""Where work is done and how long it takes: a thread of this machine, or a model of another one on a virtual clock.

Edge and cloud only ever say what is to be done and what it is (`Work`); so the same code runs for real and in the
simulator. A device has lanes, one for the net and one for codecs, as a GPU and a processor, or two cores. In each, one
thing at a time, in order.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
LANES = ("net", "codec")


@dataclass(frozen=True)
class Work:
    """What kind of work it is, by which a model tells its cost: look, compute, refresh, or the name of a codec.

    blocks: 16 x 16 pixels each that are computed; dense: all of them, in the dense way; share: of the net's MACs, where
    only a part of it runs; looks: the picture is looked at in the same go.
    """

    kind: str
    blocks: float = 0.0
    dense: bool = False
    share: float = 1.0
    looks: bool = False


class Device(Protocol):
    """`run` does the work and returns what it gave, and the milliseconds it took."""

    def now_ms(self) -> float: ...

    async def run(
        self, work: Callable[[], T], told: Callable[[T], Work] | Work, lane: str = "net"
    ) -> tuple[T, float]: ...


class ThisMachine:
    """A thread for each lane beside the event loop; our kernels leave the interpreter free while they run."""

    def __init__(self) -> None:
        self._threads = {lane: ThreadPoolExecutor(1, lane) for lane in LANES}

    def now_ms(self) -> float:
        return 1000 * asyncio.get_running_loop().time()

    async def run(self, work: Callable[[], T], told: Callable[[T], Work] | Work, lane: str = "net") -> tuple[T, float]:
        loop = asyncio.get_running_loop()

        def timed() -> tuple[T, float]:
            began = loop.time()
            done = work()
            return done, 1000 * (loop.time() - began)

        return await loop.run_in_executor(self._threads[lane], timed)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
