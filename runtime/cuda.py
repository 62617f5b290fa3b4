"""Streams on an NVIDIA GPU: the blocked graph by torch and cuDNN on packed blocks, its seams by our kernels."""

from typing import Any

from fluxcompile.kernels.cuda import cuda_device, cuda_kernels
from fluxcompile.options import Policy
from fluxcompile.program import Program
from fluxcompile.runtime.stream import Stream


def cuda_stream(program: Program, policy: Policy, salience: Any = None) -> Stream:
    """The state of one camera on the GPU that torch has chosen. DeviceError where there is none."""
    device = cuda_device()
    return Stream(program, policy, salience, kernels=cuda_kernels(device), device=device)
