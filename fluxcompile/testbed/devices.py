"""Devices that do their work at once and then take, on the virtual clock, as long as another machine would."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fluxcompile.runtime.device import Work

T = TypeVar("T")


class Modelled:
    """One thing at a time. cost_ms: of a piece of work. `busy_ms` adds up, and `computed_ms` what of it were nets."""

    def __init__(self, cost_ms: Callable[[Work], float]) -> None:
        self._cost_ms = cost_ms
        self._turn = asyncio.Lock()
        self.busy_ms = self.computed_ms = 0.0

    def now_ms(self) -> float:
        return 1000 * asyncio.get_running_loop().time()

    async def run(self, work: Callable[[], T], told: Callable[[T], Work] | Work) -> tuple[T, float]:
        async with self._turn:
            done = work()
            what = told if isinstance(told, Work) else told(done)
            took_ms = self._cost_ms(what)
            self.busy_ms += took_ms
            if what.kind in ("compute", "refresh"):
                self.computed_ms += took_ms
            await asyncio.sleep(took_ms / 1000)
            return done, took_ms
