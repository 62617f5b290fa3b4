from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Flags = NDArray[np.uint8]

def variants() -> list[str]: ...
def built() -> list[str]: ...
def panel(variant: str) -> tuple[int, int]: ...
def peak_gflops(variant: str, seconds: float) -> float: ...
def block_residual(
    variant: str,
    frame: NDArray[Any],
    planar: bool,
    reference: NDArray[Any],
    block: int,
    gain: Floats,
    bias: Floats,
    out: Floats,
) -> None: ...
def block_gradient(
    frame: NDArray[Any], planar: bool, block: int, residual: Floats, least: float, out: Floats
) -> None: ...
def paint_blocks(levels: Flags, block: int, radii: list[int], miss: Flags, bound: Flags) -> None: ...
def expose_blocks(frame: NDArray[Any], planar: bool, block: int, blocks: Flags, gain: Floats, bias: Floats) -> None: ...
def conv2d(
    variant: str,
    x: Floats,
    weights: Floats,
    bias: Floats,
    taps: Ints,
    out: Floats,
    cells: Ints,
    groups: int,
    stride: tuple[int, int],
    up: tuple[int, int],
    act: str,
    a: float,
    b: float,
    slope: Floats | None,
    residual: Floats | None,
    residual_first: bool,
    gate: str,
    bound: float,
    changed: Flags | None,
) -> None: ...
def pool2d(
    variant: str,
    x: Floats,
    taps: Ints,
    out: Floats,
    cells: Ints,
    kind: str,
    stride: tuple[int, int],
    divisor: float,
    gate: str,
    bound: float,
    changed: Flags | None,
) -> None: ...
def resample2d(
    variant: str,
    x: Floats,
    index_y: Ints,
    weight_y: Floats,
    index_x: Ints,
    weight_x: Floats,
    out: Floats,
    cells: Ints,
    gate: str,
    bound: float,
    changed: Flags | None,
) -> None: ...
def pointwise(
    variant: str,
    x: Floats,
    terms: list[Any],
    out: Floats,
    cells: Ints,
    gate: str,
    bound: float,
    changed: Flags | None,
) -> None: ...
def layer_norm(
    variant: str,
    x: Floats,
    gamma: Floats | None,
    beta: Floats | None,
    epsilon: float,
    out: Floats,
    cells: Ints,
    gate: str,
    bound: float,
    changed: Flags | None,
) -> None: ...
def softmax(
    variant: str, x: Floats, scale: float, out: Floats, cells: Ints, gate: str, bound: float, changed: Flags | None
) -> None: ...
def attention(
    variant: str,
    q: Floats,
    k: Floats,
    v: Floats,
    out: Floats,
    cells: Ints,
    heads: int,
    scale: float,
    keys: Ints,
    group_of: Ints | None,
    member_of: Ints | None,
    bias: Floats | None,
    gate: str,
    bound: float,
    changed: Flags | None,
    sums: Floats | None,
) -> None: ...
def correct_attention(
    variant: str,
    q: Floats,
    k: Floats,
    v: Floats,
    k_old: Floats,
    v_old: Floats,
    mean: Floats,
    sums: Floats,
    cells: Ints,
    heads: int,
    scale: float,
    changed: Ints,
    poor: Flags,
) -> None: ...

