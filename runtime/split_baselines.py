"""SPINN and COACH: the net is cut in two, its first layers run on the edge, and what is like before is not run at all.

After their papers, with what FluxShard's comparison puts in the place of their early exits (which need trained heads):

    SPINN   at run time the split whose answer should come first, by the link as it is; maps as bytes, compressed; a
            frame like the last one that was computed has its result
    COACH   offline the split and, by bisection, the fewest bits that cost little accuracy, so that no stage waits for
            another; at run time more bits while the link is not the slowest stage; features near a cached semantic
            centre have its result

Every frame that is computed is computed whole: there are no caches of maps, and whole maps cross.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.program import Input
from fluxcompile.runtime.baselines import Outcome, Stage, Steps, copied, dense_work, run_dense
from fluxcompile.runtime.boundary import MapReceiver, MapSender, View
from fluxcompile.runtime.canvas import Pair, centred
from fluxcompile.runtime.device import Work
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.precision import PRECISIONS
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.transport import Sender

Array = npt.NDArray[Any]
FULL_BITS = 8
FEWEST_BITS = 2
LOSS = 0.005
"""Accuracy that COACH gives for fewer bits."""
CENTRES = 16
"""Semantic centres that are cached; the one that was used last goes first."""


@dataclass(frozen=True, eq=False)
class Split:
    """A net cut in two; a side with nothing to do has no stream. edge_share: of the MACs, on the edge.

    joined: the net's outputs, of what both streams gave.
    """

    name: str
    edge: CpuStream | None
    cloud: CpuStream | None
    boundary: Sequence[Input]
    edge_share: float
    size: Pair
    joined: Callable[[Any, Any], Any]

    def whole_bytes(self, bits: int) -> float:
        """Of the maps, before anything compresses them; of the picture, where the whole net is in the cloud."""
        if self.edge is None:
            return float(self.size[0] * self.size[1] * 3)
        return sum(float(np.prod(i.shape)) * (1 if i.dtype == "u8" else bits / 8) for i in self.boundary)

    def begin(self, picture: Image) -> Generator[Stage, Any, Any]:
        """The edge's layers, to a dict with the boundary maps; the net's outputs, where it is whole there."""
        if self.edge is None:
            return None
        work = dense_work(self.size, self.edge_share)
        return (yield Stage("edge", work, partial(run_dense, self.edge, centred(picture, self.size))))

    def end(self, picture: Image, early: Any, bits: int) -> Generator[Stage, Any, tuple[list[Array], int]]:
        """What follows, to the net's outputs and the bytes that crossed for them."""
        if self.cloud is None:
            return copied(early), 0
        maps, num_bytes = yield Stage("edge", Work("quantise"), partial(self._crossing, picture, early, bits))
        yield Stage("uplink", num_bytes=num_bytes)
        late = yield Stage("cloud", dense_work(self.size, 1 - self.edge_share), partial(run_dense, self.cloud, *maps))
        return copied(late if self.edge is None else self.joined(early, late)), num_bytes

    def _crossing(self, picture: Image, early: Any, bits: int) -> tuple[list[Array], int]:
        """What the cloud has of the maps, or of the picture, and the bytes it took."""
        if self.edge is None:
            packet = Sender((picture.shape[0], picture.shape[1])).send(picture, "raw")
            return [centred(picture, self.size)], len(packet.data)
        data = MapSender(self.boundary, precision=f"int{bits}").encode(early["boundary"])
        return MapReceiver(self.boundary, f"int{bits}").decode(data).maps, len(data)


@dataclass(frozen=True)
class Costs:
    """How long a split's stages take by what is known of the devices and the link."""

    profiles: tuple[Profile, Profile]

    def stage_ms(self, split: Split, num_bytes: float, link: LinkView) -> tuple[float, float, float]:
        """Edge, uplink, cloud."""
        edge, cloud = self.profiles
        if split.cloud is None:
            return edge.dense_ms, 0.0, 0.0
        edge_ms = edge.dense_ms * split.edge_share if split.edge else 0.0
        return edge_ms, link.delivery_ms(num_bytes), cloud.dense_ms * (1 - split.edge_share)


class Spinn:
    """SPINN. threshold: grey levels, the mean difference from the last frame computed up to which one is like it."""

    def __init__(self, splits: Sequence[Split], profiles: tuple[Profile, Profile], threshold: float) -> None:
        self._splits, self._costs, self._threshold = splits, Costs(profiles), threshold
        self._packed = {split.name: 1.0 for split in splits}
        """By how much each split's maps are compressed, as the last ones were."""
        self.reset()

    def reset(self) -> None:
        self._picture: Image | None = None
        self._outputs: list[Array] = []

    def step(self, picture: Image, link: LinkView) -> Steps:
        if (yield Stage("edge", Work("compare"), partial(self._is_known, picture))):
            return Outcome(self._outputs, hit_ratio=1.0, work_share=0.0)
        split = min(self._splits, key=lambda s: sum(self._costs.stage_ms(s, self._expected(s), link)))
        early = yield from split.begin(picture)
        outputs, num_bytes = yield from split.end(picture, early, FULL_BITS)
        if num_bytes:
            self._packed[split.name] = num_bytes / split.whole_bytes(FULL_BITS)
        self._picture, self._outputs = picture.copy(), outputs
        return Outcome(outputs)

    def _is_known(self, picture: Image) -> bool:
        return self._picture is not None and difference(picture, self._picture) <= self._threshold

    def _expected(self, split: Split) -> float:
        return 0.0 if split.cloud is None else self._packed[split.name] * split.whole_bytes(FULL_BITS)


