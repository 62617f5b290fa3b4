"""What the tests of bundles share: one exported net, copies of it to break, and the stand-ins for CUDA and TensorRT."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from fluxcompile import fluxcompile
from fluxcompile.bundle import files_of, read_manifest, write_manifest
from fluxcompile.net import Net
from tests.helpers import seeded

FAKES = Path(__file__).parent / "fake_tensorrt"


def small_net(h: int = 48, w: int = 64) -> Net:
    """Convolutions and a pool: tiles of two scales, masks, gates and caches that move."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 3, padding=1))

    return fluxcompile(seeded(make), torch.zeros(1, 3, h, w))


def altered(bundle: Path, folder: Path, name: str, change: Any, *, hide: bool = False) -> Path:
    """A copy of a bundle with one file changed; with `hide` the manifest is made to agree."""
    copy = folder / "altered"
    shutil.copytree(bundle, copy)
    path = copy / name
    path.write_bytes(change(path.read_bytes()))
    if hide:
        write_manifest(copy, msgspec.structs.replace(read_manifest(copy), files=files_of(copy)))
    return copy


class Machine:
    """The stand-in for a target: TensorRT, the CUDA runtime and the plugins' library, for scripts run from a bundle.

    packages: those of TensorRT that are stood in for; the others are what is installed.
    """

    def __init__(self, folder: Path, packages: tuple[str, ...] = ("tensorrt.py", "tensorrt_rtx.py")) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("the stand-in for CUDA takes a C compiler")
        self.folder = folder
        self.library = folder / "libcudart.so"
        command = [compiler, "-shared", "-fPIC", "-w", "-o", self.library, FAKES / "cudart.c"]
        subprocess.run(command, check=True)
        self.plugins = folder / "libflux_plugins.so"
        (folder / "empty.c").write_text("")
        subprocess.run([compiler, "-shared", "-o", self.plugins, folder / "empty.c"], check=True)
        for name in packages:
            shutil.copyfile(FAKES / name, folder / name)

    def install(self, bundle: Path) -> Path:
        """What `cmake --build` would leave."""
        place = bundle / "plugin" / "build"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.plugins, place / "libflux_plugins.so")
        return bundle

    def run(self, bundle: Path, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A script of the bundle, alone."""
        code = f"sys.argv[0] = {script!r}; import runpy; runpy.run_path({script!r}, run_name='__main__')"
        return self.run_code(bundle, code, *arguments, **settings)

    def run_code(self, bundle: Path, code: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Python beside the bundle's scripts; nothing of fluxcompile can be imported."""
        block = f"import sys; sys.modules['fluxcompile'] = None; sys.path.insert(0, '.'); {code}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "LD_LIBRARY_PATH": str(self.folder),
            **settings,
        }
        return subprocess.run(
            [sys.executable, "-c", block, *arguments], cwd=bundle, env=environment, capture_output=True, text=True
        )
