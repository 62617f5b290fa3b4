"""An event loop on a virtual clock, where time moves on to what comes next; pictures at a steady rate, on any clock.

asyncio's own loop with a selector that never waits, so that code written for a real clock runs in it as it is, at once
and the same every time. Nothing in it may wait for the outside world.
"""

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Instead of waiting, moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing in this simulation will ever happen again, and something waits for it")
        self.now_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual, from 0 on."""

    def __init__(self) -> None:
        self._selector_of_time = _Selector()
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        return self._selector_of_time.now_s


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, on a clock of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def paced(pictures: Iterable[T], every_s: float) -> AsyncIterator[T]:
    """Pictures at a steady rate from now on; one that comes while its taker is busy waits, and none is left out."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for index, picture in enumerate(pictures):
        await asyncio.sleep(max(0.0, began + index * every_s - loop.time()))
        yield picture
