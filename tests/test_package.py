"""What a user installs: the wheel, the sdist, an editable checkout, and an import that needs no torch."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from fluxcompile.kernels.plugins import plugin_sources

ROOMS = ("passes", "runtime", "kernels", "models")
TORCHLESS = (
    "fluxcompile",
    "fluxcompile.errors",
    "fluxcompile.geometry",
    "fluxcompile.options",
    "fluxcompile.program",
    "fluxcompile.measure.activity",
    "fluxcompile.measure.bench",
    "fluxcompile.cli",
    "fluxcompile.runtime.report",
    "fluxcompile.runtime.salience",
    "fluxcompile.runtime.video",
    "fluxcompile.tasks",
)


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; its errors become the test's message. Builds are quick ones."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"SKBUILD_CMAKE_BUILD_TYPE": "Debug", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("module", TORCHLESS)
def test_import_needs_no_torch(module: str, repo: Path) -> None:
    blocked = f"import sys; sys.modules['torch'] = None; import {module}; print('fine')"
    assert run(sys.executable, "-c", blocked, cwd=repo) == "fine\n"


def test_torch_can_be_blocked(repo: Path) -> None:
    """The control of the test above: the same block does stop a module that imports torch."""
    blocked = "import sys; sys.modules['torch'] = None; import torch"
    with pytest.raises(AssertionError, match="import of torch halted"):
        run(sys.executable, "-c", blocked, cwd=repo)


@pytest.mark.parametrize("module", TORCHLESS)
def test_import_needs_no_extension(module: str, repo: Path) -> None:
    blocked = f"import sys; sys.modules['fluxcompile.kernels._cpu'] = None; import {module}; print('fine')"
    assert run(sys.executable, "-c", blocked, cwd=repo) == "fine\n"


def test_missing_extension_says_what_to_do(repo: Path) -> None:
    blocked = "import sys; sys.modules['fluxcompile.kernels._cpu'] = None; import fluxcompile.kernels.cpu"
    with pytest.raises(AssertionError, match=r"the CPU extension is missing or does not load .*; install fluxcompile"):
        run(sys.executable, "-c", blocked, cwd=repo)


def test_missing_device_extension_says_what_to_do(repo: Path) -> None:
    code = "import sys; sys.modules['fluxcompile.kernels._device'] = None; import torch; from fluxcompile import fluxcompile;"
    code += "fluxcompile(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8)).stream(backend='cuda')"
    with pytest.raises(AssertionError, match=r"ProgramError: .* plans device kernels is missing or does not load"):
        run(sys.executable, "-c", code, cwd=repo)


@pytest.fixture(scope="module")
def built(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a wheel from the checkout, an sdist, and a wheel from that sdist."""
    out = tmp_path_factory.mktemp("built")
    source = out / "checkout"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=repo).splitlines()
    for name in files:  # a copy, so that no build folder or egg-info appears in the checkout
        original, copy = repo / name, source / name
        if original.exists() or original.is_symlink():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if original.is_symlink():
                copy.symlink_to(os.readlink(original))
            else:
                copy.write_bytes(original.read_bytes())
    (source / "kernels" / "_cpu.other-python.so").touch()  # as an editable install for another Python leaves it
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--wheel", "--outdir", out / "direct", ".", cwd=source)
    run(*build, "--sdist", "--outdir", out / "sdist", ".", cwd=source)
    (sdist,) = (out / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    run(*build, "--wheel", "--outdir", out / "again", ".", cwd=unpacked)
    (wheel,), (again,) = (out / "direct").iterdir(), (out / "again").iterdir()
    return {"wheel": wheel, "sdist": sdist, "again": again}


def wheel_files(path: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_wheel_holds_every_room(built: dict[str, Path], repo: Path) -> None:
    files = wheel_files(built["wheel"])
    ours = {
        f"fluxcompile/{path.relative_to(repo).as_posix().removeprefix('fluxcompile/')}"
        for room in ("fluxcompile", *ROOMS)
        for path in (repo / room).rglob("*")
        if (path.suffix in (".py", ".pyi", ".html", ".json", ".txt", ".typed") and path.name != "CMakeLists.txt")
        or (path.is_file() and path.is_relative_to(repo / "fluxcompile" / "onboard"))
    }
    extensions = {f"fluxcompile/kernels/{name}{sysconfig.get_config_var('EXT_SUFFIX')}" for name in ("_cpu", "_device")}
    plugins = {f"fluxcompile/kernels/csrc/trt/{name}" for name in plugin_sources()}
    assert {"fluxcompile/measure/census.txt", "fluxcompile/kernels/_cpu.pyi"} <= ours
    assert files == ours | extensions | plugins


@pytest.mark.slow
def test_sdist_gives_the_same_wheel(built: dict[str, Path]) -> None:
    assert wheel_files(built["again"]) == wheel_files(built["wheel"])
    with tarfile.open(built["sdist"]) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["wheel", "editable"])
def test_installed_without_torch(which: str, built: dict[str, Path], tmp_path: Path, repo: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    if which == "wheel":
        what: tuple[str | Path, ...] = (built["wheel"],)
    else:
        what = ("--editable", built["wheel"].parent.parent / "checkout")
    run(python, "-m", "pip", "install", "--quiet", *what, cwd=tmp_path)
    code = "import fluxcompile.passes as p, fluxcompile.runtime.video, importlib.util as u; print(p.__file__);"
    code += f"print([name for name in {(*ROOMS, 'torch')!r} if u.find_spec(name)])"
    where, strays = run(python, "-c", code, cwd=tmp_path).splitlines()
    assert where.endswith("fluxcompile/passes/__init__.py")
    assert strays == "[]"
    assert run(python, "-c", "import fluxcompile; print(fluxcompile.__file__)", cwd=repo).startswith(str(repo))
    code = "from fluxcompile.kernels import _cpu, cpu; print(_cpu.__file__); print(cpu.best_variant())"
    extension, variant = run(python, "-c", code, cwd=tmp_path).splitlines()
    assert Path(extension).parent == Path(where).parent.parent / "kernels"
    assert variant != "wide"
    assert "compile" in run(tmp_path / "venv" / "bin" / "fluxcompile", "--help", cwd=tmp_path)
