from collections.abc import Mapping, Sequence

Attributes = Mapping[str, list[int] | list[float]]
Described = tuple[int, str, tuple[int, ...]]
Copy = tuple[int, int, int]  # to, from, bytes
Launch = tuple[str, int, int, int, bytes]  # kernel, blocks along x and y, bytes of shared memory, arguments

THREADS: int

def ops() -> list[str]: ...
def takes(op: str, types: Sequence[str]) -> bool: ...
def outputs(
    op: str, attributes: Attributes, types: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> list[tuple[str, list[int]]]: ...
def workspace_bytes(op: str, shapes: Sequence[tuple[int, ...]]) -> int: ...
def plan(
    op: str, attributes: Attributes, inputs: list[Described], outputs: list[Described], workspace: int
) -> list[Copy | Launch]: ...

# of builds for tests
def kernels() -> list[str]: ...
def launch_on_cpu(
    kernel: str, blocks_x: int, blocks_y: int, shared_bytes: int, arguments: bytes, backward: bool
) -> None: ...
