"""Time runs side by side, so that whatever else the machine does falls on all of them alike.

In each round every run takes its turn, in an order that is shuffled anew; warm-up rounds come first. A turn is two
calls of which the second counts: the frames of a camera follow each other. The garbage collector works between rounds,
never within one.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


def best_s(call: Callable[[], object], seconds: float = 0.02, most: int = 20) -> float:
    """Seconds for one call: as many in a row as fill `seconds`, at most `most`, and the best of them."""
    best, spent, calls = float("inf"), 0.0, 0
    while spent < seconds and calls < most:
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best


def second_ms(call: Callable[[], object]) -> float:
    """Milliseconds of the second of two calls: the first brings its weights and maps back into the caches."""
    call()
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which has just been."""
    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@dataclass
class Run:
    """One thing that is timed: `call(prepare(round))`, of which only the call counts; then `after` notes what it did.

    `round` counts from 0; warm-ups are -1, -2, ...
    """

    call: Callable[[Any], object]
    prepare: Callable[[int], Any] = lambda index: None
    after: Callable[[], None] = lambda: None
    ms: list[float] = field(default_factory=list)

    @property
    def best_ms(self) -> float | None:
        return min(self.ms, default=None)

    @property
    def median_ms(self) -> float | None:
        return statistics.median(self.ms) if self.ms else None


def take_turns(
    runs: Mapping[str, Run],
    rounds: int,
    *,
    warmups: int = 2,
    seed: int = 0,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], None] = lambda index: None,
) -> bool:
    """Time every run in every round; Ctrl-C ends it early, keeps what was timed, and False is returned.

    pause_s: how long to wait before each, for the threads of the one before to stop spinning.
    """
    try:
        for index in (*range(-warmups, 0), *range(rounds)):
            order = list(runs)
            random.Random(f"{seed} {index}").shuffle(order)
            with uncollected():
                for name in order:
                    run = runs[name]
                    run.call(run.prepare(index))  # its weights and maps come back into the caches, as between frames
                    given = run.prepare(index)
                    if pause_s:
                        time.sleep(pause_s)
                    began = clock()
                    run.call(given)
                    took = clock() - began
                    if index >= 0:
                        run.ms.append(1000 * took)
                        run.after()
            on_round(index)
    except KeyboardInterrupt:
        return False
    return True
