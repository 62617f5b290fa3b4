"""What each pass is worth: the same net compiled with one pass left out, beside the full one.

`fluxcompile ablate --passes` is this. Full and reduced take turns within the same rounds, so that a ratio compares what
ran side by side; the outputs are those of exact streams, which no pass may change.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fluxcompile.errors import in_a_line
from fluxcompile.measure.activity import Camera, Mask, Net, draw
from fluxcompile.measure.bench import Plan, cache_bytes
from fluxcompile.measure.machine import SPINNING_S, Measured, torch_threads
from fluxcompile.measure.peers import Array, arrays, difference
from fluxcompile.measure.timing import Run, take_turns
from fluxcompile.options import Policy

FULL = "nothing"
"""What is left out of the first row, the control: a second full compile beside the first. Its ratio should be 1."""


@dataclass
class Row:
    """One compile. Ratios are to a full one, the median of all rounds; `reason` says why there are no figures."""

    left_out: str
    ms: float | None = None
    ms_median: float | None = None
    ratio: float | None = None
    idle_ms: float | None = None
    idle_ratio: float | None = None
    work_share: float | None = None
    cache_bytes: int | None = None
    compile_s: float | None = None
    max_relative_error: float | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return {"pass": plain.pop("left_out"), **plain}


@dataclass(kw_only=True)
class Result(Measured):
    """All rows; the first is the control."""

    activity: float
    pattern: str
    rounds: int
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "rows": [row.to_json() for row in self.rows]}


class _Compiled:
    """A compiled net with a stream that is timed, and what an exact stream of it gave."""

    def __init__(self, compiler: Callable[[Sequence[str]], Net], without: Sequence[str], plan: Plan) -> None:
        began = time.perf_counter()
        net = compiler(without)
        self.compile_s = time.perf_counter() - began
        exact = Camera(net, plan.backend, plan.threads, Policy(), plan.seed)
        self.outputs: list[Array] = []
        for index, share in enumerate((1.0, plan.activities[0] / 100)):
            mask = draw(plan.patterns[0], exact.size, share, (plan.seed, 0, index))
            self.outputs += arrays(exact.see(exact.change(mask)))
        del exact
        self.camera = Camera(net, plan.backend, plan.threads, seed=plan.seed)
        self.camera.see(draw("blobs", self.camera.size, 1.0, (0,)))
        self.cache_bytes = cache_bytes(self.camera.stream, net.program)
        self.work: list[float] = []

    def runs(self, plan: Plan) -> tuple[Run, Run]:
        """A run at the plan's first activity and pattern, and an idle one."""

        def prepare(index: int) -> Mask:
            share, seed = plan.activities[0] / 100, (plan.seed, int(index < 0), abs(index))
            return self.camera.change(draw(plan.patterns[0], self.camera.size, share, seed))

        def idle(index: int) -> Mask:
            return self.camera.change(draw("blobs", self.camera.size, 0.0, (0,)))

        def after() -> None:
            self.work.append(float(self.camera.stream.stats.work_share))

        return Run(self.camera.see, prepare, after), Run(self.camera.see, idle)


def ablate(
    name: str,
    compiler: Callable[[Sequence[str]], Net],
    passes: Sequence[str],
    plan: Plan,
    *,
    on_row: Callable[[str, int], None] = lambda what, done: None,
) -> Result:
    """Compile with each pass left out in turn; what then fails is a row with a reason. Ctrl-C keeps what is done."""
    result = Result(
        model=name,
        threads=plan.threads,
        backend=plan.backend,
        activity=plan.activities[0],
        pattern=plan.patterns[0],
        rounds=plan.rounds,
    )
    with torch_threads(plan.threads):
        try:
            on_row(FULL, 0)
            full = _Compiled(compiler, (), plan)
            for count, left_out in enumerate((FULL, *passes)):
                on_row(left_out, count)
                without = () if left_out == FULL else (left_out,)
                try:
                    result.rows.append(_row(left_out, _Compiled(compiler, without, plan), plan, full))
                except Exception as error:  # one pass that cannot be spared must not end the table
                    result.rows.append(Row(left_out, reason=in_a_line(error)))
                gc.collect()
            on_row("", 1 + len(passes))
        except KeyboardInterrupt:
            result.interrupted = True
    return result


def _row(left_out: str, reduced: _Compiled, plan: Plan, full: _Compiled) -> Row:
    """Time one compile beside the full one."""
    (busy, idle), (full_busy, full_idle) = reduced.runs(plan), full.runs(plan)
    runs = {"busy": busy, "idle": idle, "full busy": full_busy, "full idle": full_idle}
    pause_s = SPINNING_S if plan.threads > 1 else 0.0
    if not take_turns(runs, plan.rounds, warmups=plan.warmups, seed=plan.seed, pause_s=pause_s):
        raise KeyboardInterrupt
    return Row(
        left_out=left_out,
        ms=busy.best_ms,
        ms_median=busy.median_ms,
        ratio=_ratio(busy, full_busy),
        idle_ms=idle.best_ms,
        idle_ratio=_ratio(idle, full_idle),
        work_share=sum(reduced.work) / len(reduced.work),
        cache_bytes=reduced.cache_bytes,
        compile_s=reduced.compile_s,
        max_relative_error=difference(reduced.outputs, full.outputs),
    )


def _ratio(reduced: Run, full: Run) -> float:
    return statistics.median(one / other for one, other in zip(reduced.ms, full.ms, strict=True))
