"""The sources of the TensorRT plugins: what an engine's bundle holds, to be built on the target."""

from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc" / "trt"
FOLDERS = ("kernels", "ops", "plugin")


def plugin_sources() -> dict[str, Path]:
    """Each file by its path in the bundle's folder of plugins, where `cmake -B build` finds its CMakeLists.txt."""
    found = [SOURCES / "CMakeLists.txt", *(p for folder in FOLDERS for p in sorted((SOURCES / folder).iterdir()))]
    return {path.relative_to(SOURCES).as_posix(): path for path in found}
