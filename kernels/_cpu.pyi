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
) -> None: ...
