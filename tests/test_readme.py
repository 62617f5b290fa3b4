"""Every command and every Python example in the README runs, in order, in one folder with a clip in it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluxcompile.runtime.video import Writer

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("git clone", "cd ", "pip install", "make ", "fluxcompile demo")
"""Not run here: what installs, and what .ci/run does by itself."""


def examples(repo: Path) -> list[tuple[str, str]]:
    """Return ("sh", one command) and ("python", one block) in the order of the page."""
    found = []
    for kind, text in BLOCK.findall((repo / "README.md").read_text()):
        if kind == "python":
            found.append((kind, text))
            continue
        lines = (line.split("  #")[0].strip() for line in text.replace("\\\n", " ").splitlines())
        found += [(kind, line) for line in lines if line and not line.startswith("#")]
    return found


def test_make_targets_exist(repo: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (repo / "Makefile").read_text(), re.MULTILINE))
    named = {text.split()[1] for kind, text in examples(repo) if kind == "sh" and text.startswith("make ")}
    assert named
    assert named <= targets


@pytest.mark.slow
def test_readme_runs(repo: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    generator = np.random.default_rng(0)
    room = generator.integers(0, 255, (12, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    with Writer(tmp_path / "clip.mp4", fps=10) as writer:
        for index in range(16):
            image = room.copy()
            image[100:140, 40 + 8 * (index % 8) : 80 + 8 * (index % 8)] = 255
            writer.write(image)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(repo)}
    ran = 0
    serving: list[subprocess.Popen[str]] = []
    for kind, text in examples(repo):
        if kind == "sh" and text.startswith(ELSEWHERE):
            continue
        if kind == "sh" and text.endswith("&"):
            options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
            serving.append(subprocess.Popen(["bash", "-c", f"exec {text[:-1]}"], **options))
            request.addfinalizer(serving[-1].kill)
            assert serving[-1].stderr is not None
            assert "serving" in serving[-1].stderr.readline()
            continue
        command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 3
    for server in serving:
        server.terminate()
        assert server.wait(20) == 0
