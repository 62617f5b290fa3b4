"""The path scheduler: of all placements of a frame, the one whose answer should be here first.

After Algorithm 1 of FluxShard (see PAPER's T_e and T_c), for any number of placements. No clock: times are arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

KEEP = 0.1
"""The last placement is kept unless another is quicker by this share of it: a switch leaves its caches to grow old."""
LATE = 4.0
"""Spreads of delivery after which an answer is late, as a sender's timeout counts."""
PART = 0.25
"""Share of what edge itself would take that an answer may be late in any case: to begin there costs that again."""


@dataclass(frozen=True)
class Estimate:
    """What a placement should take: until its answer is here, and by how much that strays."""

    place: str
    ms: float
    spread_ms: float = 0.0


class Scheduler:
    """Chooses for one camera, frame by frame."""

    def __init__(self) -> None:
        self._last = ""

    def choose(self, estimates: Sequence[Estimate], home_ms: float = 0.0) -> Estimate:
        """The quickest, or the one of the last frame where that is about as quick; edge where it takes `home_ms`."""
        best = min(estimates, key=lambda estimate: estimate.ms)
        kept = next((estimate for estimate in estimates if estimate.place == self._last), best)
        home = next((estimate for estimate in estimates if estimate.place == "edge" and estimate.ms <= home_ms), None)
        chosen = home or (kept if kept.ms * (1 - KEEP) <= best.ms else best)
        self._last = chosen.place
        return chosen

    @staticmethod
    def patience_ms(chosen: Estimate, edge_ms: float, deadline_ms: float | None) -> float:
        """How long to wait for an answer before edge computes the frame itself.

        Until it is late beyond its spread, and by a part of what edge would take; with a deadline, no longer than
        leaves edge the time to keep it, unless edge would have to begin before the answer is expected.
        """
        late_ms = chosen.ms + max(LATE * chosen.spread_ms, PART * edge_ms)
        if deadline_ms is None or deadline_ms - edge_ms < chosen.ms:
            return late_ms
        return min(late_ms, deadline_ms - edge_ms)