def difference(one: Image, other: Image) -> float:
    """Mean over pixels and channels, grey levels; infinite for pictures of different sizes."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.mean(np.maximum(one, other) - np.minimum(one, other), dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Centre:
    """A semantic centre: the features and outputs of a frame that was computed.

    It does not move with the frames that are like it, as a class's would: boxes do, and would be told ever later.
    """

    features: Array
    outputs: list[Array]


class Coach:
    """COACH at the split and with the fewest bits that `plan_coach` found.

    threshold: the distance of a frame's features from a centre, over the centre's length, up to which it is like it.
    Features are the means of each channel of the boundary maps, as global pooling gives them; of the picture, where
    the whole net is in the cloud. A net that is whole on the edge reuses nothing: its result is there by then.
    """

    def __init__(self, split: Split, bits: int, profiles: tuple[Profile, Profile], threshold: float) -> None:
        self.split, self.bits, self._threshold = split, bits, threshold
        self._costs = Costs(profiles)
        self._views = [View(spec, 1, PRECISIONS["fp32"]) for spec in split.boundary]
        self.reset()

    def reset(self) -> None:
        self._centres: list[Centre] = []

    def step(self, picture: Image, link: LinkView) -> Steps:
        early = yield from self.split.begin(picture)
        if self.split.cloud is None:
            return Outcome(copied(early))
        features, near = yield Stage("edge", Work("compare"), partial(self._looked_up, picture, early))
        if near is not None:
            return Outcome(near.outputs, hit_ratio=1.0, work_share=self.split.edge_share)
        outputs, _ = yield from self.split.end(picture, early, self._bits(link))
        self._centres = [Centre(features, outputs), *self._centres][:CENTRES]
        return Outcome(outputs)

    def _looked_up(self, picture: Image, early: Any) -> tuple[Array, Centre | None]:
        """A frame's features, and the centre they belong to."""
        features = self._features(picture, early)
        return features, self._near(features)

    def _features(self, picture: Image, early: Any) -> Array:
        if self.split.edge is None:
            return np.asarray(picture.mean((0, 1), dtype=np.float64))
        maps = zip(self._views, early["boundary"], strict=True)
        return np.concatenate([view.take(value).mean((0, 1), dtype=np.float64) for view, value in maps])

    def _near(self, features: Array) -> Centre | None:
        """The centre that the features belong to; it is the last to be forgotten."""
        if not self._centres:
            return None
        lengths = [float(np.linalg.norm(c.features)) or 1.0 for c in self._centres]
        off = [float(np.linalg.norm(c.features - features)) / n for c, n in zip(self._centres, lengths, strict=True)]
        best = int(np.argmin(off))
        if off[best] > self._threshold:
            return None
        self._centres.insert(0, self._centres.pop(best))
        return self._centres[0]

    def _bits(self, link: LinkView) -> int:
        """The most with which the uplink is not what the other stages wait for."""
        for bits in range(FULL_BITS, self.bits, -1):
            edge_ms, uplink_ms, cloud_ms = self._costs.stage_ms(self.split, self.split.whole_bytes(bits), link)
            if uplink_ms <= max(edge_ms, cloud_ms):
                return bits
        return self.bits


def plan_coach(
    splits: Sequence[Split],
    profiles: tuple[Profile, Profile],
    link: LinkView,
    agreement: Callable[[Split, int], float],
) -> tuple[Split, int]:
    """Offline: the split whose slowest stage is the quickest, and the fewest bits that cost it no more than `LOSS`.

    agreement: of a split whose maps have so many bits, with the same net uncut. Splits that lose more with all bits are
    left out.
    """
    costs, found = Costs(profiles), []
    for split in splits:
        bits = FULL_BITS
        if split.boundary:
            if agreement(split, FULL_BITS) < 1 - LOSS:
                continue
            bits = _fewest(lambda bits, split=split: agreement(split, bits) >= 1 - LOSS)  # type: ignore[misc]
        stages = costs.stage_ms(split, split.whole_bytes(bits), link)
        found.append((max(stages), sum(stages), split, bits))
    _, _, split, bits = min(found, key=lambda one: one[:2])
    return split, bits


def _fewest(agrees: Callable[[int], bool]) -> int:
    """By bisection; all bits are known to agree."""
    low, high = FEWEST_BITS, FULL_BITS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if agrees(middle) else (middle + 1, high)
    return high
