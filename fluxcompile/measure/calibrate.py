"""Picks a policy for an accuracy budget on the user's own clip.

`fluxcompile calibrate MODEL CLIP` is this. The clip's first half chooses, its second half says what the choice is
worth: the figure reported is not the one tuned on. A ladder of boldness is climbed first, all thresholds together; then
one knob at a time is changed, and kept where the agreement holds and the work falls. The anchor is one of them: it
stays only where it pays. Where not even the least bold rung agrees, changes must spread wider: the ladder is climbed
again at twice the radius, four times, without one.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from fluxcompile.errors import OptionError
from fluxcompile.measure.clip_runs import Bench, Loaded, Plan, Track
from fluxcompile.measure.machine import torch_threads
from fluxcompile.options import VIDEO, Policy
from fluxcompile.runtime.salience import CELL
from fluxcompile.tasks import Task

LADDER = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Boldness: what the thresholds of the start are multiplied by."""
WIDER = (2, 4, None)
"""What the start's radius is multiplied by where no rung agrees; None knows no radius."""
CHANGES: dict[str, dict[str, Any]] = {
    "radius 8": {"radius": 8},
    "radius 16": {"radius": 16},
    "no texture": {"texture": 0.0},
    "texture 1": {"texture": 1.0},
    "no support": {"support": 0},
    "support 5": {"support": 5},
    "gate 0.25": {"gate": 0.25},
    "mean gate 0.2": {"gate": 0.2, "gate_by": "mean"},
    "no exposure": {"exposure": False},
    "no anchor": {"anchor": False},
    "no edge": {"edge": 0.0},
}
"""What is tried one at a time at the boldness found; what helps is kept."""
SPARE = 0.5
"""Share of the loss allowed that is kept in hand: another half of the clip is never quite like the first."""
WORTH = 0.98
"""What a change must leave of the work, to be worth it."""
FEWEST = 8
"""Frames each half of a clip must have."""


@dataclass
class Tried:
    """A policy on the half that chooses."""

    name: str
    policy: dict[str, Any]
    work_share: float
    ms: float
    agreement: float | None
    kept: bool = False


@dataclass
class Calibration:
    """What was tried, what was chosen, and its figures on the half that had no say."""

    clip: str
    figure: str
    target: float
    frames: tuple[int, int]
    tried: list[Tried] = field(default_factory=list)
    policy: Policy | None = None
    held_out: dict[str, Any] | None = None
    interrupted: bool = False

    @property
    def frontier(self) -> list[Tried]:
        """What nothing else beats in both work and agreement, from the least work up."""
        best: list[Tried] = []
        for one in sorted(self.tried, key=lambda t: (t.work_share, -(t.agreement or 0))):
            if one.agreement is not None and (not best or one.agreement > (best[-1].agreement or 0)):
                best.append(one)
        return best

    def __str__(self) -> str:
        lines = [
            f"{one.work_share:6.1%} of the work, agreement {one.agreement}: {one.name}{' (chosen)' if one.kept else ''}"
            for one in sorted(self.tried, key=lambda t: t.work_share)
        ]
        held = self.held_out and f"{self.held_out['work_share']:.1%} of the work, {self.held_out[self.figure]}"
        return "\n".join([*lines, f"on the other half: {held or 'not played'}"])

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["policy"] = self.policy.to_json() if self.policy else None
        return {**plain, "frontier": [one.name for one in self.frontier]}


def calibrate(
    net: Any,
    clip: str | Path,
    agreement: float,
    *,
    start: Policy = VIDEO,
    frames: int | None = None,
    task: Task | str | None = None,
    backend: str = "cpu",
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Calibration:
    """The policy of least work whose agreement with dense is at least `agreement` on the first half of a clip.

    frames: of the clip, all when not given. Raises OptionError for a clip too short to be split.
    """
    from fluxcompile.runtime.video import probe

    if not 0 < agreement <= 1:
        raise OptionError(f"agreement is {agreement}; it is a share, above 0 and at most 1")
    total = min(n for n in (frames, probe(str(clip)).num_frames, 1 << 30) if n is not None)
    half = total // 2
    if half < FEWEST:
        raise OptionError(f"{clip}: {total} frames are too few to be split; give {2 * FEWEST} or more")
    (shape,) = net.input_shapes
    size = int(shape[0]), int(shape[1])
    plan = Plan(policies=(start,), frames=half, backend=backend, peers=(), task=task)
    bench = Bench(net, None, None, size, plan, on_step)
    found = Calibration(str(clip), "", agreement, (half, total - half))
    with torch_threads(1):
        try:
            loaded = bench.load(Path(clip))
            if loaded is None:
                raise OptionError(f"{clip}: no frames")
            assert bench.task is not None
            found.figure = bench.task.figure
            found.policy = _chosen(bench, loaded, found, start)
            _hold_out(net, Path(clip), found, replace(plan, frames=total - half, start=half), size, on_step)
        except KeyboardInterrupt:
            found.interrupted = True
    return found


def _chosen(bench: Bench, loaded: Loaded, found: Calibration, start: Policy) -> Policy:
    best: Tried | None = None
    policies: dict[str, Policy] = {}

    def tries(name: str, policy: Policy) -> Tried:
        one = _tried(bench, loaded, name, policy)
        found.tried.append(one)
        policies[name] = policy
        return one

    for name, begun in _wider(start):
        for boldness in LADDER:
            one = tries(f"boldness {boldness:g}{name}", bolder(begun, boldness))
            if not _agrees(one, found.target):
                break
            best = one
        if best is not None:
            break
    if best is None:
        one = tries("exact", Policy())
        one.kept = True
        return policies[one.name]
    for name, change in CHANGES.items():
        policy = policies[best.name]
        if all(getattr(policy, knob) == value for knob, value in change.items()):
            continue
        one = tries(f"{best.name}, {name}", replace(policy, **change))
        if _agrees(one, found.target) and one.work_share < WORTH * best.work_share:
            best = one
    best.kept = True
    return policies[best.name]


def _wider(start: Policy) -> Iterator[tuple[str, Policy]]:
    """The start with wider and wider radii, and what to call that."""
    yield "", start
    for times in WIDER if start.radius is not None else ():
        radius = None if times is None else times * max(start.radius or 0, CELL)
        yield f", radius {'none' if radius is None else radius}", replace(start, radius=radius)


def bolder(policy: Policy, boldness: float) -> Policy:
    """All thresholds of a policy multiplied."""
    knobs = {name: getattr(policy, name) * boldness for name in ("residual", "background", "edge", "threshold")}
    return replace(policy, **knobs)


def _agrees(one: Tried, target: float) -> bool:
    return one.agreement is None or one.agreement >= target + SPARE * (1 - target)


def _tried(bench: Bench, loaded: Loaded, name: str, policy: Policy) -> Tried:
    track = bench.track(name, loaded, policy, Track())
    assert bench.task is not None
    agreement = bench.task.figures(track.tallies)[bench.task.figure]
    return Tried(name, policy.to_json(), mean(track.work), mean(track.ms), agreement)


def _hold_out(net: Any, clip: Path, found: Calibration, plan: Plan, size: tuple[int, int], on_step: Any) -> None:
    """The figures of the chosen policy where it was not tuned."""
    assert found.policy is not None
    bench = Bench(net, None, None, size, replace(plan, policies=(found.policy,)), on_step)
    for track in bench.clip(clip):
        assert bench.task is not None
        found.held_out = track.row(clip.stem, bench.task)
        del found.held_out["per_frame"]
