"""The CPU kernels for numpy maps (height, width, channels): each computes the rows in `cells` in place in `out`.

`cells` are int32 rows y * width + x of the output map. With `gate="largest"` or `"mean"` a row is written only if that
change against what `out` holds exceeds `bound`, and `changed`, uint8 along `cells`, tells which.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcompile.errors import OptionError
from fluxcompile.kernels.pack import Floats, Ints, PackedConv2d, PackedTranspose2d, window_taps
from fluxcompile.options import kernel_variant

try:
    from fluxcompile.kernels import _cpu
except ImportError as error:
    raise ImportError(
        f"fluxcompile.kernels: the CPU extension is missing or does not load ({error}); "
        "install fluxcompile with a C++17 compiler at hand, in a checkout with `make` or `pip install --editable .`"
    ) from error

__all__ = [
    "attention",
    "axis_table",
    "best_variant",
    "conv2d",
    "conv_transpose2d",
    "correct_attention",
    "layer_norm",
    "pointwise",
    "pool2d",
    "resample2d",
    "softmax",
    "variants",
    "window_taps",
]

Flags = NDArray[np.uint8]
Term = tuple[str, float, float, Floats | None]

CLAMPS = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


def variants() -> list[str]:
    """The variants that run on this processor, best first, and "wide", which is for tests."""
    return _cpu.variants()


def best_variant() -> str:
    """The fastest variant that runs on this processor, or the one that FLUX_VARIANT asks for."""
    known, wanted = variants(), kernel_variant()
    if wanted and wanted not in known:
        raise OptionError(f"FLUX_VARIANT is {wanted!r}; this processor runs {', '.join(known)}")
    return wanted or known[0]


def act_term(act: str, a: float = 0.0, b: float = 0.0) -> tuple[str, float, float]:
    """An activation as the kernels know it: relu and relu6 are clamps."""
    return ("clamp", *CLAMPS[act]) if act in CLAMPS else (act, a, b)


def conv2d(
    packed: PackedConv2d,
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    act: str = "none",
    a: float = 0.0,
    b: float = 0.0,
    slope: Floats | None = None,
    residual: Floats | None = None,
    residual_first: bool = False,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """act(conv(x)) + residual, or act(conv(x) + residual) if `residual_first`; also grouped, depthwise and linear."""
    act, a, b = act_term(act, a, b)
    _cpu.conv2d(
        packed.variant, x, packed.weights, packed.bias, packed.taps, out, cells, packed.groups, packed.stride,
        packed.up, act, a, b, slope, residual, residual_first, gate, bound, changed,
    )  # fmt: skip


def conv_transpose2d(
    packed: PackedTranspose2d, x: Floats, out: Floats, cells: Ints, *, changed: Flags | None = None, **end: Any
) -> None:
    """As conv2d, phase by phase."""
    y, x_at = np.divmod(cells, out.shape[1])
    for (phase_y, phase_x), conv in packed.phases.items():
        here = (y % packed.stride[0] == phase_y) & (x_at % packed.stride[1] == phase_x)
        flags = None if changed is None else np.zeros(int(here.sum()), np.uint8)
        conv2d(conv, x, out, cells[here], changed=flags, **end)
        if changed is not None and flags is not None:
            changed[here] = flags


def pool2d(
    variant: str,
    kind: str,
    taps: Ints,
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    stride: tuple[int, int] = (1, 1),
    divisor: float = 0.0,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """The max, mean or sum over taps (see `window_taps`); mean divides by `divisor`, or if 0 by the taps inside."""
    _cpu.pool2d(variant, x, taps, out, cells, kind, stride, divisor, gate, bound, changed)


def axis_table(mode: str, inputs: int, outputs: int, align_corners: bool = False) -> tuple[Ints, Floats]:
    """Return index and weight (outputs, taps) of one axis of torch's `interpolate(mode=...)`: nearest or linear."""
    at = np.arange(outputs, dtype=np.float32)
    scale = np.float32(inputs / outputs)
    if mode == "nearest":
        index = np.minimum((at * scale).astype(np.int32), inputs - 1)
        return index[:, None], np.ones((outputs, 1), np.float32)
    if align_corners:
        source = at * np.float32((inputs - 1) / max(outputs - 1, 1))
    else:
        source = np.maximum((at + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    low = np.minimum(source.astype(np.int32), inputs - 1)
    share = (source - low).astype(np.float32)
    return np.stack([low, np.minimum(low + 1, inputs - 1)], 1), np.stack([1 - share, share], 1)


def resample2d(
    variant: str,
    table_y: tuple[Ints, Floats],
    table_x: tuple[Ints, Floats],
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """A separable linear resize, from one table of (index, weight), each (outputs, taps), an axis."""
    _cpu.resample2d(variant, x, *table_y, *table_x, out, cells, gate, bound, changed)


def pointwise(
    variant: str,
    terms: list[Term],
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """A chain of terms (name, a, b, other): an activation, scale (v * a + b), add, sub, rsub, mul, div, max or min.

    `other` is a map like `out`, a map of one channel, or a vector of the channels. `x` may be `out`.
    """
    known = [(*act_term(name, a, b), other) for name, a, b, other in terms]
    _cpu.pointwise(variant, x, known, out, cells, gate, bound, changed)


def layer_norm(
    variant: str,
    gamma: Floats | None,
    beta: Floats | None,
    epsilon: float,
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """Layer norm of each row over its channels."""
    _cpu.layer_norm(variant, x, gamma, beta, epsilon, out, cells, gate, bound, changed)


def softmax(
    variant: str,
    scale: float,
    x: Floats,
    out: Floats,
    cells: Ints,
    *,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
) -> None:
    """softmax(scale * x) of each row over its channels."""
    _cpu.softmax(variant, x, scale, out, cells, gate, bound, changed)


def attention(
    variant: str,
    heads: int,
    scale: float,
    q: Floats,
    k: Floats,
    v: Floats,
    keys: Ints,
    out: Floats,
    cells: Ints,
    *,
    group_of: Ints | None = None,
    member_of: Ints | None = None,
    bias: Floats | None = None,
    gate: str = "none",
    bound: float = 0.0,
    changed: Flags | None = None,
    sums: Floats | None = None,
) -> None:
    """softmax(scale * q k' + bias) v of each row of q, head by head, over the rows `keys[group]` of k and v.

    Row r of q is in group `group_of[r]` (else 0) and member `member_of[r]` (else r) of it; `bias` is
    (groups or 1, heads or 1, members of a group, keys). `sums` (height, width, 3 heads) takes what `correct_attention`
    needs of each row.
    """
    _cpu.attention(
        variant, q, k, v, out, cells, heads, scale, keys, group_of, member_of, bias, gate, bound, changed, sums
    )  # fmt: skip


def correct_attention(
    variant: str,
    heads: int,
    scale: float,
    q: Floats,
    k: Floats,
    v: Floats,
    k_old: Floats,
    v_old: Floats,
    keys: Ints,
    mean: Floats,
    sums: Floats,
    cells: Ints,
    poor: Flags,
) -> None:
    """Rows of `mean`, which `attention` made of k_old and v_old, as it would make them of k and v.

    keys: (1, n), the rows of k and v that changed. poor: along `cells`, set for rows that must be computed anew, as
    the correction would cost precision.
    """
    _cpu.correct_attention(variant, q, k, v, k_old, v_old, mean, sums, cells, heads, scale, keys, poor)
