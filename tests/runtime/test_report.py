"""The page holds what it was given, asks nothing of the network, and survives odd numbers and hostile names."""

import datetime
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fluxcompile.runtime.overlay import CAUSES
from fluxcompile.runtime.plots import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, Stack, chart, curves
from fluxcompile.runtime.report import (
    EMBEDDED_VIDEO_BYTES,
    SLOWEST,
    Layer,
    Picture,
    ReportError,
    Run,
    Setting,
    Timeline,
    chart_of,
    macs,
    percent,
    render,
    small,
    times,
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


def timeline(**changes: object) -> Timeline:
    parts: dict[str, object] = {
        "causes": {cause: [0.0] * 4 for cause in CAUSES}
        | {"dense": [1.0, 0, 0, 0], "hit": [0, 0.5, 0.75, 1.0], "salient": [0, 0.5, 0.25, 0]},
        "ms": [30.0, 12.0, 8.0, 2.0],
        "dense_ms": 30.0,
        "agreement": [1.0, 0.93, None, 0.97],
        "marks": {"dense": [0], "anchor": [], "roll": [2, 3]},
    }
    return Timeline(**(parts | changes))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a browser would fetch, which tags are open at the end, and the text."""

    VOID = frozenset({"meta", "img", "line", "br", "link", "rect", "polyline"})

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
    page = render(run_with(video=b"\0" * 100, video_name="out.mp4", timeline=timeline()), MADE)
    found = Page(page)
    assert found.addresses
    assert all(address.startswith("data:") for address in found.addresses)
    assert not found.tags & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"@import|url\((?!#)|https?://", page)


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


def test_page_shows_the_timeline() -> None:
    page = Page(
        render(run_with(timeline=timeline(), layers_setting="exact", layer_ms={"stem.conv": 3.0, "motion": 1.0}))
    )
    assert page.open == []
    for text in (
        "Timeline of “exact”",
        "hit 56.2%",
        "salient 18.8%",
        "dense 25.0%",
        "of this stream, 30.0",
        "caches rolling",
        "motion",
        "75.0%",
        "25.0%",
    ):
        assert text in page.text, text
    for text in ("stale 0%", "edge 0%"):  # what never happened is not named
        assert text not in page.text, text
    assert "Timeline" not in Page(render(run_with())).text


def test_chart_is_to_scale() -> None:
    drawn = chart_of(timeline(), "F1")
    blocks, agreement, ms = drawn.panels
    salient, dense, hit = blocks.areas
    assert [area.name for area in blocks.areas] == ["salient", "dense", "hit"]
    assert (blocks.title, blocks.y_ticks[-1]) == ("Blocks by what became of them, up to 60%", (blocks.top, "60%"))
    side = (WIDTH - LEFT - RIGHT) / 4
    height = blocks.top + (blocks.bottom - blocks.top) * (1 - 0.5 / 0.6)
    corners = [tuple(map(float, corner.split(","))) for corner in salient.points.split()]
    assert corners[:4] == [
        (LEFT, blocks.bottom),
        (LEFT + side, blocks.bottom),
        (LEFT + side, pytest.approx(height, abs=0.06)),
        (LEFT + 2 * side, pytest.approx(height, abs=0.06)),
    ]
    assert dense.points.split()[:3] == [
        f"{LEFT}.0,{blocks.top}",
        f"{LEFT + side},{blocks.top}",
        f"{LEFT + side},{corners[3][1]}",
    ]
    assert hit.points.split()[:2] == [f"{LEFT}.0,{blocks.top}", f"{WIDTH - RIGHT}.0,{blocks.top}"]
    assert [len(piece.split()) for piece in agreement.lines] == [2, 2]  # a gap; then a point alone, drawn as a dot
    assert ms.level == ms.top
    (line,) = ms.lines
    assert line.split()[0] == f"{LEFT + side / 2},{ms.top}"
    (dense_rug, roll) = drawn.rugs
    assert (dense_rug.name, dense_rug.marks) == ("dense", [LEFT + side / 2])
    assert roll.marks == [LEFT + 2.5 * side, LEFT + 3.5 * side]
    assert blocks.bottom < dense_rug.y < roll.y < agreement.top
    assert all(top.bottom < below.top for top, below in zip(drawn.panels, drawn.panels[1:], strict=False))


@pytest.mark.parametrize(("miss", "high"), [(0.03, 0.04), (0.13, 0.2), (0.8, 0.8), (0.81, 1.0), (1.0, 1.0)])
def test_the_axis_ends_above_what_is_missed(miss: float, high: float) -> None:
    causes = {"hit": [0.0, 1 - miss], "edge": [0.0, miss], "dense": [1.0, 0.0]}
    drawn = chart_of(timeline(causes=causes, ms=[], agreement=[], marks={"dense": [0]}), "F1")
    assert drawn.panels[0].y_ticks[-1][1] == f"{high:.0%}"


def test_chart_of_no_comparison_and_no_times() -> None:
    assert len(chart_of(timeline(agreement=[], ms=[]), "F1").panels) == 1
    assert len(chart_of(timeline(agreement=[None] * 4), "F1").panels) == 2


@pytest.mark.parametrize("count", [1, 2, 120, 5000])
def test_chart_of_any_length_is_inside(count: int) -> None:
    drawn = chart(Stack("t", {"hit": [1.0] * count}, {"hit": "hit"}), [Series("ms", [3.0] * count, 0, 5, "{:g}")], {})
    assert len(drawn.x_ticks) <= 13
    xs = [float(point.split(",")[0]) for point in drawn.panels[0].areas[0].points.split()]
    assert (min(xs), max(xs)) == (LEFT, WIDTH - RIGHT)


def test_times_are_shares_slowest_first() -> None:
    assert times({"a": 1.0, "b": 3.0}) == [("b", 0.75), ("a", 0.25)]
    many = times({f"layer{k}": 1.0 for k in range(SLOWEST + 8)})
    assert len(many) == SLOWEST + 1
    assert many[-1] == ("8 others", pytest.approx(8 / (SLOWEST + 8)))
    assert times({}) == times({"a": 0.0}) == []


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


def test_curves_are_to_scale() -> None:
    drawn = curves({"a": [0.0, 0.5, 1.0], "b": []}, {"a": "a"})
    (line,) = drawn.lines
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert points[0] == (LEFT, drawn.bottom)
    assert points[2] == (WIDTH - RIGHT, TOP)
    assert points[1] == pytest.approx(((points[0][0] + points[2][0]) / 2, (TOP + drawn.bottom) / 2), abs=0.06)


def test_curves_grow_above_dense() -> None:
    """Halos can make a blocked frame dearer than a dense one: the curve stays inside the plot."""
    drawn = curves({"a": [0.2, 1.6]}, {"a": "a"})
    heights = [float(point.split(",")[1]) for point in drawn.lines[0].points.split()]
    assert all(TOP <= height <= HEIGHT for height in heights)


@pytest.mark.parametrize("count", [1, 2, 11, 120, 5000])
def test_curves_ticks_are_few_and_inside(count: int) -> None:
    ticks = curves({"a": [0.5] * count}, {"a": "a"}).x_ticks
    assert 1 <= len(ticks) <= 13
    assert all(LEFT <= x <= WIDTH for x, _ in ticks)


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
