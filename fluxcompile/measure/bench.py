"""Time against activity: a stream of ours beside dense peers, in one process, in turns.

`fluxcompile bench` is this. Every figure is wall clock of one frame, the least and the median of all rounds. Shares of
time are least over least, against the peer that is fastest: the best dense.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fluxcompile.errors import OptionError
from fluxcompile.liveness import activation_bytes, type_bytes
from fluxcompile.measure import peers
from fluxcompile.measure.activity import PATTERNS, Camera, Mask, Net, draw
from fluxcompile.measure.machine import SPINNING_S, Measured, Peak, torch_threads
from fluxcompile.measure.peers import Model, Peer, peer_run
from fluxcompile.measure.timing import Run, take_turns
from fluxcompile.program import Program


@dataclass(frozen=True)
class Plan:
    """What is measured. `activities` are per cent of the blocks of a frame; `peers` None is all that are installed."""

    activities: Sequence[float] = (1, 5, 10, 25, 50, 100)
    patterns: Sequence[str] = ("blobs",)
    threads: int = 1
    backend: str = "cpu"
    rounds: int = 20
    warmups: int = 2
    peers: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.activities or not all(0 < a <= 100 for a in self.activities):
            raise OptionError(f"activity is {self.activities}; it is per cent, over 0 and up to 100")
        if not self.patterns or not set(self.patterns) <= set(PATTERNS):
            raise OptionError(f"pattern is {', '.join(self.patterns)}; use {', '.join(PATTERNS)} or both")
        if self.threads < 1 or self.rounds < 1:
            raise OptionError(f"{self.threads} threads and {self.rounds} rounds; there must be one at least")


@dataclass
class Row:
    """One activity. `work_share` is the mean over the rounds of MACs done over those of a dense frame."""

    activity: float
    pattern: str
    threads: int
    ms: float | None = None
    ms_median: float | None = None
    of_best_dense: float | None = None
    work_share: float | None = None
    gflops_effective: float | None = None


@dataclass(kw_only=True)
class Result(Measured):
    """All that was measured of one model on so many threads.

    dense_activation_bytes: the peak of the live tensors of a dense run, freed at their last use, views for nothing;
    dense_activation_sum_bytes: the same tensors, none freed. peak_gflops: of one core, measured beside the rounds.
    """

    frame: tuple[int, int]
    macs: int
    rounds: int = 0
    peers: list[dict[str, Any]] = field(default_factory=list)
    peers_ms: dict[str, float] = field(default_factory=dict)
    best_dense: str | None = None
    best_dense_ms: float | None = None
    rows: list[Row] = field(default_factory=list)
    idle_ms: float | None = None
    idle_ms_median: float | None = None
    idle_of_best_dense: float | None = None
    idle_work_share: float | None = None
    first_frame_ms: float | None = None
    first_frame_ms_median: float | None = None
    first_frame_of_best_dense: float | None = None
    cache_bytes: int = 0
    dense_activation_bytes: int = 0
    dense_activation_sum_bytes: int = 0
    peak_gflops: float | None = None


def measure(
    name: str,
    net: Net,
    source: Any,
    plan: Plan,
    *,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Result:
    """Measure one net; `source` is what the peers get: a module, a path, or None for the net's own dense graph."""
    with torch_threads(plan.threads):
        camera = Camera(net, plan.backend, plan.threads, seed=plan.seed)
        macs = net.explain().to_json()["total_macs"]
        result = Result(model=name, threads=plan.threads, backend=plan.backend, frame=camera.size, macs=macs)
        result.dense_activation_bytes, result.dense_activation_sum_bytes = activation_bytes(net.program.graphs["dense"])
        everything = draw("blobs", camera.size, 1.0, (plan.seed,))
        ours = peers.arrays(camera.see(everything))
        opened: list[Peer] = []
        total = len(plan.peers or peers.peers_of(plan.backend))
        on_step("opening peers", 0, total)
        try:
            model = Model(source, net.program, camera.frames)
            for peer in peers.open_peers(model, plan.threads, ours, plan.peers, plan.backend):
                opened.append(peer)
                on_step("opening peers", len(opened), total)
        except KeyboardInterrupt:
            result.interrupted = True
        runs, rows, work = _runs(camera, opened, plan)
        peak = Peak()

        def on_round(index: int) -> None:
            peak.measure()
            result.rounds = max(result.rounds, index + 1)
            on_step("rounds", index + 1 + plan.warmups, plan.rounds + plan.warmups)

        if not result.interrupted:
            pause_s = SPINNING_S if plan.threads > 1 else 0.0
            result.interrupted = not take_turns(
                runs, plan.rounds, warmups=plan.warmups, seed=plan.seed, pause_s=pause_s, on_round=on_round
            )
        result.peak_gflops = peak.gflops
        result.cache_bytes = cache_bytes(camera.stream, net.program)
        _fill(result, opened, runs, rows, work)
    return result