class Plan:
    """A frame as a list of steps; `add`ing methods return the step's number. See fluxcompile.runtime.plan."""

    def __init__(self, variant: str, threads: int) -> None: ...
    def mask(self, rows: int) -> int: ...
    def join(self, out: int, readers: list[tuple[int, str, Ints | None, Ints | None, int, int, int]]) -> int: ...
    def window(self, out: int, in_: int, reads_y: Ints, reads_x: Ints, size: tuple[int, int], near: int) -> int: ...
    def limit(self, out: int, in_: int, near: int) -> int: ...
    def reach(self, out: int, in_: int, width: int) -> int: ...
    def conv2d(
        self,
        mask: int,
        changed: int,
        x: Floats,
        weights: Floats,
        bias: Floats,
        taps: Ints,
        out: Floats,
        groups: int,
        stride: tuple[int, int],
        up: tuple[int, int],
        phase: tuple[int, int],
        act: str,
        a: float,
        b: float,
        slope: Floats | None,
        residual: Floats | None,
        residual_first: bool,
    ) -> int: ...
    def pool2d(
        self,
        mask: int,
        changed: int,
        x: Floats,
        taps: Ints,
        out: Floats,
        kind: str,
        stride: tuple[int, int],
        divisor: float,
    ) -> int: ...
    def resample2d(
        self,
        mask: int,
        changed: int,
        x: Floats,
        index_y: Ints,
        weight_y: Floats,
        index_x: Ints,
        weight_x: Floats,
        out: Floats,
    ) -> int: ...
    def pointwise(
        self, mask: int, changed: int, x: Floats, terms: list[tuple[str, float, float, Floats | None]], out: Floats
    ) -> int: ...
    def layer_norm(
        self,
        mask: int,
        changed: int,
        x: Floats,
        gamma: Floats | None,
        beta: Floats | None,
        epsilon: float,
        out: Floats,
    ) -> int: ...
    def softmax(self, mask: int, changed: int, x: Floats, scale: float, out: Floats) -> int: ...
    def attention(
        self,
        mask: int,
        changed: int,
        q: Floats,
        k: Floats,
        v: Floats,
        out: Floats,
        heads: int,
        scale: float,
        keys: Ints,
        group_of: Ints | None,
        member_of: Ints | None,
        bias: Floats | None,
    ) -> int: ...
    def correct_attention(
        self,
        mask: int,
        changed: int,
        q: Floats,
        k: Floats,
        v: Floats,
        out: Floats,
        heads: int,
        scale: float,
        queries: int,
        keys: tuple[int, int],
        k_old: Floats,
        v_old: Floats,
        mean: Floats,
        sums: Floats,
    ) -> int: ...
    def gather(self, mask: int, x: Floats, table: Ints, out: Floats, relative: bool, fill: float) -> int: ...
    def mean(self, mask: int, x: Floats, out: Floats) -> int: ...
    def hold(self, mask: int, changed: int, x: Floats, out: Floats) -> int: ...
    def input(self, mask: int, out: Floats, planar: bool, held: Flags | None) -> int: ...
    def output(
        self, mask: int, x: Floats, row_at: NDArray[np.int64], channel_at: NDArray[np.int64], size: int
    ) -> int: ...
    def feed(self, index: int, frame: NDArray[Any], given: Flags | None) -> bool: ...
    def bind(self, index: int, to: Floats, behind: bool = False) -> None: ...
    def rolls(self, map: Floats, scale: tuple[int, int]) -> None: ...
    def placed(self, index: int) -> None: ...
    def roll(self, dy: int, dx: int) -> None: ...
    def bound_to(self, index: int, given: Flags | None) -> None: ...
    def set(self, threshold: float, gate: float, radius: int, by_mean: bool = False) -> None: ...
    def run(self, fresh: bool, begin: int, end: int) -> None: ...
    def bits(self, mask: int) -> bytes: ...
    def any(self, mask: int) -> bool: ...
    def count(self, mask: int) -> int: ...
    def done(self) -> list[float]: ...
    def time(self, timed: bool) -> None: ...
    def took_ms(self) -> list[float]: ...
    def __len__(self) -> int: ...

MOTION_BLOCK: int

class Aligner:
    """A reference image's luma, and frames against it. See fluxcompile.runtime.motion."""

    def __init__(self, variant: str, height: int, width: int, channels: int) -> None: ...
    def set_reference(
        self, image: NDArray[Any], planar: bool, scale: float, offset: float, changed: Flags | None
    ) -> bool: ...
    def align(
        self,
        image: NDArray[Any],
        planar: bool,
        scale: float,
        offset: float,
        last: Ints | None,
        last_shift: tuple[int, int],
        hint: Ints | None,
        matched: float,
        exposure: bool,
        refine: bool,
        by_block: bool,
        reach: int,
        vectors: Ints,
        sad: Floats,
        still: Floats,
    ) -> tuple[tuple[int, int], tuple[float, float, float, float], list[tuple[float, float]]] | None: ...
    def level(self, index: int) -> bytes: ...
