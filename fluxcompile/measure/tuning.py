"""Baselines of a net, each tuned on calibration pictures as ours is: as bold as an agreement with dense allows.

rivals = Rivals(net, (edge, cloud), pictures, agreement=0.98)
spinn = rivals.make("spinn", LinkView(mbps=25))
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fluxcompile.errors import OptionError
from fluxcompile.measure.calibrate import SPARE
from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.runtime.baselines import (
    Baseline,
    Delta,
    Dense,
    Offload,
    Outcome,
    Steps,
    copied,
    finish,
    run_dense,
)
from fluxcompile.runtime.canvas import centred
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.h264 import CRF
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.split_baselines import Coach, Spinn, Split, plan_coach
from fluxcompile.tasks import Task, task_of

BASELINES = ("edge", "raw", "jpeg", "h264", "spinn", "coach", "deltacnn")
SPINN_LADDER = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Grey levels."""
COACH_LADDER = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
DELTA_LADDER = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Grey levels of a pixel."""
GATES = (0.0, 0.05, 0.1, 0.25)
"""Shares of the spread of each layer's map."""
MOST_SPLITS = 4
PLANNED_ON = 24
"""Calibration pictures that COACH's bits are found on."""


class Rivals:
    """Makes the baselines of one net.

    profiles: of the edge and the cloud, by which they choose. pictures: uint8 (height, width, 3), frames that follow
    each other; crf: of H.264 offload; agreement: what they may lose on them, with dense inference on the same pictures.
    """

    def __init__(
        self,
        net: Net,
        profiles: tuple[Profile, Profile],
        pictures: Sequence[Image],
        agreement: float,
        *,
        task: Task | str | None = None,
        threads: int = 1,
        crf: int = CRF,
    ) -> None:
        if not 0 < agreement <= 1 or not pictures:
            raise OptionError(f"agreement is {agreement}, of {len(pictures)} pictures; give a share, and some pictures")
        self.net, self.profiles, self._pictures, self._threads = net, profiles, pictures, threads
        self._crf = crf
        self._target = agreement + SPARE * (1 - agreement)
        self.size = net.frame_size
        self._stream = self._opened(net)
        dense = [copied(run_dense(self._stream, centred(picture, self.size))) for picture in pictures]
        self.task = task_of(dense[0], task)
        self._dense = [self.task.decode(outputs, self.size) for outputs in dense]
        self._cut: list[Split] | None = None
        self._tuned: dict[tuple[str, LinkView], Callable[[], Baseline]] = {}

    def make(self, name: str, link: LinkView) -> Baseline:
        """A baseline for one camera, tuned for a link where its own paper does so; it is tuned once."""
        if (name, link) not in self._tuned:
            self._tuned[name, link] = self._tune(name, link)
        return self._tuned[name, link]()

    def _tune(self, name: str, link: LinkView) -> Callable[[], Baseline]:
        match name:
            case "edge":
                return lambda: Dense(self._stream, self.size)
            case "raw" | "jpeg" | "h264":
                return lambda: Offload(self._stream, self.size, name, crf=self._crf)
            case "spinn":
                return self._boldest(lambda t: Spinn(self.splits, self.profiles, t), SPINN_LADDER, link)[0]
            case "coach":
                split, bits = plan_coach(self.splits, self.profiles, link, self._agreement_of_bits)
                return self._boldest(lambda t: Coach(split, bits, self.profiles, t), COACH_LADDER, link)[0]
            case "deltacnn":
                return self._delta(link)
        raise OptionError(f"{name!r} is no baseline; there are {', '.join(BASELINES)}")

    @property
    def splits(self) -> list[Split]:
        """The whole net on either side, and cuts through which fewer bytes cross than through any before."""
        if self._cut is None:
            rows = self.net.partition("edge").explain().rows
            numbers: list[int] = []
            least = float("inf")
            for row in rows:
                if row.number is not None and row.bytes < least:
                    numbers.append(row.number)
                    least = row.bytes
            places: list[str | int] = ["edge", "cloud", *numbers[-MOST_SPLITS:]]
            self._cut = [self._split(at) for at in places]
        return self._cut

    def _split(self, at: str | int) -> Split:
        parts = self.net.partition(at)
        table = parts.explain()
        row = table.rows[table.chosen]
        edge, cloud = (None if part is None else self._opened(part) for part in (parts.edge, parts.cloud))
        return Split(row.at, edge, cloud, parts.boundary, row.edge_macs_share, self.size, parts.outputs)

    def _opened(self, net: Net, policy: Policy | None = None) -> CpuStream:
        stream = net.stream(policy or Policy(), backend="cpu", threads=self._threads)
        assert isinstance(stream, CpuStream)
        return stream

    # --- tuning ---

    def trial(self, baseline: Baseline, link: LinkView) -> tuple[float, float]:
        """Its agreement with dense inference over the calibration pictures, and the share of dense work it did."""
        baseline.reset()
        outcomes = [finish(baseline.step(picture, link)) for picture in self._pictures]
        baseline.reset()
        results = [self.task.decode(outcome.outputs, self.size) for outcome in outcomes]
        return self._figure(results, self._dense), float(np.mean([outcome.work_share for outcome in outcomes]))

    def _figure(self, results: Sequence[Any], expected: Sequence[Any]) -> float:
        tallies = [self.task.compare(result, dense) for result, dense in zip(results, expected, strict=True)]
        found = self.task.figures(tallies)[self.task.figure]
        return 1.0 if found is None else float(found)

    def _boldest(
        self, make: Callable[[float], Baseline], ladder: Sequence[float], link: LinkView
    ) -> tuple[Callable[[], Baseline], float]:
        """That of the last rung of a ladder on which it agrees, and its work; of the first, if it never does."""
        best, least = ladder[0], 1.0
        for threshold in ladder:
            agreement, work_share = self.trial(make(threshold), link)
            if agreement < self._target:
                break
            best, least = threshold, work_share
        return partial(make, best), least

    def _agreement_of_bits(self, split: Split, bits: int) -> float:
        every = max(1, len(self._pictures) // PLANNED_ON)
        shown = self._pictures[::every]
        outputs = [finish(_cut_once(split, picture, bits)).outputs for picture in shown]
        return self._figure([self.task.decode(one, self.size) for one in outputs], self._dense[::every])

    def _delta(self, link: LinkView) -> Callable[[], Baseline]:
        """Of each gate of the layers with the boldest threshold of pixels it allows, the pair of least work."""
        found = []
        for gate in GATES:
            policy = Policy(exact=False, gate=gate)
            found.append(self._boldest(partial(self._delta_with, policy), DELTA_LADDER, link))
        return min(found, key=lambda one: one[1])[0]

    def _delta_with(self, policy: Policy, threshold: float) -> Baseline:
        streams = self._opened(self.net, policy), self._opened(self.net, policy)
        return Delta(streams, self.profiles, self.size, threshold)


def _cut_once(split: Split, picture: Image, bits: int) -> Steps:
    """A picture through a net that is cut."""
    early = yield from split.begin(picture)
    outputs, _ = yield from split.end(picture, early, bits)
    return Outcome(outputs)
