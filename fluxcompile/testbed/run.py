"""The testbed's experiments: every system on every link, more and more cameras, parts left out; rows of figures.

The paper's devices (Table 1: Xavier NX, RTX 3080) or any others that were profiled, and three mean bandwidths; traces
are scaled to these. Baselines are tuned on the first half of each clip's frames, and all are measured on the second.
What computes frames whole does it in the fastest dense runtime that a profile knows of, ours in our own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from fluxcompile.measure.tuning import BASELINES, Rivals
from fluxcompile.net import Net
from fluxcompile.options import VIDEO, Policy
from fluxcompile.runtime.baselines import Baseline
from fluxcompile.runtime.h264 import CRF
from fluxcompile.runtime.profile import find_profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.tasks import Task
from fluxcompile.testbed.clips import Footage, footage
from fluxcompile.testbed.network import Trace
from fluxcompile.testbed.paper import REPORTED
from fluxcompile.testbed.world import CLOUD, EDGE, Run, Setting, percentile, play_baseline, play_ours, tallied

Row = dict[str, Any]
OURS = "ours"
ALONE = "ours, edge alone"
ABLATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no path choice": ({"places": ("cloud",)}, {}),
    "no motion": ({}, {"anchor": False}),
    "no salience": ({}, {"background": 0.0, "edge": 0.0, "support": 0}),
}
"""Parts of ours left out: what `Edge` is told, and what the policy is."""
SYSTEMS = (OURS, ALONE, *BASELINES)
AGREEMENT = 0.985
"""What every system is tuned for, with dense inference."""


@dataclass(frozen=True)
class Plan:
    """What is run. frames: of each clip, as many again are for tuning; cameras: how many share the server.

    edge, cloud: devices, as `find_profile` finds them. deadline_ms: a later answer is worth nothing.
    """

    clips: Sequence[Path]
    traces: Sequence[Trace]
    systems: Sequence[str] = SYSTEMS
    ablated: Sequence[str] = ()
    cameras: Sequence[int] = (1,)
    frames: int = 40
    rtt_ms: float = 10.0
    crf: int | None = None
    coarser: int = 0
    edge: str = "xavier-nx"
    cloud: str = "rtx-3080"
    deadline_ms: float = 100.0


@dataclass(frozen=True)
class Subject:
    """A net of the testbed, and how it is used. name: by which profiles of several nets are found."""

    name: str
    net: Net
    task: Task
    policy: Policy = VIDEO
    crop: bool = False


class Experiments:
    """Experiments on one net. on_step: told what is about to run."""

    def __init__(self, subject: Subject, plan: Plan, on_step: Callable[[str], None] = lambda what: None) -> None:
        self.subject, self.plan, self._on_step = subject, plan, on_step
        edge, cloud = find_profile(plan.edge, subject.name), find_profile(plan.cloud, subject.name)
        self.profiles = edge, cloud
        self._clips: list[tuple[Footage, Footage]] = []
        self._rivals: Rivals | None = None

    @property
    def _as_paper(self) -> bool:
        return all(profile.source.startswith("the paper") for profile in self.profiles)

    def rows(self) -> Iterator[Row]:
        """A row for each system, link and number of cameras, as soon as it is measured."""
        for count in self.plan.cameras:
            for trace in self.plan.traces:
                for system in (*self.plan.systems, *self.plan.ablated):
                    self._on_step(f"{self.subject.name}, {system}, {trace.name}, {count} cameras")
                    yield self._row(system, trace, count)

    def _row(self, system: str, trace: Trace, count: int) -> Row:
        edge, cloud = self.profiles
        setting = Setting(edge, cloud, trace, self.plan.rtt_ms, EDGE.measured(edge), CLOUD.measured(cloud))
        clips = [tested for _, tested in self._footage()]
        runs = []
        if count == 1:
            for index, clip in enumerate(clips):
                elsewhere = replace(setting, start_s=index * setting.offset_s)
                runs.append((self._run(system, [clip], elsewhere), [clip]))
        else:
            shared = [clips[index % len(clips)] for index in range(count)]
            runs.append((self._run(system, shared, setting), shared))
        tallies = [tally for run, shown in runs for tally in tallied(run, shown)]
        latencies = [ms for run, _ in runs for ms in run.latency_ms]
        frames, task = len(latencies), self.subject.task
        mbps = round(trace.mean_mbps)
        row: Row = {
            "model": self.subject.name,
            "mbps": mbps,
            "trace": trace.name,
            "system": system,
            "edge": self.profiles[0].device,
            "cloud": self.profiles[1].device,
            "cameras": count,
            "frames": frames,
            "latency_ms": mean(latencies),
            "latency_p95_ms": percentile([run for run, _ in runs], 0.95),
            "late": _late([run for run, _ in runs], self.plan.deadline_ms),
            "figure": task.figure,
            "agreement": task.figures(tallies)[task.figure],
            "hit_ratio": mean(hit for run, _ in runs for hit in run.hits),
            "bytes_per_frame": sum(run.sent_bytes for run, _ in runs) / frames,
            "mb_per_s": sum(run.sent_bytes for run, _ in runs) / 1e6 / sum(run.lasted_s for run, _ in runs),
            "energy_mj": (self.profiles[0].power_mw or 0.0) * sum(run.edge_busy_ms for run, _ in runs) / 1e3 / frames,
            "cloud_share": mean(place == "cloud" for run, _ in runs for place in run.places),
            "fallbacks": sum(run.fallbacks for run, _ in runs),
            "cloud_busy": sum(run.cloud_busy_ms for run, _ in runs)
            / 1000
            / sum(run.lasted_s / count for run, _ in runs),
        }
        reported = REPORTED.get((self.subject.name, mbps, system)) if self._as_paper and count == 1 else None
        return row | ({} if reported is None else {"paper": reported._asdict()})

    def _run(self, system: str, clips: Sequence[Footage], setting: Setting) -> Run:
        subject = self.subject
        if system in BASELINES:
            seen = LinkView(setting.trace.mean_mbps, setting.rtt_ms)
            make: Callable[[], Baseline] = partial(self._tuned().make, system, seen)
            whole = replace(setting, edge=setting.edge.of_best_dense, cloud=setting.cloud.of_best_dense)
            return play_baseline(make, subject.task, clips, whole)
        options, knobs = ABLATED.get(system, ({}, {}))
        if system == ALONE:
            options = {"places": ("edge",)}
        sent = {"codec": "h264", "crf": self.plan.crf, "coarser": self.plan.coarser}
        options = {**sent, "deadline_ms": self.plan.deadline_ms, **options}
        return play_ours(subject.net, subject.task, replace(subject.policy, **knobs), clips, setting, **options)

    def _footage(self) -> list[tuple[Footage, Footage]]:
        """Each clip's first half, for tuning, and its second."""
        if not self._clips:
            net, task = self.subject.net, self.subject.task
            margin = net.margin if self.subject.policy.anchor else (0, 0)
            for path in self.plan.clips:
                self._on_step(f"decoding {path.stem}")
                whole = footage(path, net, task, 2 * self.plan.frames, margin=margin, crop=self.subject.crop)
                half = len(whole.pictures) // 2
                first, second = (
                    Footage(whole.name, whole.fps, part, net, task)
                    for part in (whole.pictures[:half], whole.pictures[half:])
                )
                self._clips.append((first, second))
        return self._clips

    def _tuned(self) -> Rivals:
        if self._rivals is None:
            self._on_step(f"{self.subject.name}: tuning baselines")
            each = max(2, CALIBRATED_ON // len(self._footage()))
            shown = [picture for first, _ in self._footage() for picture in first.pictures[:each]]
            self._rivals = Rivals(
                self.subject.net,
                (self.profiles[0].of_best_dense, self.profiles[1].of_best_dense),
                shown,
                AGREEMENT,
                task=self.subject.task,
                crf=CRF if self.plan.crf is None else self.plan.crf,
            )
        return self._rivals


def _late(runs: Sequence[Run], deadline_ms: float) -> float:
    """The share of time in which a picture waits longer than the deadline."""
    waits = [(ms, lasted) for run in runs for ms, lasted in zip(run.latency_ms, run.lasted_ms, strict=True)]
    return sum(lasted for ms, lasted in waits if ms > deadline_ms) / sum(lasted for _, lasted in waits)


CALIBRATED_ON = 80
"""Pictures, of all clips together, that baselines are tuned on."""
