"""Each device kernel, run by the shim in both orders of threads, against the reference of its row of the op table."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from fluxcompile.geometry import parse_layout
from fluxcompile.kernels import _device
from fluxcompile.kernels.device import describe, kernels, row_factors
from fluxcompile.ops import TABLE, row_index
from tests.helpers import assert_matches
from tests.kernels.shim import MASKS, both_orders, runner, shimmed

pytestmark = shimmed
OPS = _device.ops()
SAMPLES = [pytest.param(n, s, id=f"{n}-{i}") for n in OPS for i, s in enumerate(TABLE[n].samples())]
few = settings(max_examples=30, deadline=None, derandomize=True)
LAYOUTS = (
    "1 2 y5 x7",
    "1 y5.x7 3",
    "1 y3.x4.2",
    "y2:3.x3:2 y3.x2 4",
    "y2:3.x3:2 2 y3.x2 4",
    "1 3 (1+4x3)",
    "2 (4x3+2x2) 1",
    "1 8",
    "x5 2 y3",
)


def cast(values: Any, **dtypes: torch.dtype) -> Any:
    """The values with their tensors of some types in others: `cast(sample, float32=torch.float16)`."""

    def one(value: Any) -> Any:
        to = dtypes.get(str(value.dtype).removeprefix("torch.")) if isinstance(value, Tensor) else None
        return value.to(to) if to else value

    return pytree.tree_map(one, tuple(values))


def check(name: str, *sample: Any, want: Any = None) -> None:
    want = TABLE[name].reference(*sample) if want is None else want
    for run in both_orders(name):
        assert_matches(run(*sample), want)


def masks(rows: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.booleans(), min_size=rows, max_size=rows).map(torch.tensor)


def some_tiles(size: Sequence[int], tile: Sequence[int], seed: int) -> Tensor:
    """About half of the tiles of a map, those that hang over its edge among them."""
    counts = [-(-n // t) for n, t in zip(size, tile, strict=True)]
    hit = torch.rand(counts, generator=torch.Generator().manual_seed(seed)) < 0.5
    hit[-1, -1] = True
    return hit.nonzero()


# --- every op ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_an_op_over_its_samples(name: str, sample: Any) -> None:
    check(name, *sample)


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_lists_and_masks_may_be_int32(name: str, sample: Any) -> None:
    """As TensorRT has them: its plugins take neither int64 nor bool."""
    narrow = cast(sample, int64=torch.int32, bool=torch.int32)
    want = TABLE[name].reference(*sample)
    check(name, *narrow, want=want.int() if name in MASKS else want)


MOVED = ("halo_gather", "tile_scatter", "row_scatter", "motion_reindex")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8, torch.bool, torch.int32], ids=str)
@pytest.mark.parametrize(("name", "sample"), [p for p in SAMPLES if p.values[0] in MOVED])
def test_what_moves_values_moves_any(name: str, sample: Any, dtype: torch.dtype) -> None:
    if name == "halo_gather" and sample[6] < 0 and dtype in (torch.uint8, torch.bool):
        pytest.skip("the fill of this sample is no value of the type")
    check(name, *cast(sample, float32=dtype))


@pytest.mark.parametrize(("name", "sample"), [p for p in SAMPLES if p.values[0] in ("gate", "hold")])
def test_what_compares_takes_half(name: str, sample: Any) -> None:
    half = [x.half() if i < 2 else x for i, x in enumerate(sample)]
    check(name, *half)


def test_a_type_without_kernels_has_the_reference() -> None:
    new, cache = torch.tensor([3, 4]), torch.tensor([3, 5])
    never: Callable[..., Any] = lambda *_: pytest.fail("a kernel ran")  # noqa: E731
    held = kernels(never)["hold"](new, cache, torch.tensor(9.0), torch.tensor(False))
    assert torch.equal(held, new)


def test_the_comparison_sees_a_wrong_kernel() -> None:
    x, tiles = torch.rand(1, 2, 5, 7), torch.tensor([[0, 0]])
    geometry = [2, 3], [2, 2], [-1, -1], [4, 4]
    with pytest.raises(AssertionError):
        check("halo_gather", x, tiles, *geometry, want=TABLE["halo_gather"].reference(x, tiles, *geometry) + 1e-3)


# --- moving values ----------------------------------------------------------------------------------------------------


@few
@given(st.data())
def test_halo_gather(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 11)))
    tile, start = ([data.draw(st.integers(low, high)) for _ in "yx"] for low, high in ((1, 4), (-2, 1)))
    extent = [data.draw(st.integers(1, 6)) for _ in "yx"]
    shape, dims = data.draw(
        st.sampled_from((((1, 3, *size), [2, 3]), ((2, *size, 5), [1, 2]), ((1, size[0], 2, size[1]), [1, 3])))
    )
    x = torch.rand(shape)
    fill, clamp = data.draw(st.sampled_from((0.0, -float("inf")))), data.draw(st.booleans())
    check("halo_gather", x, some_tiles(size, tile, sum(size)), dims, tile, start, extent, fill, clamp)


@few
@given(st.data())
def test_tile_scatter(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 11)))
    tile = [data.draw(st.integers(1, 5)) for _ in "yx"]
    dims = data.draw(st.sampled_from(([2, 3], [1, 2])))
    cache = torch.rand((2, 3, *size) if dims[0] == 2 else (1, *size, 4))
    tiles = some_tiles(size, tile, sum(size))
    shape = list(cache.shape)
    shape[0] *= len(tiles)
    shape[dims[0]], shape[dims[1]] = tile
    check("tile_scatter", torch.rand(shape), cache, tiles, dims, tile)


def test_a_tile_larger_than_a_block_of_threads() -> None:
    x, tiles = torch.rand(1, 7, 20, 20), torch.tensor([[0, 1], [1, 0]])
    check("halo_gather", x, tiles, [2, 3], [16, 16], [-1, -1], [18, 18])
    check("tile_scatter", torch.rand(2, 7, 16, 16), x, tiles, [2, 3], [16, 16])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_row_scatter(dim: int) -> None:
    cache, rows = torch.rand(5, 6, 70), torch.tensor([4, 0, 3])
    check("row_scatter", cache.index_select(dim, rows) + 1, cache, rows, dim)


@pytest.mark.parametrize("outside", [-1, 7, 1 << 20])
def test_what_a_list_names_outside_is_left_out(outside: int) -> None:
    """Lists of a fixed length are filled up with what is nowhere."""
    x, tiles, rows = torch.rand(1, 2, 5, 7), torch.tensor([[1, 1], [outside] * 2]), torch.tensor([1, outside])
    fresh = torch.rand(2, 2, 2, 2)
    want = TABLE["tile_scatter"].reference(fresh[:1], x, tiles[:1], [2, 3], [2, 2])
    check("tile_scatter", fresh, x, tiles, [2, 3], [2, 2], want=want)
    want = TABLE["row_scatter"].reference(fresh[0, :, :1], fresh[1], rows[:1], 1)
    check("row_scatter", fresh[0], fresh[1], rows, 1, want=want)
    gathered = TABLE["halo_gather"].reference(x, tiles[:1], [2, 3], [2, 2], [-1, -1], [4, 4])
    sample = next(TABLE["resample"].samples())
    for run in both_orders("halo_gather"):
        assert torch.equal(run(x, tiles, [2, 3], [2, 2], [-1, -1], [4, 4])[:1], gathered)
    for run in both_orders("resample"):
        got = run(sample[0], tiles.clamp(max=1 << 20), *sample[2:])
        assert_matches(got[:1], TABLE["resample"].reference(sample[0], tiles[:1], *sample[2:]))
    q, k, v, *rest = next(TABLE["correct_attention"].samples())
    first = TABLE["correct_attention"].reference(q, k, v, *rest)
    lists = torch.tensor([2, outside]), torch.tensor([outside, 3]), torch.tensor([outside])
    held = k + 1, v, k, v, *first[1:]
    want = TABLE["correct_attention"].reference(
        q, *held, *(x[(x >= 0) & (x < 6)] for x in lists), torch.tensor(False), 0.5
    )
    check("correct_attention", q, *held, *lists, torch.tensor(False), 0.5, want=want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_a_layout_by_its_factors(layout: str) -> None:
    sizes, steps = row_factors(layout)
    at = np.indices(sizes)
    rows = sum((at[i] * s for i, s in enumerate(steps)), np.zeros(sizes, int))
    shape = parse_layout(layout).shape
    assert torch.equal(torch.from_numpy(rows).reshape(shape), row_index(layout).expand(shape))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_motion_reindex(layout: str) -> None:
    parsed = parse_layout(layout)
    source = torch.randint(0, parsed.rows, (parsed.rows,), generator=torch.Generator().manual_seed(1))
    cache = torch.arange(float(np.prod(parsed.shape))).reshape(parsed.shape)
    check("motion_reindex", cache, source, layout)
    check("motion_reindex", cache, torch.arange(parsed.rows), layout)


def test_rows_may_be_given_as_a_view() -> None:
    """As a TensorRT graph has them."""
    cache, source = torch.rand(2, 12, 5), torch.randperm(12, generator=torch.Generator().manual_seed(0)).int()
    out = torch.empty_like(cache)
    runner(False)("motion_reindex", {"view": [2, 12, 5]}, [describe(cache), describe(source)], [describe(out)], 0)
    assert torch.equal(out, cache[:, source.long()])


@pytest.mark.parametrize("scale", [1.0, 2.0, 8 / 3, 16.0])
def test_limit(scale: float) -> None:
    """Scales that cut the frame evenly and not, cells at its edges among them."""
    frame, size = (48, 40), [round(48 / scale), round(40 / scale)]
    random = torch.Generator().manual_seed(7)
    miss = torch.rand(size[0] * size[1], generator=random) < 0.7
    for share in (0.0, 0.01, 0.2, 1.0):
        reach = torch.rand(frame[0] * frame[1], generator=random) < share
        check("limit", miss, reach, size, list(frame), [scale] * 2, [(scale - 1) / 2] * 2)


# --- comparing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gate", [0.0, 0.1, 0.5])
def test_gate(layout: str, gate: float) -> None:
    parsed = parse_layout(layout)
    random = torch.Generator().manual_seed(2)
    old = torch.rand(parsed.shape, generator=random)
    new = old + 0.3 * torch.rand(parsed.shape, generator=random) * (torch.rand(parsed.shape, generator=random) < 0.3)
    miss = torch.rand(parsed.rows, generator=random) < 0.7
    check("gate", new, old, miss, torch.tensor(gate), layout)


def test_gate_by_a_spread_that_takes_many_blocks() -> None:
    """The deviation of a map far from 0, of more elements than the blocks of one launch have threads."""
    layout, shape = "1 11 y80 x90", (1, 11, 80, 90)
    random = torch.Generator().manual_seed(3)
    new = 100 + torch.randn(shape, generator=random, dtype=torch.float64)
    old, miss = new.clone(), torch.ones(7200, dtype=torch.bool)
    spread = float(new.std())
    old[0, 3, 5, 7] += spread * 0.5002
    old[0, 3, 6, 7] += spread * 0.4998
    new, old = new.float(), old.float()
    check("gate", new, old, miss, torch.tensor(0.5), layout)
    assert int(next(both_orders("gate"))(new, old, miss, torch.tensor(0.5), layout).sum()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_compared_has_changed(value: float) -> None:
    old = torch.zeros(1, 2, 2, 3)
    new = old.clone()
    new[0, 1, 1, 2] = value
    check("gate", new, old, torch.ones(6, dtype=torch.bool), torch.tensor(0.5), "1 2 y2 x3")
    check("hold", new, old, torch.tensor(9.0), torch.tensor(False))
    check("hold", old, new, torch.tensor(9.0), torch.tensor(False))


@pytest.mark.parametrize("gate", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("elements", [1, 255, 257, 1000])
def test_hold(gate: float, elements: int) -> None:
    old = torch.randn(elements, generator=torch.Generator().manual_seed(elements))
    for new in (old, old * 1.1, old * 2):
        for fresh in (False, True):
            check("hold", new.clone(), old, torch.tensor(gate), torch.tensor(fresh))


# --- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_resample(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.rand(1, 3, 6, 5, generator=random)
    tables: list[Tensor] = []
    for n_in, n_out in ((6, 9), (5, 8)):
        tables += [torch.randint(-1, n_in, (n_out, 3), generator=random), torch.rand(n_out, 3, generator=random)]
    tiles = some_tiles((9, 8), (4, 3), 0)
    check(
        "resample",
        x.to(dtype),
        tiles,
        *tables,
        [4, 3],
        want=TABLE["resample"].reference(x, tiles, *tables, [4, 3]).to(dtype),
    )


def test_half_is_rounded_as_torch_rounds_it() -> None:
    """All halves read, and products of them written, by a resize of one tap."""
    halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    once = torch.zeros(1, 1, dtype=torch.int64)
    along = torch.arange(1 << 16)[:, None]
    for scale in (1.0, 1 / 3, 3e-5, 1e5):
        weights = torch.full((1 << 16, 1), scale)
        got = next(both_orders("resample"))(
            halves.view(1, 1, 1, -1), once.expand(1, 2), once, torch.ones(1, 1), along, weights, [1, 1 << 16]
        )
        want = (halves.float() * scale).half()
        assert torch.equal(got.view(-1).nan_to_num(7), want.nan_to_num(7))
        assert torch.equal(got.view(-1).isnan(), want.isnan())


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 8.0], ids=["gentle", "scores that overflow the offset"])
@pytest.mark.parametrize(("queries", "keys", "wide"), [(5, 300, 4), (9, 11, 260)])
def test_correct_attention_follows_changing_keys(size: float, queries: int, keys: int, wide: int) -> None:
    """More keys, and then more channels of values, than a block has threads."""
    random = torch.Generator().manual_seed(5)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) * size

    q, k, v = rand(1, 2, queries, 4), rand(1, 2, keys, 4), rand(1, 2, keys, wide)
    thin, k_old, v_old = q[..., :1] * 0, k * 0, v * 0
    states = [(torch.zeros(1, 2, queries, wide), thin, thin)] * 2
    for frame in range(4):
        lists = [torch.randperm(n, generator=random)[: n * frame // 5].sort().values for n in (queries, keys, keys)]
        for value, at in zip((q, k, v), lists, strict=True):
            value[:, :, at] = rand(1, 2, len(at), value.shape[3])
        want = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        for i, run in enumerate(both_orders("correct_attention")):
            out, *rest = run(q, k, v, k_old, v_old, *states[i], *lists, torch.tensor(not frame), 0.5)
            assert_matches(out, want)
            states[i] = tuple(rest)
        k_old, v_old = k.clone(), v.clone()
    assert_matches(states[0], states[1])


def test_correct_attention_of_halves_keeps_its_state_in_floats() -> None:
    random = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=random).half() for _ in range(3))
    state, every, some = (torch.zeros(1, 2, 6, 4), *[torch.zeros(1, 2, 6, 1)] * 2), torch.arange(6), torch.tensor([2])
    run = next(both_orders("correct_attention"))
    out, *state = run(q, k, v, k, v, *state, every, every, every, torch.tensor(True), 0.5)
    moved = k.clone()
    moved[:, :, 2] += 1
    out, *_ = run(q, moved, v, k, v, *state, some[:0], some, some[:0], torch.tensor(False), 0.5)
    assert {x.dtype for x in state} == {torch.float32}
    want = F.scaled_dot_product_attention(q.float(), moved.float(), v.float(), scale=0.5)
    assert_matches(out, want.half())


# --- arguments --------------------------------------------------------------------------------------------------------

GATHER = {"dims": [2, 3], "step": [2, 2], "start": [0, 0], "extent": [2, 2], "fill": [0.0], "clamp": [0]}
X, TILES = (0, "f32", (1, 2, 5, 7)), (0, "i32", (3, 2))


@pytest.mark.parametrize(
    ("change", "inputs", "says"),
    [
        ({"step": None}, [X, TILES], "halo_gather: attribute 'step' is missing"),
        ({"stepp": [1]}, [X, TILES], "halo_gather: attribute 'stepp' is unknown"),
        ({"step": [2]}, [X, TILES], "attribute 'step' has 1 values, expected 2"),
        ({"fill": [0]}, [X, TILES], "attribute 'fill' must be of float32"),
        (
            {"dims": [0, 3]},
            [X, TILES],
            "dims are 0 and 3 of a map of 4 dimensions; they must ascend and leave out the first",
        ),
        ({"dims": [2, 4]}, [X, TILES], "dims are 2 and 4"),
        ({"extent": [0, 2]}, [X, TILES], "a tile of 0 x 2 cells"),
        ({}, [X, (0, "i32", (3,))], "halo_gather: tiles has 1 dimensions, expected 2"),
        ({}, [X], "halo_gather: 1 inputs, expected 2"),
        ({}, [X, (0, "i32", (3, 3))], r"tiles are \(3 x 3\), expected \(n x 2\)"),
        ({}, [X, (0, "f32", (3, 2))], "tiles is of f32, which it must not be"),
        ({}, [(0, "bf16", (1, 2, 5, 7)), TILES], "no tensor of bf16 has kernels"),
        ({}, [(0, "f32", (1, 2, 1 << 15, 1 << 15)), TILES], "has more than 2147483647 elements"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], inputs: Any, says: str) -> None:
    attributes = {k: v for k, v in (GATHER | change).items() if v is not None}
    with pytest.raises(ValueError, match=says):
        _device.plan("halo_gather", attributes, inputs, [(0, "f32", (3, 2, 2, 2))], 0)


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "outputs", "says"),
    [
        ("halo_gather", GATHER, [X, TILES], [(0, "f32", (3, 2, 2, 3))], r"gathered is \(3 x 2 x 2 x 3\), expected \(3 x 2"),
        ("halo_gather", GATHER, [X, TILES], [(0, "f16", (3, 2, 2, 2))], "gathered is of f16"),
        ("tile_scatter", {"dims": [2, 3], "size": [2, 2]}, [(0, "f32", (3, 2, 2, 1)), X, TILES], [X], "tile is .*, expected"),
        ("row_scatter", {"dim": [4]}, [X, X, (0, "i32", (7,))], [X], "dim is 4, the cache is"),
        ("row_scatter", {"dim": [3]}, [X, X, (0, "i32", (6,))], [X], "row is .*, expected"),
        ("motion_reindex", {}, [X, (0, "i32", (35,))], [X], "either 'view' or 'sizes' and 'row_steps'"),
        ("motion_reindex", {"view": [2, 35, 2]}, [X, (0, "i32", (35,))], [X], "have 140 elements, the tensor"),
        ("motion_reindex", {"view": [2, 35, 1]}, [X, (0, "i32", (34,))], [X], "have 35 rows, the list of rows is"),
        ("motion_reindex", {"sizes": [2, 35], "row_steps": [0]}, [X, (0, "i32", (35,))], [X], "as many"),
        ("motion_reindex", {"sizes": [2, 0], "row_steps": [0, 1]}, [X, (0, "i32", (35,))], [X], "a factor of 0 walks 1 rows at"),
        ("motion_reindex", {"sizes": [2, 3] * 5, "row_steps": [0, 1] * 5}, [X, (0, "i32", (35,))], [X], "more factors than 8"),
        ("motion_reindex", {"sizes": [10, 7], "row_steps": [2, 1]}, [X, (0, "i32", (35,))], [X], "walk 70 places but"),
        ("gate", {"view": [2, 35, 1]}, [X, X, (0, "b8", (35,)), (0, "f32", (2,))], [(0, "b8", (35,))], "gate is .2., expected"),
        ("gate", {"view": [2, 35, 1]}, [X, (0, "f16", (1, 2, 5, 7)), (0, "b8", (35,)), (0, "f32", ())], [(0, "b8", (35,))], "old is of f16"),
        ("hold", {}, [X, (0, "f32", (2, 5, 7)), (0, "f32", ()), (0, "b8", ())], [X], "new is .*, cache"),
        ("limit", {"frame": [4, 5]}, [(0, "b8", (6,)), (0, "b8", (19,)), *[(0, "i64", (2,))] * 2, *[(0, "i64", (3,))] * 2], [(0, "b8", (6,))], "reach has 19 pixels, the frame 4 x 5"),
        ("limit", {"frame": [4, 5]}, [(0, "b8", (7,)), (0, "b8", (20,)), *[(0, "i64", (2,))] * 2, *[(0, "i64", (3,))] * 2], [(0, "b8", (7,))], "miss has 7 cells, the spans are of 2 x 3"),
        ("miss_window", {"size": [2, 3]}, [(0, "b8", (7,)), (0, "i64", (2, 3)), (0, "i64", (3, 3))], [(0, "b8", (6,))], "miss has 7 rows, the map 2 x 3"),
        ("unknown", {}, [], [], "no kernel for an op named 'unknown'"),
    ],
)  # fmt: skip
def test_each_op_checks_its_own(name: str, attributes: Any, inputs: Any, outputs: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _device.plan(name, attributes, inputs, outputs, 0)


def test_nothing_listed_launches_nothing() -> None:
    tiles = (0, "i32", (0, 2))
    assert _device.plan("halo_gather", GATHER, [X, tiles], [(0, "f32", (0, 2, 2, 2))], 0) == []
    (copy,) = _device.plan(
        "tile_scatter",
        {"dims": [2, 3], "size": [2, 2]},
        [(1, "f32", (0, 2, 2, 2)), (2, *X[1:]), tiles],
        [(3, *X[1:])],
        0,
    )
    assert copy == (3, 2, 280)
