"""One run as one HTML page: no script, no font, no address, so that it opens anywhere, offline, years later.

The page is made from plain data (`Run` and its parts); numbers are formatted here, laid out in report.html, and drawn
with the coordinates of plots.py.
"""

import base64
import datetime
import math
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fluxcompile.errors import FluxError
from fluxcompile.runtime import plots
from fluxcompile.runtime.overlay import TINTS

EMBEDDED_VIDEO_BYTES = 8 << 20
"""A larger video is left out of the page and only named."""

SLOWEST = 12
"""Layers whose time has a row of its own."""


AXES = (0.04, 0.08, 0.2, 0.4, 0.6, 0.8)
"""Where the axis of blocks may end; hits fill what is above, and dense frames are cut."""


class ReportError(FluxError):
    """A report cannot be made: a part is missing, or the page cannot be written."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the comparison: a policy played over the clip.

    work_share: work done over work of dense inference, frame by frame.
    agreement: 1 is "as dense"; the Run says what it measures. None where there was nothing to compare.
    ms_per_frame: wall clock; None where it was not measured.
    """

    name: str
    knobs: str = ""
    work_share: list[float]
    agreement: float | None = None
    max_error: float | None = None
    ms_per_frame: float | None = None
    dense_frames: int = 0

    @property
    def mean_share(self) -> float:
        return sum(self.work_share) / len(self.work_share) if self.work_share else 0.0


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `explain()`; `share` is the layer's mean work over its dense work, None where it was not measured."""

    name: str
    op: str
    domain: str
    form: str
    macs: int
    share: float | None = None
    reason: str = ""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What one setting did, frame by frame.

    causes: for each cause the share of blocks that it had; together they are 1.
    agreement: as the Run's, None where a frame had nothing to compare; empty where nothing was compared.
    dense_ms: a dense frame of the same stream, the fastest; None where it had none.
    marks: the frames in which something happened, by what it was.
    """

    causes: dict[str, list[float]]
    ms: list[float] = []
    dense_ms: float | None = None
    agreement: list[float | None] = []
    marks: dict[str, list[int]] = {}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated frame, encoded."""

    content: bytes
    caption: str
    mime: str = "image/jpeg"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All that a page shows; the timeline and the layers are those of one setting, `layers_setting`.

    layer_ms: time spent in each layer, or in what is none, over all frames.
    """

    title: str
    model: str
    clip: str
    size: tuple[int, int]
    settings: list[Setting]
    layers: list[Layer] = []
    layers_setting: str = ""
    layer_ms: dict[str, float] = {}
    timeline: Timeline | None = None
    pictures: list[Picture] = []
    video: bytes = b""
    video_name: str = ""
    total_macs: int = 0
    blocked_mac_share: float | None = None
    agreement_name: str = "agreement"
    agreement_note: str = ""
    notes: list[str] = []
    interrupted: bool = False


def write(run: Run, path: str | Path) -> Path:
    """Write the page of a run; its folder is made."""
    target = Path(path)
    page = render(run)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{target}: cannot be written: {error.strerror or error}") from None
    return target


def render(run: Run, made: datetime.datetime | None = None) -> str:
    """Return the page of a run; `made` is the time it shows, now unless given."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ReportError("a report needs jinja2: pip install 'fluxcompile[report]'") from None
    if not run.settings:
        raise ReportError(f"{run.title}: a report needs at least one setting")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(percent=percent, macs=macs, small=small, data_url=data_url)
    made = made or datetime.datetime.now().astimezone()
    return environment.get_template("report.html").render(
        run=run,
        frames=max(len(setting.work_share) for setting in run.settings),
        plot=plots.curves(
            {setting.name: setting.work_share for setting in run.settings},
            {setting.name: f"{setting.name}: mean {percent(setting.mean_share)}" for setting in run.settings},
        ),
        chart=chart_of(run.timeline, run.agreement_name) if run.timeline else None,
        tints={cause: "#{:02x}{:02x}{:02x}".format(*tint.colour) for cause, tint in TINTS.items()},
        hatched=[cause for cause, tint in TINTS.items() if tint.hatched],
        times=times(run.layer_ms),
        slowest=SLOWEST,
        time_shares=time_shares(run.layer_ms),
        layers_have_share=any(layer.share is not None for layer in run.layers),
        biggest_macs=max((layer.macs for layer in run.layers), default=1) or 1,
        video=data_url(run.video, "video/mp4") if 0 < len(run.video) <= EMBEDDED_VIDEO_BYTES else "",
        made=made.strftime("%Y-%m-%d %H:%M %Z"),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def percent(value: float | None) -> str:
    """Return 0.1234 as "12.3%"; a share that is small but not 0 never reads as 0."""
    if value is None:
        return "\N{EN DASH}"
    if 0 < value < 0.0005:
        return "< 0.1%"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def macs(value: int) -> str:
    """Return a count of multiply-adds with the unit that keeps it short."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}" if value < 1000 * unit else f"{value / unit:.0f} {name}"
    return str(value)


def small(value: float | None) -> str:
    """Return an error in scientific notation, 0 as 0."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.1e}" if value else "0"


def data_url(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def chart_of(timeline: Timeline, agreement_name: str) -> plots.Chart:
    """The timeline: blocks by cause, what happened, agreement, time."""
    labels = {
        cause: f"{cause} {percent(sum(shares) / len(shares))}" for cause, shares in timeline.causes.items() if shares
    }
    hits = timeline.causes.get("hit", [])
    dense = set(timeline.marks.get("dense", []))
    most = max((1 - hit for frame, hit in enumerate(hits) if frame not in dense), default=1.0)
    high = next((high for high in AXES if most <= high), 1.0)
    cut = f", up to {high:.0%}" if high < 1 else ""
    parts = {cause: shares for cause, shares in timeline.causes.items() if cause != "hit"} | {"hit": hits}
    stack = plots.Stack(f"Blocks by what became of them{cut}", parts, labels, high)
    known = [value for value in timeline.agreement if value is not None]
    series = []
    if known:
        least = min(0.9, math.floor(10 * max(0.0, min(known))) / 10)
        title = f"Agreement with dense inference ({agreement_name})"
        series.append(plots.Series(title, timeline.agreement, least, 1.0, "{:.2f}"))
    if timeline.ms:
        most = _round_up(max([*timeline.ms, timeline.dense_ms or 0.0]))
        beside = f"; dashed: a dense frame of this stream, {timeline.dense_ms:.1f}" if timeline.dense_ms else ""
        series.append(plots.Series(f"Milliseconds{beside}", timeline.ms, 0.0, most, "{:g}", timeline.dense_ms))
    return plots.chart(stack, series, timeline.marks)


def times(layer_ms: Mapping[str, float]) -> list[tuple[str, float]]:
    """The share of time of each of the slowest layers, then that of all others together."""
    found = sorted(time_shares(layer_ms).items(), key=lambda pair: -pair[1])
    rest = found[SLOWEST:]
    return found[:SLOWEST] + ([(f"{len(rest)} others", sum(share for _, share in rest))] if rest else [])


def time_shares(layer_ms: Mapping[str, float]) -> dict[str, float]:
    """The share of time of each layer."""
    whole = sum(layer_ms.values())
    return {name: ms / whole for name, ms in layer_ms.items()} if whole else {}


def _round_up(value: float) -> float:
    """The next number of one or two digits that an axis may end with."""
    if value <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(value))
    return next(float(k * step) for k in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if k * step >= value)
