"""The page holds what it was given, asks nothing of the network, and survives odd numbers and hostile names."""

import datetime
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fluxcompile.runtime.report import (
    EMBEDDED_VIDEO_BYTES,
    PLOT_HEIGHT,
    PLOT_LEFT,
    PLOT_RIGHT,
    PLOT_TOP,
    PLOT_WIDTH,
    Layer,
    Picture,
    ReportError,
    Run,
    Setting,
    macs,
    percent,
    plot,
    render,
    small,
    write,
)

MADE = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)


def run_with(**changes: object) -> Run:
    parts: dict[str, object] = {
        "title": "Faces in a clip",
        "model": "net.flux",
        "clip": "street.mp4",
        "size": (288, 352),
        "settings": [
            Setting(name="dense", work_share=[1.0, 1.0, 1.0], agreement=1.0, max_error=0.0, ms_per_frame=70.0),
            Setting(name="exact", knobs="all", work_share=[1.0, 0.5, 0.25], agreement=0.9876, dense_frames=1),
        ],
        "layers": [
            Layer(name="stem.conv", op="aten.conv2d", domain="map /2", form="blocked", macs=12_300_000, share=0.31),
            Layer(name="head", op="aten.linear", domain="global", form="dense", macs=900, reason="has no place"),
        ],
        "pictures": [Picture(content=b"\xff\xd8picture", caption="frame 7")],
        "total_macs": 1_260_000_000,
        "blocked_mac_share": 0.97,
    }
    return Run(**(parts | changes))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a browser would fetch, which tags are open at the end, and the text."""

    VOID = frozenset({"meta", "img", "line", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_what_it_was_given() -> None:
    page = Page(render(run_with(), MADE))
    assert page.open == []
    shown = (
        "Faces in a clip",
        "net.flux",
        "street.mp4",
        "352 × 288",
        "1.26 GMACs",
        "58.3%",
        "0.988",
        "70.0",
        "stem.conv",
    )
    for text in (*shown, "12.3 M", "31.0%", "has no place", "frame 7", "2026-01-02 03:04"):
        assert text in page.text, text


def test_page_asks_nothing_of_the_network() -> None:
    page = render(run_with(video=b"\0" * 100, video_name="out.mp4"), MADE)
    found = Page(page)
    assert found.addresses
    assert all(address.startswith("data:") for address in found.addresses)
    assert not found.tags & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"@import|url\(|https?://", page)


def test_names_are_escaped() -> None:
    hostile = '<script>alert("x")</script>&'
    layers = [Layer(name=hostile, op=hostile, domain=hostile, form=hostile, macs=1, reason=hostile)]
    pictures = [Picture(content=b"x", caption=f'" onerror="{hostile}')]
    page = render(
        run_with(title=hostile, model=hostile, clip=hostile, notes=[hostile], layers=layers, pictures=pictures)
    )
    found = Page(page)
    assert "script" not in found.tags
    assert found.open == []
    assert hostile in found.text


def test_interrupted_run_says_so() -> None:
    assert "stopped before the end" in render(run_with(interrupted=True))
    assert "stopped before the end" not in render(run_with())


def test_large_video_is_named_not_embedded() -> None:
    page = render(run_with(video=bytes(EMBEDDED_VIDEO_BYTES + 1), video_name="long.mp4"))
    assert "<video" not in page
    assert "Video: long.mp4" in page


@pytest.mark.parametrize("changes", [{"layers": []}, {"pictures": []}, {"blocked_mac_share": None, "total_macs": 0}])
def test_parts_may_be_missing(changes: dict[str, object]) -> None:
    assert Page(render(run_with(**changes))).open == []


def test_a_single_frame_and_no_comparison() -> None:
    page = Page(render(run_with(settings=[Setting(name="exact", work_share=[1.0])])))
    assert "1 frame at" in page.text
    assert "nan" not in page.text.lower()


def test_no_settings() -> None:
    with pytest.raises(ReportError, match="at least one setting"):
        render(run_with(settings=[]))


def test_write_makes_the_folder(tmp_path: Path) -> None:
    assert write(run_with(), tmp_path / "a" / "b.html").read_text().startswith("<!doctype html>")
    with pytest.raises(ReportError, match="cannot be written"):
        write(run_with(), tmp_path / "a")


def test_plot_is_to_scale() -> None:
    drawn = plot([Setting(name="a", work_share=[0.0, 0.5, 1.0]), Setting(name="b", work_share=[])])
    (line,) = drawn.lines
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert points[0] == (PLOT_LEFT, drawn.bottom)
    assert points[2] == (PLOT_WIDTH - PLOT_RIGHT, PLOT_TOP)
    assert points[1] == pytest.approx(((points[0][0] + points[2][0]) / 2, (PLOT_TOP + drawn.bottom) / 2), abs=0.06)


def test_plot_grows_above_dense() -> None:
    """Halos can make a blocked frame dearer than a dense one: the curve stays inside the plot."""
    drawn = plot([Setting(name="a", work_share=[0.2, 1.6])])
    heights = [float(point.split(",")[1]) for point in drawn.lines[0].points.split()]
    assert all(PLOT_TOP <= height <= PLOT_HEIGHT for height in heights)


@pytest.mark.parametrize("count", [1, 2, 11, 120, 5000])
def test_plot_ticks_are_few_and_inside(count: int) -> None:
    ticks = plot([Setting(name="a", work_share=[0.5] * count)]).x_ticks
    assert 1 <= len(ticks) <= 13
    assert all(PLOT_LEFT <= x <= PLOT_WIDTH for x, _ in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0%"), (1.0, "100%"), (0.1234, "12.3%"), (0.0001, "< 0.1%"), (1.31, "131.0%"), (None, "–")],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1000, "1 k"), (12_345_678, "12.3 M"), (8 * 10**12, "8 T")]
)
def test_macs(value: int, text: str) -> None:
    assert macs(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1.26e-5, "1.3e-05"), (None, "–"), (float("inf"), "inf")])
def test_small(value: float | None, text: str) -> None:
    assert small(value) == text
