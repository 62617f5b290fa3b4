"""Devices that do their work at once and then take, on the virtual clock, as long as another machine would."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from fluxcompile.runtime.device import LANES, Work
from fluxcompile.runtime.profile import Profile

T = TypeVar("T")


@dataclass(frozen=True)
class Beside:
    """What a device does beside the net, in milliseconds: look at a picture, code it, decode it."""

    look: float = 2.0
    h264: float = 4.0
    jpeg: float = 3.0
    raw: float = 1.0
    compare: float = 1.0
    quantise: float = 1.0
    decode: float = 1.0

    def measured(self, profile: Profile) -> "Beside":
        """With what a profile knows of it."""
        return replace(self, **profile.beside_ms)


class Modelled:
    """One thing at a time in each lane. cost_ms: of a piece of work. `busy_ms` adds up what it did.

    lanes: how many there really are: 1 for a single core.
    """

    def __init__(self, cost_ms: Callable[[Work], float], lanes: int = len(LANES)) -> None:
        self._cost_ms = cost_ms
        turns = [asyncio.Lock() for _ in range(lanes)]
        self._turns = {lane: turns[index % lanes] for index, lane in enumerate(LANES)}
        self.busy_ms = 0.0

    def now_ms(self) -> float:
        return 1000 * asyncio.get_running_loop().time()

    async def run(self, work: Callable[[], T], told: Callable[[T], Work] | Work, lane: str = "net") -> tuple[T, float]:
        async with self._turns[lane]:
            done = work()
            took_ms = self._cost_ms(told if isinstance(told, Work) else told(done))
            self.busy_ms += took_ms
            await asyncio.sleep(took_ms / 1000)
            return done, took_ms


def costs(profile: Profile, beside: Beside) -> Callable[[Work], float]:
    """What each kind of work takes on a device of a profile.

    A part of the net takes its share of what the whole takes; a repair in which nothing was left to do takes nothing.
    """

    def cost_ms(work: Work) -> float:
        match work.kind:
            case "compute":
                net_ms = profile.dense_ms if work.dense else profile.ms(work.blocks)
                return work.share * net_ms + (beside.look if work.looks else 0.0)
            case "refresh":
                return profile.ms(work.blocks) if work.blocks else 0.0
            case "idle":
                return 0.0
        return float(getattr(beside, work.kind))

    return cost_ms