def _runs(camera: Camera, opened: Sequence[Peer], plan: Plan) -> tuple[dict[str, Run], dict[str, Row], dict[str, Any]]:
    """What takes turns: "peer NAME", "first frame", "idle" and a row for each activity and pattern."""
    work: dict[str, list[float]] = {}

    def frame(key: str, pattern: str, share: float) -> Run:
        def prepare(index: int) -> Mask:
            seed = (plan.seed, int(index < 0), abs(index))
            return camera.change(draw(pattern, camera.size, share, seed))

        def after() -> None:
            work.setdefault(key, []).append(float(camera.stream.stats.work_share))

        return Run(camera.see, prepare, after)

    def forget(index: int) -> Mask:
        camera.stream.reset()
        return draw("blobs", camera.size, 1.0, (0,))

    runs = {f"peer {peer.name}": peer_run(peer.infer) for peer in opened if peer.infer}
    runs |= {"first frame": Run(camera.see, forget), "idle": frame("idle", "blobs", 0.0)}
    rows = {}
    for pattern in plan.patterns:
        for activity in plan.activities:
            key = f"{pattern} {activity:g}"
            runs[key] = frame(key, pattern, activity / 100)
            rows[key] = Row(activity, pattern, plan.threads)
    return runs, rows, work


def _fill(
    result: Result, opened: Sequence[Peer], runs: dict[str, Run], rows: dict[str, Row], work: dict[str, list[float]]
) -> None:
    for peer in opened:
        timed = runs.get(f"peer {peer.name}")
        result.peers.append(
            {
                "name": peer.name,
                "ms": timed.best_ms if timed else None,
                "ms_median": timed.median_ms if timed else None,
                "reason": peer.reason,
                "version": peer.version,
                "max_relative_error": peer.max_relative_error,
            }
        )
    result.peers_ms = {peer["name"]: peer["ms"] for peer in result.peers if peer["ms"] is not None}
    if result.peers_ms:
        result.best_dense = min(result.peers_ms, key=lambda name: result.peers_ms[name])
        result.best_dense_ms = result.peers_ms[result.best_dense]
    for key, row in rows.items():
        row.ms, row.ms_median = runs[key].best_ms, runs[key].median_ms
        row.of_best_dense = over(row.ms, result.best_dense_ms)
        row.work_share = _mean(work.get(key))
        if row.ms and row.work_share is not None:
            row.gflops_effective = 2e-6 * result.macs * row.work_share / row.ms
        result.rows.append(row)
    idle, first = runs["idle"], runs["first frame"]
    result.idle_ms, result.idle_ms_median = idle.best_ms, idle.median_ms
    result.idle_of_best_dense = over(idle.best_ms, result.best_dense_ms)
    result.idle_work_share = _mean(work.get("idle"))
    result.first_frame_ms, result.first_frame_ms_median = first.best_ms, first.median_ms
    result.first_frame_of_best_dense = over(first.best_ms, result.best_dense_ms)


def over(ms: float | None, other: float | None) -> float | None:
    """A ratio, None where one of the two was not measured."""
    return ms / other if ms is not None and other else None


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def cache_bytes(stream: Any, program: Program) -> int:
    """The memory of a stream's caches: what it says itself, or what the program declares."""
    told = getattr(stream, "cache_bytes", None)
    if told is not None:
        return int(told)
    caches = [i for i in program.graphs["blocked"].inputs if i.role == "cache"]
    return sum(type_bytes(i.type) for i in caches)
