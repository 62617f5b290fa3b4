"""What runs in threads; without torch, so that `make tsan` watches our code alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fluxcompile.kernels.pack import pack_conv2d
from tests.kernels.compare import VARIANTS, cpu, reals


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_share_a_map(variant: str) -> None:
    """Threads take parts of one list, without the GIL; the result is the same to the bit."""
    x, weight = reals(0, 40, 40, 16), reals(1, 24, 16, 3, 3)
    packed, cells = pack_conv2d(variant, weight, padding=(1, 1)), np.arange(1600, dtype=np.int32)
    alone, together = np.zeros((2, 40, 40, 24), np.float32)
    cpu.conv2d(packed, x, alone, cells, act="silu")
    parts = [part.copy() for part in np.array_split(cells, 4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: cpu.conv2d(packed, x, together, part, act="silu"), parts))
    np.testing.assert_array_equal(together, alone)
