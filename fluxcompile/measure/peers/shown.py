"""Dense peers of a net that takes camera frames: opened, the fastest found, shown one frame after the other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.measure import peers
from fluxcompile.measure.peers.model import Array, Model
from fluxcompile.measure.peers.peer import Peer, arrays, peer_run
from fluxcompile.measure.timing import take_turns
from fluxcompile.options import Frames
from fluxcompile.runtime.fit import Image

TRIALS = 5
"""Rounds in which the peers are timed to find the fastest."""


class Shown:
    """A model in peers. source: what `peers.Model` takes; pixels: how a model of floats takes a camera frame."""

    def __init__(self, net: Any, source: Any, pixels: Frames | None) -> None:
        takes_bytes = source is None or (isinstance(source, Path) and source.suffix not in (".onnx", ".pt2"))
        self._net = net
        self._source = None if takes_bytes else source
        self._pixels = None if takes_bytes else pixels or Frames()
        self._memory: Array | None = None
        self.model: Model | None = None
        self.fastest: Peer | None = None
        self.fastest_ms: float | None = None
        self.told: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def open(
        self,
        image: Image,
        threads: int,
        wanted: Sequence[str],
        on_step: Callable[[int], None] = lambda done: None,
        trials: int = TRIALS,
    ) -> None:
        """Open those that are wanted on a frame of the net's own size, time them in turns, and keep the fastest."""
        shown = np.array(image) if self._pixels is None else as_input(image, self._pixels)
        self.model = Model(self._source, self._net.program, [shown])
        opened: list[Peer] = []
        for peer in peers.open_peers(self.model, threads, arrays(self._net.dense(image)), wanted):
            opened.append(peer)
            on_step(len(opened))
        (self._memory,) = self.model.frames  # what the peers read
        runs = {peer.name: peer_run(peer.infer) for peer in opened if peer.infer}
        if not take_turns(runs, trials):
            raise KeyboardInterrupt
        timed = {name: run.best_ms for name, run in runs.items() if run.best_ms is not None}
        for peer in opened:
            told = {"name": peer.name, "version": peer.version, "reason": peer.reason}
            self.told.append({**told, "ms": timed.get(peer.name), "max_relative_error": peer.max_relative_error})
        self.notes += [f"{peer.name} left out: {peer.reason}" for peer in opened if peer.reason]
        if timed:
            best = min(timed, key=lambda name: timed[name])
            self.fastest, self.fastest_ms = next(peer for peer in opened if peer.name == best), timed[best]

    def show(self, image: Image) -> None:
        """Put a frame where the peers read."""
        assert self._memory is not None
        self._memory[...] = image if self._pixels is None else as_input(image, self._pixels)


def as_input(image: Image, pixels: Frames) -> npt.NDArray[np.float32]:
    """A camera frame as a model takes it: [1, 3, h, w]."""
    shift, spread = (np.asarray(values, np.float32) for values in (pixels.mean, pixels.std))
    values = (image.astype(np.float32) * np.float32(pixels.scale) - shift) / spread
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)
