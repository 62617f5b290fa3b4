"""The machines that a program can be exported to. Plain data: another machine is another row."""

from dataclasses import dataclass

from fluxcompile.errors import ExportError

GIB = 1 << 30


@dataclass(frozen=True)
class Target:
    """A machine and the software it comes with.

    sm: compute capabilities, 72 for 7.2. tensorrt: the version to build with, and any of the same major from there on.
    interface: of the plugins. memory_bytes: of the smallest device that goes by the name. aot: compute capabilities for
    which `check` lets TensorRT for RTX make an engine ahead of time, where there is no GPU.
    """

    name: str
    device: str
    sm: tuple[int, ...]
    tensorrt: str
    cuda: str
    interface: str
    memory_bytes: int
    shares_memory: bool
    software: str
    aot: tuple[int, ...] = ()


TARGETS = {
    t.name: t
    for t in (
        Target(
            "jetson-xavier-nx", "Jetson Xavier NX", (72,), "8.5", "11.4", "IPluginV2DynamicExt",
            8 * GIB, True, "JetPack 5.1",
        ),
        Target("jetson-orin", "Jetson Orin", (87,), "10.3", "12.6", "IPluginV3", 8 * GIB, True, "JetPack 6.1"),
        Target(
            "rtx-3080", "GeForce RTX 3080", (86,), "10.3", "12.6", "IPluginV3",
            10 * GIB, False, "TensorRT 10.3", (86,),
        ),
        Target(
            "rtx", "any GeForce RTX from Turing on", (75, 86, 89), "10.3", "12.6", "IPluginV3",
            8 * GIB, False, "TensorRT 10.3", (86, 89),
        ),
    )
}  # fmt: skip


def target_of(name: str) -> Target:
    if name not in TARGETS:
        raise ExportError(f"target {name!r} is unknown; there are {', '.join(TARGETS)}")
    return TARGETS[name]
