"""Ours with a net that is cut inside: both sides keep their maps, and tiles of the boundary maps cross that changed.

Driven in stages, as the baselines are (see `baselines`). What of a frame is salient is known when the cloud is done:
the edge's stream is told for the next.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fluxcompile.errors import OptionError
from fluxcompile.runtime.baselines import Outcome, Stage, Steps, copied, dense_work
from fluxcompile.runtime.boundary import MapReceiver, MapSender
from fluxcompile.runtime.camera import PER_BLOCK
from fluxcompile.runtime.canvas import centred
from fluxcompile.runtime.device import Work
from fluxcompile.runtime.plan import Salience
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.split_baselines import Split
from fluxcompile.runtime.transport import Image


class CutCamera:
    """One camera. split: a net cut inside, its streams by policies that reuse; frames keep their place.

    salience: of the net's outputs, as a task gives it; without it everything matters. precision: of boundary maps.
    """

    def __init__(self, split: Split, *, salience: Salience | None = None, precision: str = "int8") -> None:
        if split.edge is None or split.cloud is None:
            raise OptionError(f"cut at {split.name}: the whole net is on one side; use an Edge")
        if split.edge.policy.anchor:
            raise OptionError("Policy: frames of a net that is cut keep their place; pass anchor=False")
        self._edge, self._cloud, self._split, self._salience = split.edge, split.cloud, split, salience
        self._sender = MapSender(split.boundary, precision=precision)
        self._receiver = MapReceiver(split.boundary, precision)

    def reset(self) -> None:
        """A new clip, or a cloud that lost its maps."""
        self._edge.reset()
        self._cloud.reset()
        self._sender.reset()

    def lost(self) -> None:
        """A message did not arrive: the next holds everything."""
        self._sender.reset()

    def step(self, picture: Image, link: LinkView) -> Steps:
        del link
        split, image = self._split, centred(picture, self._split.size)
        every = dense_work(split.size).blocks
        blocks = (yield Stage("edge", Work("look"), partial(self._edge.look, image))) / PER_BLOCK
        dense = blocks >= every
        early = yield Stage("edge", Work("compute", blocks, dense, split.edge_share), self._edge.compute)
        message = yield Stage("edge", Work("quantise"), partial(self._sender.encode, early["boundary"]))
        yield Stage("uplink", num_bytes=len(message))
        late = yield Stage("cloud", Work("compute", blocks, dense, 1 - split.edge_share), partial(self._there, message))
        outputs = copied(split.joined(early, late))
        if self._salience is not None:
            self._edge.hint(self._salience(outputs, split.size))
        return Outcome(outputs, hit_ratio=1 - blocks / every, work_share=self._work_share())

    def _there(self, message: bytes) -> Any:
        """What the cloud makes of a message; one out of turn is refused, as are all until a whole one comes."""
        maps, misses = self._receiver.decode(message)
        return self._cloud(*maps, miss=misses)

    def _work_share(self) -> float:
        shares: Sequence[float] = [0.0 if s.stats is None else s.stats.work_share for s in (self._edge, self._cloud)]
        return float(np.average(shares, weights=[self._split.edge_share, 1 - self._split.edge_share]))
