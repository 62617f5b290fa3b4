"""Build the CPU extension in place: `python -m fluxcompile.kernels.build`; objects go to build/kernels."""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(jobs: int = 1, sanitize: bool = False) -> Path:
    """Compile with CMake and return the extension, which lies beside this file (sanitized: in its build folder)."""
    folder = HERE.parent / "build" / ("kernels-sanitized" if sanitize else "kernels")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    switches = [f"-DPython_EXECUTABLE={sys.executable}", f"-DFLUX_SANITIZE={'ON' if sanitize else 'OFF'}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # cmake from PyPI lies there
    run = [["cmake", "-S", str(HERE), "-B", str(folder), *generator, *switches]]
    run += [["cmake", "--build", str(folder), "--parallel", str(jobs)]]
    for command in run:
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    (made,) = folder.glob(f"_cpu*{sysconfig.get_config_var('SHLIB_SUFFIX')}")
    return made if sanitize else Path(shutil.copy2(made, HERE / made.name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, left in build/kernels-sanitized")
    arguments = parser.parse_args()
    print(build(arguments.jobs, arguments.sanitize))
