"""Windows against what real torch ops read, grids against where that lies, layouts against reshaped index tensors."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile.geometry import (
    Chain,
    Factor,
    Grid,
    Layout,
    global_layout,
    map_layout,
    near_pixels,
    own_pixels,
    parse_layout,
    strided_window,
    transposed_window,
)
from fluxcompile.passes.flow import Domain, WindowFlow, domain
from tests.helpers import placed

small = st.sampled_from


# --- windows ----------------------------------------------------------------------------------------------------------


def convs() -> st.SearchStrategy[nn.Module]:
    pair = st.tuples(small((1, 2, 3, 4)), small((1, 2, 3, 5)))
    plain = st.builds(nn.Conv2d, st.just(1), st.just(1), pair, small((1, 2, 3)), small((0, 1, 2)), small((1, 2)))
    same = st.builds(lambda k, d: nn.Conv2d(1, 1, k, 1, "same", d), pair, small((1, 2)))
    return plain | same


def transposed() -> st.SearchStrategy[nn.Module]:
    pair = st.tuples(small((1, 2, 3, 4)), small((2, 3)))
    extra = small((0, 1))
    return st.builds(
        lambda k, s, p, o, d: nn.ConvTranspose2d(1, 1, k, s, p, min(o, max(s, d) - 1), dilation=d),
        pair, small((1, 2, 3)), small((0, 1)), extra, small((1, 2)),
    )  # fmt: skip


def pools() -> st.SearchStrategy[nn.Module]:
    sizes = small((2, 3, 4)), small((1, 2, 3)), small((0, 1))
    most = st.builds(lambda k, s, p, d, c: nn.MaxPool2d(k, s, p, d, ceil_mode=c), *sizes, small((1, 2)), st.booleans())
    mean = st.builds(nn.AvgPool2d, *sizes, st.booleans(), st.booleans())
    kind, out = small((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)), st.tuples(small((2, 3, 5)), small((2, 4, 6)))
    return most | mean | st.builds(lambda make, size: make(size), kind, out)


def resizes() -> st.SearchStrategy[nn.Module]:
    plain = small(("nearest", "nearest-exact", "bilinear", "bicubic"))
    scale, size = small((2, 3, 1.5, 0.5, 1.3)), st.tuples(small((3, 8, 16)), small((5, 7, 20)))
    return (
        st.builds(lambda m, s: nn.Upsample(scale_factor=s, mode=m), plain, scale)
        | st.builds(lambda m, s: nn.Upsample(size=s, mode=m), plain, size)
        | st.builds(lambda m, s: nn.Upsample(s, None, m, align_corners=True), small(("bilinear", "bicubic")), size)
    )


def flow_of(model: nn.Module, h: int, w: int) -> tuple[WindowFlow, Domain]:
    """What `infer_domains` says of a model of one window op."""
    module = placed(model, (1, 1, h, w))
    node = next(n for n in module.graph.nodes if n.op == "call_function")
    flow = domain(node).flow
    assert isinstance(flow, WindowFlow)
    return flow, domain(node)


def response(model: nn.Module, h: int, w: int) -> Tensor:
    """How much each output (y, x) changes with each input: [out_h, out_w, h, w]."""
    model = model.double()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(1.0)
        base = torch.rand(1, 1, h, w, dtype=torch.float64)
        bumps = torch.eye(h * w, dtype=torch.float64).view(h * w, 1, h, w) * 1000
        change = model(base + bumps) - model(base)
    return change[:, 0].permute(1, 2, 0).reshape(*change.shape[2:], h, w)


def said(flow: WindowFlow) -> Tensor:
    """Which inputs each output reads, as the windows say: bool [out_h, out_w, h, w]."""
    axes = []
    for window in (flow.y, flow.x):
        reads = torch.zeros(window.n_out, window.n_in, dtype=torch.bool)
        for i, taps in enumerate(window.reads):
            reads[i, [t for t in taps if t >= 0]] = True
        axes.append(reads)
    return axes[0][:, None, :, None] & axes[1][None, :, None, :]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(convs() | transposed() | pools() | resizes(), small(((9, 9), (8, 11), (13, 10))))
def test_windows_are_what_ops_read(model: nn.Module, size: tuple[int, int]) -> None:
    flow, found = flow_of(model, *size)
    got = response(model, *size)
    assert torch.equal(said(flow), got.abs() > 1e-9)
    assert found.layout.grid == Grid(*size).window(flow.y, flow.x)
    assert found.layout.shape[2:] == tuple(got.shape[:2])


def test_a_wrong_window_is_seen() -> None:
    """The control of the test above."""
    right = strided_window(9, 9, 3, 1, 1)
    wrong = strided_window(9, 9, 3, 1, 0)
    flow, _ = flow_of(nn.Conv2d(1, 1, 3, padding=1), 9, 9)
    assert flow.y == right
    assert not torch.equal(said(WindowFlow(flow.source, flow.layout, wrong, right)), said(flow))


@pytest.mark.parametrize(
    ("window", "reads", "ratio", "offset"),
    [
        (strided_window(4, 4, 3, 1, 1), ((-1, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, -1)), 1, 0),
        (strided_window(4, 2, 3, 2, 1), ((-1, 0, 1), (1, 2, 3)), 2, 0),
        (strided_window(5, 3, 2, 2), ((0, 1), (2, 3), (4, -1)), 2, Fraction(1, 2)),  # ceil mode
        (strided_window(4, 2, 2, 1, 0, 2), ((0, 2), (1, 3)), 1, 1),
        (transposed_window(2, 4, 2, 2), ((0, -1), (-1, 0), (1, -1), (-1, 1)), Fraction(1, 2), Fraction(-1, 4)),
    ],
)
def test_windows_by_hand(window: Any, reads: Any, ratio: Fraction, offset: Fraction) -> None:
    assert (window.reads, window.ratio, window.offset) == (reads, ratio, offset)
    assert window.table().tolist() == [list(r) for r in reads]


LINEAR = {
    "conv": (nn.Conv2d(1, 1, (3, 4), 2, 1), 0),
    "even conv, dilated": (nn.Conv2d(1, 1, 2, dilation=3), 0),
    "mean": (nn.AvgPool2d(3, 2), 0),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), 0),
    "bilinear, by 1.5": (nn.Upsample(scale_factor=1.5, mode="bilinear"), 0),
    "corners": (nn.Upsample((31, 45), mode="bilinear", align_corners=True), 0),
    "nearest": (nn.Upsample(scale_factor=3), Fraction(1, 2)),
    "transposed": (nn.ConvTranspose2d(1, 1, 3, 2, 1), 0),
    "transposed, even": (nn.ConvTranspose2d(1, 1, 4, 2, 1), Fraction(1, 4)),
    "adaptive, even": (nn.AdaptiveAvgPool2d((8, 10)), 0),
    "adaptive, uneven": (nn.AdaptiveAvgPool2d((7, 9)), Fraction(1, 2)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_cell_lies_where_it_reads(name: str) -> None:
    """The centre a grid gives a cell is the centroid of its reads, off the edges of the map."""
    model, off = LINEAR[name]
    _, found = flow_of(model, 24, 20)
    weights = response(model, 24, 20)
    for axis, (scale, origin) in enumerate(zip(found.layout.grid.scale, found.layout.grid.origin, strict=True)):
        at = torch.arange(weights.shape[2 + axis], dtype=torch.float64)
        moments = (weights * (at[:, None] if axis == 0 else at)).sum((2, 3))
        centroid = (moments / weights.sum((2, 3))).select(1 - axis, 3)
        centre = torch.arange(centroid.numel()) * float(scale) + float(origin)
        assert (centroid - centre)[2:-2].abs().max() <= float(off) + 1e-5  # torch resizes with float32 weights


# --- grids ------------------------------------------------------------------------------------------------------------


def test_grids_refine_and_coarsen() -> None:
    grid = Grid(8, 12, (Fraction(2), Fraction(4)), (Fraction(1, 2), Fraction(3, 2)))
    assert grid.coarser(4, 2) == Grid(2, 6, (Fraction(8), Fraction(8)), (Fraction(7, 2), Fraction(7, 2)))
    assert grid.coarser(4, 2).finer(4, 2) == grid
    assert grid.finer(2, 3).coarser(2, 3) == grid
    assert str(grid) == "8x12 /2,4 +1/2,3/2"


def test_turned_grids_say_so() -> None:
    turned = Grid(8, 8, turn=(2, 4))
    assert str(turned) == "8x8 /1 +0 turned 2,4"
    assert turned.coarser(2, 2).turn == (1, 2)
    assert turned.coarser(4, 4).turn != (0, 1)  # rolled by half a cell: it lies nowhere else exactly, so it is turned
    assert turned.finer(2, 2).turn == (4, 8)


# --- layouts ----------------------------------------------------------------------------------------------------------


def index_of(layout: Layout) -> Any:
    """The row of every element."""
    return np.broadcast_to(layout.row_index(), layout.shape)


@st.composite
def factored(draw: st.DrawFn, total: int) -> tuple[int, ...]:
    """A random shape of `total` elements."""
    shape: list[int] = []
    while total > 1 and len(shape) < 6:
        part = draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
        shape.append(part)
        total //= part
    return (*shape, total) if total > 1 or not shape else tuple(shape)


@st.composite
def regrouped(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that splits or joins neighbours: what models do, so most of it can be said."""
    kind = draw(small(("split", "join", "any")))
    at = draw(st.integers(0, len(shape) - 1))
    if kind == "split":
        part = draw(st.sampled_from([d for d in range(1, shape[at] + 1) if shape[at] % d == 0]))
        return (*shape[:at], shape[at] // part, part, *shape[at + 1 :])
    if kind == "join" and at + 1 < len(shape):
        return (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
    return draw(factored(math.prod(shape)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_layouts_follow_reshapes_and_permutes(data: st.DataObject) -> None:
    h, w, c = data.draw(small((4, 6, 8))), data.draw(small((4, 6, 9))), data.draw(small((1, 3, 12)))
    layout: Layout = map_layout((1, c, h, w), 2, 3)
    index = np.broadcast_to(np.arange(h * w).reshape(1, 1, h, w), (1, c, h, w))
    assert (index_of(layout) == index).all()
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(index.ndim)))
            layout, index = layout.permute(order), index.transpose(order)
        else:
            shape = data.draw(regrouped(index.shape))
            found = layout.reshape(shape)
            assume(found is not None)
            assert found is not None
            layout, index = found, index.reshape(shape)
        assert layout.shape == index.shape
        assert (index_of(layout) == index).all()
        assert str(parse_layout(str(layout))) == str(layout)
        assert (parse_layout(str(layout)).row_index() == layout.row_index()).all()


@pytest.mark.parametrize(
    ("steps", "text", "kind"),
    [
        (((1, 8, 6, 80, 60),), "1 8 6 y80 x60", "map"),
        (((1, 48, 4800),), "1 48 y80.x60", "tokens"),
        (((1, 48, 8, 10, 6, 10), [0, 2, 4, 3, 5, 1], (48, 100, 48)), "y8:10.x6:10 y10.x10 48", "tokens"),
        (((1, 48, 40, 2, 30, 2), [0, 1, 3, 5, 2, 4], (1, 192, 40, 30)), "1 48.y2.x2 y40:2 x30:2", "tokens"),
        (((12, 2, 2, 80, 60), [0, 3, 1, 4, 2], (1, 12, 160, 120)), "1 12 y80.2 x60.2", "tokens"),
        (([0, 3, 2, 1],), "1 x60 y80 48", "map"),
    ],
)
def test_what_models_do_can_be_said(steps: Any, text: str, kind: str) -> None:
    layout: Layout | None = map_layout((1, 48, 80, 60), 2, 3)
    for step in steps:
        assert layout is not None
        layout = layout.permute(step) if isinstance(step, list) else layout.reshape(step)
    assert layout is not None
    assert (str(layout), layout.kind) == (text, kind)


def test_what_cuts_across_the_map_cannot() -> None:
    assert map_layout((1, 3, 8, 6), 2, 3).reshape((1, 3, 16, 3)) is not None
    assert map_layout((1, 3, 8, 6), 2, 3).reshape((1, 3, 12, 4)) is None
    chained = Layout(Grid(1, 1), ((), Chain(((1, None), (4, Grid(2, 2)))), (Factor("", 8),)))
    assert chained.reshape((1, 5, 2, 4)) is not None
    assert chained.reshape((1, 40)) is None


def test_chains() -> None:
    layout = parse_layout("1 (1+14x14+7x7) 384")
    assert str(layout) == "1 (1+14x14+7x7) 384"
    assert layout.rows == 1 + 196 + 49
    assert layout.row_index().reshape(-1).tolist() == list(range(246))
    assert (layout.kind, global_layout((1, 5)).kind) == ("tokens", "global")


@pytest.mark.parametrize("text", ["1 z4", "1 y", "1 y4.x4q", "y4:"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no factor"):
        parse_layout(text)


def centres(layout: Layout, dim: int, axis: int) -> Any:
    """The frame coordinate of each index of a dimension: the mean over the rows its elements belong to."""
    row = index_of(layout)
    at = row // layout.grid.w if axis == 0 else row % layout.grid.w
    others = tuple(i for i in range(row.ndim) if i != dim)
    return at.mean(axis=others) * float(layout.grid.scale[axis]) + float(layout.grid.origin[axis])


@pytest.mark.parametrize(
    ("text", "y", "x"),
    [
        ("1 48.y2.x2 y40:2 x30:2", 2, 3),  # space to depth: cells become coarser
        ("1 y16:4 x8:4 y4.x4.3", 1, 2),  # patches
        ("1 8 y16 x8", 2, 3),
        ("1 x8 y16 8", 2, 1),
    ],
)
def test_coarser_maps_lie_over_their_cells(text: str, y: int, x: int) -> None:
    layout = parse_layout(text)
    found = layout.as_map(y, x)
    assert found is not None
    assert found.map_dims == (y, x)
    for axis, dim in enumerate((y, x)):
        size = layout.shape[dim]
        want = np.arange(size) * float(found.grid.scale[axis]) + float(found.grid.origin[axis])
        np.testing.assert_allclose(centres(layout, dim, axis), want)


@pytest.mark.parametrize("text", ["1 12 y16.2 x8.2", "1 12 y16.4 x8.4", "1 12 y16.3 x8"])
def test_finer_maps_lie_within_their_cells(text: str) -> None:
    """The sub-cells of a cell share its row; their centres surround the cell's."""
    layout = parse_layout(text)
    found = layout.as_map(2, 3)
    assert found is not None
    for axis, dim in enumerate((2, 3)):
        fine = np.arange(layout.shape[dim]) * float(found.grid.scale[axis]) + float(found.grid.origin[axis])
        rows = centres(layout, dim, axis)
        for row in np.unique(rows):
            assert fine[rows == row].mean() == pytest.approx(row)


@pytest.mark.parametrize(
    ("text", "y", "x"),
    [
        ("1 y8.x8 64", 0, 1),
        ("1 y8.x8 64", 1, 2),
        ("y4:2.x4:2 y2.x2 8", 0, 1),
        ("1 2.y16 x8", 1, 2),
        ("1 y4:2 x8", 1, 2),
    ],
)
def test_tokens_are_no_map(text: str, y: int, x: int) -> None:
    assert parse_layout(text).as_map(y, x) is None


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("1 y4:4 x4:4 8", "1 y4 x4 8"),  # the places within were mixed away
        ("y4:2.x4:2 8", "y4.x4 8"),
        ("1 y4:2.x4:2 y2.x2", "1 y4:2.x4:2 y2.x2"),
        ("1 8 y4", "1 8 y4"),
        ("y2:4 y2", None),  # rows 0, 1, 4 and 5 are no grid
    ],
)
def test_simplified_keeps_who_shares_a_row(text: str, simple: str | None) -> None:
    plain = parse_layout(text)
    extent = {a: max((f.step * f.size for _, f in plain.factors() if f.axis == a), default=1) for a in "yx"}
    layout = Layout(Grid(extent["y"], extent["x"]), plain.dims)
    found = layout.simplified()
    assert (found and str(found)) == simple
    if found is not None:
        assert (
            len(set(index_of(found).reshape(-1)))
            == found.rows
            == math.prod(f.size for _, f in plain.factors() if f.axis)
        )


@pytest.mark.parametrize(
    ("cells", "pixels", "scale", "first", "middle"),
    [
        (8, 64, 8, (0, 8), (32, 40)),
        (4, 64, 16, (0, 16), (32, 48)),
        (4, 128, 32, (0, 40), (56, 104)),  # a quarter of each neighbour
        (4, 256, 64, (0, 80), (112, 208)),
        (1, 32, 32, (0, 32), None),
    ],
)
def test_large_cells_follow_more_than_their_own(cells: int, pixels: int, scale: int, first: Any, middle: Any) -> None:
    spans = list(zip(*near_pixels(cells, pixels, float(scale), (scale - 1) / 2), strict=True))
    assert spans[0] == first
    assert middle is None or spans[cells // 2] == middle
    own = list(zip(*own_pixels(cells, pixels, float(scale), (scale - 1) / 2), strict=True))
    assert [high for _, high in own[:-1]] == [low for low, _ in own[1:]]  # these part the frame
    assert all(low <= a < b <= high for (low, high), (a, b) in zip(spans, own, strict=True))
