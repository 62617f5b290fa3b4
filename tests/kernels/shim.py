"""Device kernels run on the CPU, in memory that shows when they leave it: what the tests of them share."""

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fluxcompile.kernels import _device
from fluxcompile.kernels.device import Described, Runner, kernels

GUARD_BYTES = 0 if "asan" in os.environ.get("LD_PRELOAD", "") else 256
"""Before and after each tensor; AddressSanitizer has guards of its own."""
INSIDE, AROUND = 0xFF, 0xA5
"""What memory holds before a kernel writes it - as a float NaN, as an index far outside - and what its guards hold."""

shimmed = pytest.mark.skipif(
    not hasattr(_device, "launch_on_cpu"), reason="this build has no shim; `make test` makes one"
)
MASKS = ("gate", "limit", "miss_window")
"""Ops that give a mask, of the type of the one they take."""
BYTES = {"f32": 4, "f16": 2, "f64": 8, "i32": 4, "i64": 8, "u8": 1, "b8": 1}


class OutsideWrite(AssertionError):
    """A kernel wrote beside a tensor."""


@dataclass
class Guarded:
    """A copy of some memory, with guards; NaN beside what is read, a pattern beside what is written."""

    address: int
    bytes: int
    written: bool
    buffer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.buffer = np.full(self.bytes + 2 * GUARD_BYTES, AROUND if self.written else INSIDE, np.uint8)
        self.inside[:] = INSIDE if self.written else self._outer
        self.at = self.inside.ctypes.data

    @property
    def inside(self) -> Any:
        return self.buffer[GUARD_BYTES : GUARD_BYTES + self.bytes]

    @property
    def _outer(self) -> Any:
        return np.frombuffer((ctypes.c_uint8 * self.bytes).from_address(self.address), np.uint8) if self.bytes else []

    def close(self) -> None:
        """Look at the guards, and give what was written to the memory this is a copy of."""
        if not self.written:
            return
        for guard in (self.buffer[:GUARD_BYTES], self.buffer[GUARD_BYTES + self.bytes :]):
            if not (guard == AROUND).all():
                raise OutsideWrite("a kernel wrote beside a tensor")
        if self.bytes:
            ctypes.memmove(self.address, self.at, self.bytes)


def runner(backward: bool) -> Runner:
    """Runs ops by the shim, threads and blocks in this order, on guarded copies of their tensors."""

    def run(op: str, attributes: Any, inputs: list[Described], outputs: list[Described], workspace: int) -> None:
        wide = _device.workspace_bytes(op, [shape for _, _, shape in inputs])
        copies = [
            Guarded(at, int(np.prod(shape, dtype=np.int64)) * BYTES[dtype], written)
            for written, tensors in ((False, inputs), (True, outputs))
            for at, dtype, shape in tensors
        ]
        scratch = Guarded(workspace, wide, True)
        moved = [(c.at, dtype, shape) for c, (_, dtype, shape) in zip(copies, [*inputs, *outputs], strict=True)]
        split = len(inputs)
        for step in _device.plan(op, attributes, moved[:split], moved[split:], scratch.at):
            if len(step) == 3:
                ctypes.memmove(*step)
            else:
                _device.launch_on_cpu(*step, backward=backward)
        for copy in (*copies, scratch):
            copy.close()

    return run


def both_orders(name: str) -> Iterator[Callable[..., Any]]:
    """The op by its kernels, with threads and blocks in one order and in the other."""
    for backward in (False, True):
        yield kernels(runner(backward))[name]
