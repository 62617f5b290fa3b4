"""What a caller may pass is checked before any kernel runs: a ValueError that says what and where."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluxcompile.errors import OptionError
from fluxcompile.kernels import _cpu
from fluxcompile.kernels.pack import pack_conv2d
from tests.kernels.compare import Array, cpu


def arguments() -> dict[str, Any]:
    """Arguments of a convolution that are in order."""
    packed = pack_conv2d("plain", np.ones((6, 4, 3, 3), np.float32), padding=(1, 1))
    return {
        "variant": "plain", "x": np.ones((5, 7, 4), np.float32), "weights": packed.weights, "bias": packed.bias,
        "taps": packed.taps, "out": np.zeros((5, 7, 6), np.float32), "cells": np.arange(35, dtype=np.int32),
        "groups": 1, "stride": (1, 1), "up": (1, 1), "act": "none", "a": 0.0, "b": 0.0, "slope": None,
        "residual": None, "residual_first": False, "gate": "none", "bound": 0.0, "changed": None,
    }  # fmt: skip


def test_arguments_are_in_order() -> None:
    """The control: what the cases below change is fine unchanged."""
    given = arguments()
    _cpu.conv2d(**given)
    assert given["out"][2, 3].tolist() == [36] * 6


WIDE = np.zeros((5, 7, 12), np.float32)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "variant": ({"variant": "sse9"}, "no variant 'sse9'"),
    "type": ({"x": np.ones((5, 7, 4))}, "x must be of type float32"),
    "type of out": ({"out": np.ones((5, 7, 6), np.float64)}, "out must be of type float32"),
    "type of cells": ({"cells": np.arange(35)}, "cells must be of type int32"),
    "dimensions": ({"x": np.ones((1, 5, 7, 4), np.float32)}, "x has 4 dimensions"),
    "empty": ({"x": np.ones((0, 7, 4), np.float32)}, "x has size 0 in dimension 0"),
    "channels not dense": ({"x": np.ones((5, 7, 8), np.float32)[:, :, ::2]}, "stride 2 between channels"),
    "rows not evenly spaced": ({"x": np.ones((5, 9, 4), np.float32)[:, :7]}, "x has strides"),
    "rows backwards": ({"x": np.ones((5, 7, 4), np.float32)[::-1]}, "x has strides"),
    "rows repeated": ({"x": np.broadcast_to(np.ones((1, 1, 4), np.float32), (5, 7, 4))}, "x has strides"),
    "cell too far": ({"cells": np.array([0, 35], np.int32)}, r"cells\[1\] is 35, the output map has 5 x 7 rows"),
    "cell negative": ({"cells": np.array([-1], np.int32)}, r"cells\[0\] is -1"),
    "cells strided": ({"cells": np.arange(35, dtype=np.int32)[::2]}, "cells must be a dense vector"),
    "cells a table": ({"cells": np.zeros((2, 2), np.int32)}, "cells must be a vector"),
    "weights": ({"weights": np.ones(7, np.float32)}, "weights packed for this variant must be a dense vector of 216"),
    "bias": ({"bias": np.ones(7, np.float32)}, "bias packed for this variant must be a dense vector of 6"),
    "taps": ({"taps": np.zeros((3, 9), np.int32)}, "taps must be"),
    "taps not dense": ({"taps": np.zeros((2, 18), np.int32)[:, ::2]}, "taps must be dense"),
    "taps far": ({"taps": np.full((2, 9), 1 << 24, np.int32)}, "farther than"),
    "groups": ({"groups": 3}, "3 groups do not divide 4 input and 6 output channels"),
    "no groups": ({"groups": 0}, "0 groups"),
    "stride": ({"stride": (0, 1)}, r"stride is \(0, 1\)"),
    "stride far": ({"stride": (1, 1 << 30)}, "leads outside"),
    "up": ({"up": (1, 0)}, r"up is \(1, 0\)"),
    "act": ({"act": "swish"}, "activation 'swish' is not one of none, clamp"),
    "prelu without slope": ({"act": "prelu"}, "`slope` is needed"),
    "slope without prelu": ({"slope": np.ones(6, np.float32)}, "`slope` is needed"),
    "slope": ({"act": "prelu", "slope": np.ones(5, np.float32)}, "slope must be a dense vector of 6"),
    "residual": ({"residual": np.ones((5, 7, 5), np.float32)}, r"residual is \(5, 7, 5\), the output map"),
    "gate": ({"gate": "median", "changed": np.zeros(35, np.uint8)}, "gate 'median' is not one of none, largest, mean"),
    "gate without changed": ({"gate": "mean"}, "`changed` is needed"),
    "changed without gate": ({"changed": np.zeros(35, np.uint8)}, "`changed` is needed"),
    "changed": ({"gate": "mean", "changed": np.zeros(34, np.uint8)}, "changed must be a dense vector of 35"),
    "type of changed": ({"gate": "mean", "changed": np.zeros(35, bool)}, "changed must be of type uint8"),
    "bound": ({"bound": -1.0}, "bound is -1"),
    "bound NaN": ({"bound": float("nan")}, "bound is nan"),
    "overlap": ({"x": WIDE[:, :, :4], "out": WIDE[:, :, 3:9]}, "x and out overlap"),
    "overlap of other steps": (
        {"x": WIDE.reshape(-1)[:140].reshape(5, 7, 4), "out": WIDE[:, :, :6]},
        "x and out overlap",
    ),
    "residual overlaps": ({"residual": WIDE[:, :, 1:7], "out": WIDE[:, :, :6]}, "residual overlaps"),
}


@pytest.mark.parametrize("case", CASES)
def test_convolution_refuses(case: str) -> None:
    change, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        _cpu.conv2d(**(arguments() | change))


def test_slices_of_one_map_do_not_overlap() -> None:
    """A concatenation is a layout: the convolution reads some channels of the map that it writes others of."""
    wide = np.ones((5, 7, 12), np.float32)
    _cpu.conv2d(**(arguments() | {"x": wide[:, :, 8:], "out": wide[:, :, 2:8]}))
    assert wide[2, 3].tolist() == [1, 1] + [36] * 6 + [1] * 4


def test_out_must_be_writable() -> None:
    given = arguments()
    given["out"].flags.writeable = False
    with pytest.raises(TypeError):
        _cpu.conv2d(**given)


X, CELLS = np.zeros((2, 3, 4), np.float32), np.arange(6, dtype=np.int32)


def out() -> Array:
    return np.zeros((2, 3, 4), np.float32)


TABLE = cpu.axis_table("linear", 2, 2), cpu.axis_table("linear", 3, 3)
FAR = (np.array([[0], [2]], np.int32), np.ones((2, 1), np.float32))
OTHERS: dict[str, tuple[Callable[[], None], str]] = {
    "pool channels": (
        lambda: cpu.pool2d("plain", "max", CELLS.reshape(2, 3), X[:, :, :3], out(), CELLS),
        "x has 3 channels",
    ),
    "pool kind": (
        lambda: cpu.pool2d("plain", "min", CELLS.reshape(2, 3), X, out(), CELLS),
        "kind 'min' is not one of max",
    ),
    "pool divisor": (
        lambda: cpu.pool2d("plain", "mean", CELLS.reshape(2, 3), X, out(), CELLS, divisor=-1.0),
        "divisor is -1",
    ),
    "resample index": (lambda: cpu.resample2d("plain", FAR, TABLE[1], X, out(), CELLS), "index_y reads 2, x has 2"),
    "resample outputs": (
        lambda: cpu.resample2d("plain", TABLE[1], TABLE[1], X, out(), CELLS),
        r"index_y must be \(2, taps\)",
    ),
    "resample weights": (
        lambda: cpu.resample2d("plain", (TABLE[0][0], TABLE[0][1][:, :1]), TABLE[1], X, out(), CELLS),
        "weight_y must have the shape of index_y",
    ),
    "term": (
        lambda: cpu.pointwise("plain", [("pow", 0, 0, None)], X, out(), CELLS),
        "term 'pow' is not one of act, scale",
    ),
    "term act": (lambda: cpu.pointwise("plain", [("act", 0, 0, None)], X, out(), CELLS), "name the activation itself"),
    "term shape": (lambda: _cpu.pointwise("plain", X, [("add", 0)], out(), CELLS, "none", 0, None), "a term must be"),
    "term needs": (
        lambda: cpu.pointwise("plain", [("add", 0, 0, None)], X, out(), CELLS),
        "'add' needs another operand",
    ),
    "term takes none": (
        lambda: cpu.pointwise("plain", [("silu", 0, 0, X)], X, out(), CELLS),
        "'silu' takes no operand",
    ),
    "operand": (lambda: cpu.pointwise("plain", [("mul", 0, 0, X[:1])], X, out(), CELLS), r"an operand is \(1, 3, 4\)"),
    "operand vector": (
        lambda: cpu.pointwise("plain", [("mul", 0, 0, np.ones(3, np.float32))], X, out(), CELLS),
        "dense vector of 4",
    ),
    "row op map": (lambda: cpu.softmax("plain", 1.0, X[:1], out(), CELLS), r"x is \(1, 3, 4\)"),
    "gamma": (
        lambda: cpu.layer_norm("plain", X[0, 0, :2], None, 1e-5, X, out(), CELLS),
        "gamma must be a dense vector of 4",
    ),
    "epsilon": (lambda: cpu.layer_norm("plain", None, None, -1.0, X, out(), CELLS), "epsilon is -1"),
    "seconds": (lambda: _cpu.peak_gflops("plain", 0.0), "seconds is 0"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_kernels_refuse(case: str) -> None:
    run, message = OTHERS[case]
    with pytest.raises(ValueError, match=message):
        run()


def test_variants() -> None:
    """The best comes first, the test's own last; all that run here are in the build."""
    names = cpu.variants()
    assert set(names) <= set(_cpu.built())
    assert names[-1] in ("wide", "plain")
    assert cpu.best_variant() != "wide"
    for name in set(_cpu.built()) - set(names):
        with pytest.raises(ValueError, match="needs instructions that this processor lacks"):
            _cpu.panel(name)


def test_the_environment_may_name_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    best = cpu.variants()[0]
    assert cpu.best_variant() == best
    monkeypatch.setenv("FLUX_VARIANT", "plain")
    assert cpu.best_variant() == "plain"
    monkeypatch.setenv("FLUX_VARIANT", "mmx")
    with pytest.raises(OptionError, match=f"FLUX_VARIANT is 'mmx'; this processor runs {best}"):
        cpu.best_variant()
