"""The shim's own controls: each fault planted in a kernel is found, by what finds faults in ours."""

import struct
from typing import Any

import numpy as np
import pytest

from fluxcompile.kernels import _device
from tests.kernels.shim import AROUND, GUARD_BYTES, Guarded, OutsideWrite, shimmed
from tests.kernels.test_sanitizers import address, run

pytestmark = shimmed
COUNT = 100
X = np.arange(COUNT, dtype=np.float32)


def reversed_by(fault: str, *, backward: bool = False, blocks: int = 1) -> Any:
    """What a kernel that should reverse X makes of it."""
    x, out = Guarded(X.ctypes.data, X.nbytes, False), np.zeros_like(X)
    to = Guarded(out.ctypes.data, out.nbytes, True)
    shared_bytes = 4 * _device.THREADS
    _device.launch_on_cpu(fault, blocks, 1, shared_bytes, struct.pack("PPi4x", x.at, to.at, COUNT), backward)
    to.close()
    return out


def right(fault: str) -> bool:
    return all(np.array_equal(reversed_by(fault, backward=b), X[::-1]) for b in (False, True))


def test_a_right_kernel_passes() -> None:
    assert right("fault_none")


def test_a_missing_barrier_is_found() -> None:
    assert not right("fault_no_barrier")
    assert np.isnan(reversed_by("fault_no_barrier")).any()  # shared memory was read before it was written


@pytest.mark.parametrize("backward", [False, True])
def test_a_barrier_that_some_threads_skip_is_found(backward: bool) -> None:
    with pytest.raises(RuntimeError, match=r"156 threads have ended, others wait at faults.cuh:\d+"):
        reversed_by("fault_barrier_in_a_branch", backward=backward)
    assert right("fault_none")  # the next launch begins anew


def test_threads_at_different_barriers_are_found() -> None:
    with pytest.raises(RuntimeError, match="wait at different barriers"):
        reversed_by("fault_two_barriers")


@pytest.mark.skipif(not GUARD_BYTES, reason="under AddressSanitizer there are no guards to write to")
def test_leaving_memory_is_found() -> None:
    assert np.isnan(reversed_by("fault_read_beyond")).any()
    with pytest.raises(OutsideWrite):
        reversed_by("fault_write_beyond")
    with pytest.raises(RuntimeError, match="a write beyond shared memory"):
        reversed_by("fault_shared_beyond")


@address
@pytest.mark.parametrize("fault", ["fault_read_beyond", "fault_write_beyond", "fault_shared_beyond"])
def test_leaving_memory_is_seen_by_the_sanitizer(fault: str) -> None:
    call = "launch_on_cpu('{}', 1, 1, 1024, struct.pack('PPi4x', x.ctypes.data, y.ctypes.data, 100), False)"
    made = "import struct, numpy as np; x, y = np.zeros(100, np.float32), np.zeros(100, np.float32)"
    assert run(call.format("fault_none"), module="_device", before=made) == (0, "")
    status, said = run(call.format(fault), module="_device", before=made)
    assert status != 0
    assert "heap-buffer-overflow" in said
    assert fault in said


def test_a_result_that_depends_on_the_order_of_blocks_is_found() -> None:
    first, last = (reversed_by("fault_order", backward=b, blocks=4)[0] for b in (True, False))
    assert (first, last) == (0, 3)


def test_what_the_shim_is_given_is_checked() -> None:
    with pytest.raises(ValueError, match="no kernel named fault_unknown"):
        reversed_by("fault_unknown")


def test_guards_hold_what_they_should() -> None:
    read, written = (Guarded(X.ctypes.data, X.nbytes, w) for w in (False, True))
    assert np.isnan(read.buffer.view(np.float32)).sum() * 4 == 2 * GUARD_BYTES
    assert (written.buffer == AROUND).sum() == 2 * GUARD_BYTES
    assert np.isnan(written.inside.view(np.float32)).all()
