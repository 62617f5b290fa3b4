"""How long bytes will take to be there, told by how long those before them took. No clock: times are arguments."""

import math
from collections import deque
from dataclasses import dataclass

from fluxcompile.runtime.moving_average import moving_average

RECENT = 5
"""Deliveries that the rate is the median of, by bytes: small ones say little, and one slow one changes nothing."""
KNOWN_TO = 4
"""Times the largest recent delivery up to which its rate is believed; what goes beyond is charged PRUDENT_MBPS."""
PRUDENT_MBPS = 5.0
SHORTEST_OVER = 50
"""Deliveries of which the quickest is taken for the round trip of an empty link."""
UNKNOWN_MS = 50.0
"""A round trip before any was seen."""


@dataclass(frozen=True)
class LinkView:
    """What is known of an uplink at one time."""

    mbps: float
    rtt_ms: float = 0.0

    def delivery_ms(self, num_bytes: float) -> float:
        return self.rtt_ms + 0.008 * num_bytes / self.mbps


class LinkEstimate:
    """Delivery times of one uplink: round trip + bytes / rate, and how far deliveries stray from that.

    A link of a moving camera stalls for seconds and then is as quick as before. So what is under way counts too: bytes
    that should have arrived and did not bound the rate from above, before anything is delivered late.
    """

    def __init__(self) -> None:
        self._took: deque[tuple[int, float]] = deque(maxlen=SHORTEST_OVER)
        self._under_way: dict[int, tuple[int, float]] = {}
        self.spread_ms = UNKNOWN_MS / 4

    @property
    def rtt_ms(self) -> float:
        """Of an empty link: the quickest of the last deliveries."""
        return min((ms for _, ms in self._took), default=UNKNOWN_MS)

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def sent(self, seq: int, num_bytes: int, now_ms: float) -> None:
        self._under_way[seq] = (num_bytes, now_ms)

    def arrived(self, seq: int, now_ms: float) -> None:
        """The other side said so; what it never had is ignored."""
        found = self._under_way.pop(seq, None)
        if found is None:
            return
        num_bytes, began_ms = found
        took_ms = now_ms - began_ms
        off_ms = abs(took_ms - self._undisturbed_ms(num_bytes)) if self._took else took_ms / 4
        self._took.append((num_bytes, took_ms))
        self.spread_ms = moving_average(self.spread_ms, off_ms)

    def reset(self) -> None:
        """A new connection: nothing is under way, and the next deliveries say how it is."""
        self._under_way.clear()
        self._took.clear()
        self.spread_ms = UNKNOWN_MS / 4

    def seen(self, now_ms: float) -> LinkView:
        """The rate as far as it can be told; infinite where bytes took no time that could be measured."""
        per_byte_ms = max(self._per_byte_ms(), self._stalled_per_byte_ms(now_ms))
        return LinkView(0.008 / per_byte_ms if per_byte_ms > 0 else math.inf, self.rtt_ms)

    def delivery_ms(self, num_bytes: int, now_ms: float) -> float:
        """From sending so many bytes now to hearing that they are there, what is under way before them."""
        waiting = sum(n for n, _ in self._under_way.values())
        known = KNOWN_TO * max((n for n, _ in list(self._took)[-RECENT:]), default=0)
        beyond_ms = 0.008 / PRUDENT_MBPS * max(0, num_bytes - known)
        return self.seen(now_ms).delivery_ms(waiting + num_bytes) + beyond_ms

    def _undisturbed_ms(self, num_bytes: int) -> float:
        return self.rtt_ms + num_bytes * self._per_byte_ms()

    def _per_byte_ms(self) -> float:
        rtt_ms, last = self.rtt_ms, list(self._took)[-RECENT:]
        rates = sorted(((ms - rtt_ms) / max(n, 1), n) for n, ms in last)
        half = sum(n for _, n in rates) / 2
        for per_byte_ms, n in rates:
            half -= n
            if half <= 0:
                return per_byte_ms
        return 0.0

    def _stalled_per_byte_ms(self, now_ms: float) -> float:
        """What the oldest bytes under way say, once they are later than their spread allows."""
        if not self._under_way:
            return 0.0
        num_bytes, began_ms = min(self._under_way.values(), key=lambda found: found[1])
        late_ms = now_ms - began_ms - self._undisturbed_ms(num_bytes) - 2 * self.spread_ms
        return late_ms / max(num_bytes, 1) if late_ms > 0 else 0.0
