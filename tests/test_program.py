"""A saved program runs as it did; a broken, altered or newer file says so; torch is not needed to read one."""

import copy
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Frames, Net, Policy, ProgramError, fluxcompile, load
from fluxcompile.program import FORMAT, load_program
from fluxcompile.runtime.execute import Executor
from tests.helpers import Do, assert_matches, seeded

SHAPE = (1, 3, 16, 16)


def forward(x: Tensor, conv: nn.Module, linear: nn.Module) -> dict[str, Any]:
    y = conv(x).relu()
    return {"map": torch.max_pool2d(y, 3, 2, 1), "heads": [linear(y.mean((2, 3))), None]}


@pytest.fixture(scope="module")
def net() -> Net:
    model = seeded(lambda: Do(forward, nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)))
    return fluxcompile(model, torch.zeros(SHAPE), policy=Policy(exact=False, threshold=0.25))


@pytest.fixture(scope="module")
def file(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.flux"
    net.save(path)
    return path


def test_round_trip(net: Net, file: Path) -> None:
    loaded = load(file)
    assert loaded.text() == net.text()
    assert loaded.program.graphs == net.program.graphs
    assert str(loaded.explain()) == str(net.explain())
    assert loaded.input_shapes == [SHAPE]
    one, other = net.stream(), loaded.stream()
    assert other.policy == Policy(exact=False, threshold=0.25)
    frame = torch.rand(SHAPE)
    for i in range(4):
        frame = frame.clone()
        frame[..., i, i] += 0.2 * i
        assert_matches(other(frame), one(frame))
        assert_matches(loaded.dense(frame), net.dense(frame))


def test_saving_is_deterministic_and_leaves_nothing_behind(net: Net, file: Path, tmp_path: Path) -> None:
    net.save(tmp_path / "again.flux")
    assert (tmp_path / "again.flux").read_bytes() == file.read_bytes()
    load(file).save(tmp_path / "again.flux")
    assert (tmp_path / "again.flux").read_bytes() == file.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.flux"]


def test_a_file_holds_no_pickle(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["manifest.json", "program.json", "constants.safetensors"]
        assert json.loads(archive.read("manifest.json"))["format"] == FORMAT


def test_frames_are_kept(tmp_path: Path) -> None:
    frames = Frames(mean=(0.5,), std=(0.2,))
    fluxcompile(nn.ReLU().eval(), torch.zeros(SHAPE), frames=frames).save(tmp_path / "net.flux")
    loaded = load(tmp_path / "net.flux")
    assert loaded.input_shapes == [(16, 16, 3)]
    assert loaded.program.frames is not None
    assert tuple(loaded.program.frames["mean"]) == (0.5,)


# --- broken files -----------------------------------------------------------------------------------------------------


def refused(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with pytest.raises(ProgramError, match=r"broken\.flux: ") as error:
        load_program(path)
    return str(error.value)


def test_truncated_anywhere(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for end in [0, 1, 4, 30, *range(40, len(data), len(data) // 60), len(data) - 22, len(data) - 1]:
        assert "not a whole .flux file" in refused(data[:end], tmp_path / "broken.flux")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_one_altered_byte(file: Path, place: float, flip: int) -> None:
    """Refused, or harmless: never another program, never another kind of error."""
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= flip
    unharmed_or_refused(bytes(data), file)


def test_one_altered_byte_of_the_directory(file: Path) -> None:
    """Every byte of the archive's own records, where each has a meaning of its own."""
    data = file.read_bytes()
    start = data.index(b"PK\x01\x02")
    for at in (*range(45), *range(start, len(data))):
        for flip in (0x01, 0x08, 0xFF):
            unharmed_or_refused(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], file)


def unharmed_or_refused(data: bytes, file: Path) -> None:
    path = file.with_name("broken.flux")
    path.write_bytes(data)
    try:
        found = load_program(path)
    except ProgramError:
        return
    want = load_program(file)
    assert found.graphs == want.graphs
    assert all((found.constants[k] == v).all() for k, v in want.constants.items())


def rewritten(file: Path, **parts: bytes) -> bytes:
    """The file with parts replaced and, unless given, a manifest that fits."""
    names = {"program": "program.json", "constants": "constants.safetensors", "manifest": "manifest.json"}
    with zipfile.ZipFile(file) as archive:
        found = {n: archive.read(n) for n in archive.namelist()}
    found |= {names[k]: v for k, v in parts.items()}
    if "manifest" not in parts:
        manifest = json.loads(found["manifest.json"])
        manifest |= {n: hashlib.sha256(found[n]).hexdigest() for n in ("program.json", "constants.safetensors")}
        found["manifest.json"] = json.dumps(manifest).encode()
    out = file.with_name("rewritten.flux")
    with zipfile.ZipFile(out, "w") as archive:
        for name, value in found.items():
            archive.writestr(name, value)
    return out.read_bytes()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"manifest": b'{"format": 99}'}, f"format 99, this fluxcompile reads format {FORMAT}; upgrade fluxcompile"),
        ({"manifest": b'{"format": 0}'}, "format 0, .*compile the model again"),
        ({"manifest": b'{"format": 1}'}, r"program\.json was altered"),
        ({"manifest": b'{"format": "new"}'}, "not a whole|format new"),
        ({"manifest": b"[]"}, "not a whole"),
        ({"manifest": b"{"}, "not a whole"),
        ({"program": b"{}"}, "does not hold a program"),
        ({"program": b"[1, 2]"}, "does not hold a program"),
        ({"program": b"\xff"}, "does not hold a program"),
        ({"constants": b"nothing"}, "does not hold a program"),
    ],
)
def test_other_contents(parts: dict[str, bytes], message: str, file: Path, tmp_path: Path) -> None:
    assert re.search(message, refused(rewritten(file, **parts), tmp_path / "broken.flux"))


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.flux", tmp_path):
        with pytest.raises(ProgramError, match="no such file"):
            load(path)


def test_an_op_of_another_version(net: Net) -> None:
    graph = copy.deepcopy(net.program.graphs["blocked"])
    graph.ops[0].op = "flux.teleport.default"
    with pytest.raises(
        ProgramError, match=r"unknown op flux\.teleport\.default; this program was made by another version"
    ):
        Executor(graph, {})
    graph.ops[0].op = "aten.teleport.default"
    with pytest.raises(ProgramError, match=r"this torch .* has no operator aten\.teleport\.default"):
        Executor(graph, {})


# --- without torch ----------------------------------------------------------------------------------------------------

CODE = """
import sys
sys.modules["torch"] = None
import fluxcompile
net = fluxcompile.load(sys.argv[1])
print(net.explain())
assert net.text().startswith("%")
assert net.input_shapes == [(1, 3, 16, 16)]
try:
    net.stream(backend="reference")
except fluxcompile.ProgramError as e:
    print(e)
"""


def test_reading_needs_no_torch(net: Net, file: Path, repo: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(file)], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(net.explain()) in done.stdout
    assert "needs torch and this machine has none; pip install fluxcompile[compile]" in done.stdout
