"""One run as one HTML page: no script, no font, no address, so that it opens anywhere, offline, years later.

The page is made from plain data (`Run` and its parts); numbers are formatted here, laid out in report.html.
"""

import base64
import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fluxcompile.errors import FluxError

EMBEDDED_VIDEO_BYTES = 8 << 20
"""A larger video is left out of the page and only named."""

PLOT_WIDTH, PLOT_HEIGHT = 880, 260
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 52, 12, 12, 36


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


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated frame, encoded."""

    content: bytes
    caption: str
    mime: str = "image/jpeg"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All that a page shows."""

    title: str
    model: str
    clip: str
    size: tuple[int, int]
    settings: list[Setting]
    layers: list[Layer] = []
    layers_setting: str = ""
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
        plot=plot(run.settings),
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


class Line(msgspec.Struct, frozen=True):
    """A setting's curve, ready to be drawn."""

    name: str
    color: int
    points: str
    label: str


class Plot(msgspec.Struct, frozen=True):
    """The timeline: pixel coordinates only."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    lines: list[Line]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]


def plot(settings: Sequence[Setting]) -> Plot:
    """Return the work share of each frame as curves from 0 to 100 %; a share may exceed it, and the axis then grows."""
    count = max(2, *(len(setting.work_share) for setting in settings), 2)
    top = max(1.0, *(share for setting in settings for share in setting.work_share), 1.0)
    inner_width, inner_height = PLOT_WIDTH - PLOT_LEFT - PLOT_RIGHT, PLOT_HEIGHT - PLOT_TOP - PLOT_BOTTOM

    def x_of(frame: float) -> float:
        return round(PLOT_LEFT + inner_width * frame / (count - 1), 1)

    def y_of(share: float) -> float:
        return round(PLOT_TOP + inner_height * (1 - share / top), 1)

    lines = [
        Line(
            setting.name,
            index % 5,
            " ".join(f"{x_of(frame)},{y_of(share)}" for frame, share in enumerate(setting.work_share)),
            f"{setting.name}: mean {percent(setting.mean_share)}",
        )
        for index, setting in enumerate(settings)
        if setting.work_share
    ]
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if count / step <= 12)
    return Plot(
        PLOT_WIDTH,
        PLOT_HEIGHT,
        PLOT_LEFT,
        PLOT_WIDTH - PLOT_RIGHT,
        PLOT_HEIGHT - PLOT_BOTTOM,
        lines,
        [(y_of(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1.0)],
        [(x_of(frame), str(frame)) for frame in range(0, count, step)],
    )
