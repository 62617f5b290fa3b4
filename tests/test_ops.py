"""The op table: every row over its samples, fakes against references, references against loops that say the same."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from fluxcompile.geometry import parse_layout, strided_window
from fluxcompile.ops import TABLE, gate_by_mean, row_index
from tests.helpers import assert_matches
from tests.kernels.compare import passed_by_mean

SAMPLES = [pytest.param(op, s, id=f"{op.name}-{i}") for op in TABLE.values() for i, s in enumerate(op.samples())]
op = {name: row.reference for name, row in TABLE.items()}
few = settings(max_examples=60, deadline=None, derandomize=True)


def types(values: Any) -> Any:
    return pytree.tree_map(lambda v: (v.dtype, tuple(v.shape)) if isinstance(v, Tensor) else v, values)


def faked(row: Any, sample: Sequence[Any]) -> Any:
    with FakeTensorMode() as mode:
        fakes = pytree.tree_map(lambda v: mode.from_tensor(v) if isinstance(v, Tensor) else v, tuple(sample))
        return types(row.overload(*fakes))


# --- every row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "sample"), SAMPLES)
def test_a_row_runs_and_changes_nothing(row: Any, sample: Sequence[Any]) -> None:
    before = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, tuple(sample))
    found = row.reference(*sample)
    assert_matches(row.overload(*sample), found)
    assert_matches(tuple(sample), before)
    assert len(row.overload._schema.returns) == (len(found) if isinstance(found, tuple) else 1)


@pytest.mark.parametrize(("row", "sample"), SAMPLES)
def test_a_row_makes_tensors_where_its_operands_lie(row: Any, sample: Sequence[Any]) -> None:
    """A tensor made without a device would be of the default one here, which holds no values and mixes with no other."""
    with torch.device("meta"):
        found = row.reference(*sample)
    assert_matches(found, row.reference(*sample))


def test_a_tensor_of_the_default_device_is_seen() -> None:
    with torch.device("meta"), pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device="cpu")[torch.arange(3)] + torch.zeros(3)


@pytest.mark.parametrize(("row", "sample"), SAMPLES)
def test_a_fake_is_the_shape_when_all_missed(row: Any, sample: Sequence[Any]) -> None:
    if row.name in ("tiles", "rows"):
        sample = (sample[0], torch.tensor(True), *sample[2:])
    assert faked(row, sample) == types(row.reference(*sample))


def test_every_row_has_samples_and_a_sentence() -> None:
    for row in TABLE.values():
        assert list(row.samples()), row.name
        assert row.reference.__doc__, row.name
        names = [a.name for a in row.overload._schema.arguments]
        assert names == list(row.reference.__code__.co_varnames[: len(names)]), row.name


# --- misses -----------------------------------------------------------------------------------------------------------


def masks(rows: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.booleans(), min_size=rows, max_size=rows).map(torch.tensor)


def cells(h: int, w: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(h), range(w))


def test_miss_input_by_hand() -> None:
    old = torch.zeros(1, 2, 1, 4)
    new = torch.tensor([[[[0.0, 1.0, -2.0, float("nan")]], [[0.0, 0.0, 0.0, 0.0]]]])

    def miss(threshold: float, fresh: bool = False) -> list[bool]:
        found = op["miss_input"](new, old, torch.tensor(fresh), torch.tensor(threshold), "1 2 1 x4")
        return found.tolist()  # type: ignore[no-any-return]

    assert miss(0.0) == [False, True, True, True]
    assert miss(1.0) == [False, False, True, True]  # what cannot be compared has changed
    assert miss(9.0, fresh=True) == [True] * 4


def test_miss_input_of_grey_levels_does_not_wrap() -> None:
    new, old = torch.tensor([[[250]]], dtype=torch.uint8), torch.tensor([[[5]]], dtype=torch.uint8)
    for a, b in ((new, old), (old, new)):
        assert op["miss_input"](a, b, torch.tensor(False), torch.tensor(244.0), "1 1 1").tolist() == [True]
        assert op["miss_input"](a, b, torch.tensor(False), torch.tensor(245.0), "1 1 1").tolist() == [False]


@few
@given(st.data())
def test_miss_window(data: st.DataObject) -> None:
    h, w, kernel = data.draw(st.sampled_from((4, 7))), data.draw(st.sampled_from((5, 6))), data.draw(st.integers(1, 3))
    stride, padding, dilation = (data.draw(st.integers(low, 2)) for low in (1, 0, 1))
    out = [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (h, w)]
    reads = [strided_window(n, o, kernel, stride, padding, dilation).reads for n, o in zip((h, w), out, strict=True)]
    miss = data.draw(masks(h * w))
    found = op["miss_window"](miss, *(torch.tensor(r) for r in reads), [h, w]).view(out)
    for y, x in cells(*out):
        read = [(i, j) for i in reads[0][y] for j in reads[1][x] if i >= 0 and j >= 0]
        assert found[y, x] == any(miss[i * w + j] for i, j in read)


@few
@given(masks(12), masks(1), masks(3))
def test_miss_join_of_places_channels_and_columns(placed: Tensor, whole: Tensor, column: Tensor) -> None:
    words, layouts = "bcyx bc11 bcyx -> bcyx", ["1 8 y4 x3", "1 8 1 1", "1 8 1 x3"]
    found = op["miss_join"]([placed, whole, column], words, layouts, "1 8 y4 x3").view(4, 3)
    for y, x in cells(4, 3):
        assert found[y, x] == (placed[y * 3 + x] or whole[0] or column[x])


@few
@given(masks(12), masks(12))
def test_miss_join_of_a_product_follows_rows_and_columns(a: Tensor, b: Tensor) -> None:
    """Scores q k of windows: a query misses with any key of its own window."""
    layouts = ["y2:2.x3 y2 8", "y2:2.x3 y2 8"]
    found = op["miss_join"]([a, b], "nqd nkd -> nqk", layouts, "y2:2.x3 y2 2")
    for y, x in cells(4, 3):
        window = [i for i in range(4) if i // 2 == y // 2]
        assert found[y * 3 + x] == (a[y * 3 + x] or any(b[i * 3 + x] for i in window))


def test_a_row_of_several_elements_in_one_dimension_misses_with_any_of_them() -> None:
    for element in range(8):
        new = torch.zeros(1, 8)
        new[0, element] = 1
        found = op["miss_input"](new, new * 0, torch.tensor(False), torch.tensor(0.0), "1 y2.x2.2")
        assert found.tolist() == [row == element // 2 for row in range(4)]


def test_miss_join_that_keeps_no_place_is_any() -> None:
    for miss in (torch.zeros(12, dtype=torch.bool), torch.arange(12) == 7):
        assert op["miss_join"]([miss], "bcyx -> bc", ["1 8 y4 x3"], "1 8").tolist() == [bool(miss.any())]


@few
@given(masks(6), masks(6))
def test_gate_passes_only_what_changed(miss: Tensor, moved: Tensor) -> None:
    old = torch.rand(1, 2, 2, 3)
    new = old + 1e-3 * moved.view(1, 1, 2, 3)
    assert op["gate"](new, old, miss, torch.tensor(0.0), "1 2 y2 x3").tolist() == (miss & moved).tolist()
    assert not op["gate"](new, old, miss, torch.tensor(0.5), "1 2 y2 x3").any()
    new[0, 1, 1, 2] = float("nan")
    assert bool(op["gate"](new, old, miss, torch.tensor(0.5), "1 2 y2 x3")[5]) == bool(miss[5])


@few
@given(masks(5 * 7), st.integers(0, 99), st.sampled_from(("1 2 y5 x7", "1 y5.x7 2", "1 2 y35 x1")))
def test_gate_by_mean_looks_around(miss: Tensor, seed: int, layout: str) -> None:
    """Strong cells pass with their neighbours, and so do weak ones that are many; but not where rows are in a line."""
    random = np.random.default_rng(seed)
    old = random.standard_normal((2, 35)).astype(np.float32)
    strength = random.choice([0.0, 0.05, 0.3, 1.0, np.nan], (1, 35), p=[0.3, 0.5, 0.1, 0.08, 0.02])
    new = (old + strength * random.choice([-1, 1], (2, 35))).astype(np.float32)
    shape = {"1 2 y5 x7": (1, 2, 5, 7), "1 y5.x7 2": (1, 35, 2), "1 2 y35 x1": (1, 2, 35, 1)}[layout]
    one, two = (torch.from_numpy(v.T if shape[-1] == 2 else v).reshape(shape) for v in (new, old))
    found = gate_by_mean(one, two, miss, torch.tensor(0.1), layout)
    in_line = shape[-1] == 1
    change = np.abs(new - old).mean(0).reshape((35, 1) if in_line else (5, 7))
    bound = 0.1 * float(one.std())
    want = passed_by_mean(change, miss.numpy().reshape(change.shape), bound, neighbours=not in_line)
    assert found.tolist() == want.reshape(-1).tolist()


def test_gate_by_mean_of_nothing_passes_what_changed() -> None:
    old, miss = torch.rand(1, 2, 2, 3), torch.ones(6, dtype=torch.bool)
    new = old.clone()
    new[0, 1, 1, 2] += 1e-3
    found = gate_by_mean(new, old, miss, torch.tensor(0.0), "1 2 y2 x3")
    assert found.tolist() == [False] * 5 + [True]


@few
@given(masks(6 * 8), st.integers(-1, 4))
def test_reach_is_a_square(miss: Tensor, radius: int) -> None:
    found = op["reach"](miss, torch.tensor(radius), [6, 8]).view(6, 8)
    hits = miss.view(6, 8).nonzero().tolist()
    for y, x in cells(6, 8):
        near = any(max(abs(y - i), abs(x - j)) <= radius for i, j in hits)
        assert found[y, x] == (near or radius < 0)


@few
@given(masks(8 * 8), st.sampled_from((1, 2, 4)))
def test_limit_keeps_cells_whose_pixels_are_reached(reach: Tensor, scale: int) -> None:
    n = 8 // scale
    everything = torch.ones(n * n, dtype=torch.bool)
    where = [scale * 1.0] * 2, [(scale - 1) / 2] * 2
    found = op["limit"](everything, reach, [n, n], [8, 8], *where).view(n, n)
    for y, x in cells(n, n):
        assert found[y, x] == reach.view(8, 8)[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale].any()
    assert not op["limit"](~everything, reach, [n, n], [8, 8], *where).any()


# --- tiles and rows ---------------------------------------------------------------------------------------------------


@few
@given(masks(5 * 7), st.sampled_from((1, 2, 3)), st.sampled_from((1, 2, 8)), st.booleans())
def test_tiles(miss: Tensor, th: int, tw: int, fresh: bool) -> None:
    found = op["tiles"](miss, torch.tensor(fresh), [5, 7], [th, tw]).tolist()
    field = miss.view(5, 7)
    every = list(cells(-(-5 // th), -(-7 // tw)))
    hit = [[y, x] for y, x in every if field[y * th : (y + 1) * th, x * tw : (x + 1) * tw].any() or fresh]
    assert found == hit


@few
@given(
    masks(16), st.sampled_from((("1 y4.x4 8", 1), ("y2:2.x2:2 y2.x2 8", 0), ("y2:2.x2:2 y2.x2 8", 1), ("1 3 y4 x4", 2)))
)
def test_rows(miss: Tensor, where: tuple[str, int]) -> None:
    layout, dim = where
    index = row_index(layout)
    lines = miss[index].movedim(dim, 0)
    assert op["rows"](miss, torch.tensor(False), layout, dim).tolist() == [i for i, s in enumerate(lines) if s.any()]
    assert op["rows"](miss, torch.tensor(True), layout, dim).tolist() == list(range(len(lines)))


@few
@given(st.data())
def test_halo_gather(data: st.DataObject) -> None:
    x, tile = torch.rand(1, 2, 5, 7), data.draw(st.sampled_from((1, 2, 3)))
    start, extent = data.draw(st.integers(-2, 1)), data.draw(st.integers(1, 5))
    fill, clamp = data.draw(st.sampled_from((0.0, -1.0))), data.draw(st.booleans())
    tiles = data.draw(st.lists(st.sampled_from(list(cells(-(-5 // tile), -(-7 // tile)))), unique=True))
    listed = torch.tensor(tiles, dtype=torch.int64).view(-1, 2)
    found = op["halo_gather"](x, listed, [2, 3], [tile] * 2, [start] * 2, [extent] * 2, fill, clamp)
    assert found.shape == (len(tiles), 2, extent, extent)
    for n, (i, j) in enumerate(tiles):
        for a, b in cells(extent, extent):
            y, xx = i * tile + start + a, j * tile + start + b
            inside = 0 <= y < 5 and 0 <= xx < 7
            near = x[0, :, min(max(y, 0), 4), min(max(xx, 0), 6)]
            assert torch.equal(found[n, :, a, b], near if inside or clamp else torch.full((2,), fill))
    last = op["halo_gather"](x.permute(0, 2, 3, 1), listed, [1, 2], [tile] * 2, [start] * 2, [extent] * 2, fill, clamp)
    assert torch.equal(last, found.permute(0, 2, 3, 1))


@few
@given(st.data())
def test_tile_scatter(data: st.DataObject) -> None:
    cache, size = torch.rand(1, 2, 5, 7), [data.draw(st.sampled_from((1, 2, 3))), data.draw(st.sampled_from((2, 4)))]
    tiles = data.draw(st.lists(st.sampled_from(list(cells(-(-5 // size[0]), -(-7 // size[1])))), unique=True))
    fresh = torch.rand(len(tiles), 2, *size)
    listed = torch.tensor(tiles, dtype=torch.int64).view(-1, 2)
    want = cache.clone()
    for n, (i, j) in enumerate(tiles):
        for a, b in cells(*size):
            y, x = i * size[0] + a, j * size[1] + b
            if y < 5 and x < 7:
                want[0, :, y, x] = fresh[n, :, a, b]
    assert torch.equal(op["tile_scatter"](fresh, cache, listed, [2, 3], size), want)
    last = op["tile_scatter"](fresh.permute(0, 2, 3, 1), cache.permute(0, 2, 3, 1), listed, [1, 2], size)
    assert torch.equal(last, want.permute(0, 2, 3, 1))


def test_all_hit_gives_the_cache() -> None:
    cache, none = torch.rand(1, 2, 5, 7), torch.zeros(0, 2, dtype=torch.int64)
    assert torch.equal(op["tile_scatter"](torch.rand(0, 2, 2, 2), cache, none, [2, 3], [2, 2]), cache)
    assert torch.equal(op["row_scatter"](torch.rand(1, 0, 5, 7), cache, none[:, 0], 1), cache)
    miss = torch.zeros(35, dtype=torch.bool)
    assert torch.equal(op["merge"](cache + 1, cache, miss, "1 2 y5 x7"), cache)
    held = op["hold"](cache.clone(), cache, torch.tensor(0.0), torch.tensor(False))
    assert torch.equal(held, cache)
    assert held is not cache


def test_hold_lets_go_when_the_change_exceeds_the_gate() -> None:
    old = torch.tensor([3.0, 4.0])
    for gate, change, fresh, moves in ((0.0, 1e-6, False, True), (0.1, 0.4, False, False), (0.1, 0.6, False, True)):
        new = old + torch.tensor([0.0, change])
        found = op["hold"](new, old, torch.tensor(gate), torch.tensor(fresh))
        assert torch.equal(found, new if moves else old)
    assert torch.equal(op["hold"](old + 0.01, old, torch.tensor(0.9), torch.tensor(True)), old + 0.01)


def test_resample_is_the_matrix_product() -> None:
    x = torch.rand(1, 3, 6, 5, dtype=torch.float64)
    want = F.interpolate(x, size=(9, 8), mode="bicubic")
    tables: list[Tensor] = []
    for axis, (n_in, n_out) in enumerate(((6, 9), (5, 8))):
        eye = torch.eye(n_in, dtype=torch.float64)[None, None]
        size = (n_out, n_in) if axis == 0 else (n_in, n_out)
        matrix = F.interpolate(eye, size=size, mode="bicubic")[0, 0]
        matrix = matrix if axis == 0 else matrix.T
        tables += [torch.arange(n_in).expand(n_out, n_in).clone(), matrix]
    tiles = torch.tensor(list(cells(3, 2)))
    found = op["tile_scatter"](op["resample"](x, tiles, *tables, [3, 4]), want * 0, tiles, [2, 3], [3, 4])
    assert_matches(found, want)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 8.0], ids=["gentle", "scores that overflow the offset"])
def test_correct_attention_follows_changing_keys(size: float) -> None:
    random = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    q, k, v = rand(1, 2, 8, 4), rand(1, 2, 11, 4), rand(1, 2, 11, 4)
    thin = q[..., :1] * 0
    state, k_old, v_old, fresh = (q * 0, thin, thin), k * 0, v * 0, True
    for frame in range(8):
        changed = [torch.randperm(n, generator=random)[: frame % 4].sort().values for n in (8, 11, 11)]
        for value, at in zip((q, k, v), changed, strict=True):
            value[:, :, at] = rand(1, 2, len(at), 4) * size
        if frame == 5:
            v[:, :, 0] += 100.0
            changed[2] = torch.cat([changed[2], torch.tensor([0])]).unique()
        out, *rest = op["correct_attention"](q, k, v, k_old, v_old, *state, *changed, torch.tensor(fresh), 0.5)
        assert_matches(out, F.scaled_dot_product_attention(q, k, v, scale=0.5))
        state, k_old, v_old, fresh = tuple(rest), k.clone(), v.clone(), False


def test_correct_attention_without_a_change_gives_what_it_gave() -> None:
    q, k, v = (torch.rand(1, 2, 6, 4) for _ in range(3))
    none, thin = torch.zeros(0, dtype=torch.int64), torch.zeros(1, 2, 6, 1)
    first = op["correct_attention"](q, k, v, k, v, q, thin, thin, none, none, none, torch.tensor(True), 0.5)
    again = op["correct_attention"](q, k, v, k, v, *first[1:], none, none, none, torch.tensor(False), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# --- motion -----------------------------------------------------------------------------------------------------------


def shift_of(h: int, w: int, **cells: tuple[int, int]) -> Tensor:
    """A shift that is 0 but in the named cells: r1c2=(0, 1)."""
    shift = torch.zeros(2, h, w, dtype=torch.int32)
    for name, vector in cells.items():
        y, x = map(int, name[1:].split("c"))
        shift[:, y, x] = torch.tensor(vector)
    return shift.view(2, -1)


@pytest.mark.parametrize(
    ("scale", "vector", "want"),
    [
        (1.0, (0, 3), (0, 3)),
        (2.0, (0, 4), (0, 2)),
        (4.0, (0, 6), (0, 2)),
        (4.0, (0, 1), (0, 0)),
        (4.0, (-4, 0), (-1, 0)),
    ],
)
def test_shift_at_rounds_to_cells_and_stays_inside(scale: float, vector: Any, want: Any) -> None:
    n = int(8 / scale)
    motion = torch.tensor(vector, dtype=torch.int32).view(2, 1, 1).expand(2, 2, 2)
    found = op["shift_at"](motion, [n, n], [scale] * 2, [(scale - 1) / 2] * 2, 4).view(2, n, n)
    for y, x in cells(n, n):
        inside = 0 <= y + want[0] < n and 0 <= x + want[1] < n
        assert tuple(found[:, y, x].tolist()) == (want if inside else (0, 0))


def test_shift_at_takes_the_vector_of_the_block_a_cell_lies_in() -> None:
    motion = torch.zeros(2, 1, 2, dtype=torch.int32)
    motion[1, 0, 1] = -2
    found = op["shift_at"](motion, [1, 4], [2.0, 2.0], [0.5, 0.5], 4)
    assert found[1].tolist() == [0, 0, -1, -1]


LAYOUTS = ("1 2 y3 x4", "1 y3.x4 5", "1 y3.x4.2", "y3 x2:2 x2 3", "1 (2+2x5) 3", "1 6 y3.2 x4")


@few
@given(st.sampled_from(LAYOUTS), st.permutations(range(12)), st.lists(st.integers(0, 11), min_size=12, max_size=12))
def test_motion_reindex_moves_rows_whole(layout: str, order: Sequence[int], repeats: Sequence[int]) -> None:
    index = row_index(layout)
    shape = parse_layout(layout).shape
    cache = torch.rand(shape)
    for source in (order, repeats, range(12)):
        moved = op["motion_reindex"](cache, torch.tensor(source), layout)
        row = index.expand(shape)
        for r in range(12):
            assert torch.equal(moved[row == r], cache[row == source[r]])


def test_sources() -> None:
    shift = shift_of(3, 4, r0c0=(1, 0), r1c1=(0, -1))
    assert op["source"](shift, 4).tolist() == [4, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    assert op["chain_source"]([torch.tensor([0]), torch.tensor([1, 0, 2])]).tolist() == [0, 2, 1, 3]


@few
@given(st.data())
def test_apart_window_is_aligned_where_it_says(data: st.DataObject) -> None:
    """Where a window op is not apart, its moved output is the output of its moved input."""
    h, w, kernel = 6, 7, data.draw(st.sampled_from((1, 2, 3)))
    stride, padding = data.draw(st.sampled_from((1, 2))), data.draw(st.sampled_from((0, 1)))
    x = torch.rand(1, 1, h, w, dtype=torch.float64)
    weight = torch.rand(1, 1, kernel, kernel, dtype=torch.float64)
    out = F.conv2d(x, weight, None, stride, padding)
    oh, ow = out.shape[2:]
    reads = [
        torch.tensor(strided_window(n, o, kernel, stride, padding).reads) for n, o in zip((h, w), (oh, ow), strict=True)
    ]
    blocks = data.draw(st.sampled_from((1, 2)))
    vectors = st.lists(st.sampled_from((0, 0, 1, 2, -2, 4)), min_size=2 * blocks, max_size=2 * blocks)
    motion = torch.tensor(data.draw(vectors), dtype=torch.int32).view(2, 1, blocks)
    scales, origin = ([1.0, 1.0], [float(stride)] * 2), (kernel - 1) / 2 - padding
    shift = op["shift_at"](motion, [h, w], scales[0], [0.0, 0.0], 4)
    own = op["shift_at"](motion, [oh, ow], scales[1], [origin, origin], 4)
    apart = op["apart_window"](shift, own, *reads, [h, w], *scales).view(oh, ow)
    moved_x = op["motion_reindex"](x, op["source"](shift, w), f"1 1 y{h} x{w}")
    moved = op["motion_reindex"](out, op["source"](own, ow), f"1 1 y{oh} x{ow}")
    wrong = ((F.conv2d(moved_x, weight, None, stride, padding) - moved).abs() > 1e-12)[0, 0]
    assert not (wrong & ~apart).any()
    if not shift.any():
        assert not apart.any()


def test_apart_join_by_hand() -> None:
    moved, still = shift_of(2, 3, r0c1=(0, 1)), shift_of(2, 3)
    both = "bcyx bcyx -> bcyx", ["1 8 y2 x3"] * 2, [2.0] * 4

    def apart(a: Tensor, b: Tensor, out: Tensor) -> list[bool]:
        return op["apart_join"]([a, b], *both, out, "1 8 y2 x3", [2.0, 2.0]).tolist()  # type: ignore[no-any-return]

    one = [False, True, False, False, False, False]
    assert apart(still, still, still) == [False] * 6
    assert apart(moved, moved, moved) == [False] * 6
    assert apart(moved, still, moved) == one
    assert apart(moved, moved, still) == one
    halved = op["apart_join"]([moved], "bcyx -> bcyx", ["1 8 y2 x3"], [1.0, 1.0], moved, "1 8 y2 x3", [2.0, 2.0])
    assert halved.tolist() == one  # as many cells, but not as many pixels
    mixed = op["apart_join"]([moved], "bcyx -> bc", ["1 8 y2 x3"], [1.0, 1.0], moved[:, :1] * 0, "1 8", [1.0, 1.0])
    assert mixed.tolist() == [True]  # what is mixed must not move at all


@few
@given(st.lists(st.integers(0, 5), min_size=6, max_size=6), st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_apart_remap_is_aligned_where_it_says(source: list[int], out: list[int]) -> None:
    """A row repeated at the border, constants around: where not apart, the moved result is the moved operand's."""
    rows, before = torch.tensor([-1, 0, 0, 1, 2, 3, 4, -1]), torch.rand(6)

    def remap(values: Tensor) -> Tensor:
        return torch.where(rows >= 0, values[rows.clamp(min=0)], 7.0)

    apart = op["apart_remap"](torch.tensor(source), torch.tensor(out), rows)
    wrong = remap(before[source]) != remap(before)[out]
    assert not (wrong & ~apart).any()


def test_apart_remap_and_any_by_hand() -> None:
    rows, still, moved = torch.tensor([-1, 0, 1, 2]), torch.arange(3), torch.tensor([0, 2, 2])
    assert op["apart_remap"](still, torch.arange(4), rows).tolist() == [False] * 4
    assert op["apart_remap"](moved, torch.arange(4), rows).tolist() == [False, False, True, False]
    assert op["apart_remap"](moved, torch.tensor([0, 1, 3, 3]), rows).tolist() == [False] * 4
    assert op["apart_remap"](still, torch.tensor([1, 1, 2, 3]), rows).tolist() == [True, False, False, False]
    shift, out = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 4, dtype=torch.int32)
    assert op["apart_any"]([shift * 0, out], 2).tolist() == [True, True]
    assert op["apart_any"]([shift * 0, out * 0], 2).tolist() == [False, False]
