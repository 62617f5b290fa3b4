"""Names on the command line, and what they stand for."""

import importlib.util
from pathlib import Path

import pytest

from fluxcompile import sources
from fluxcompile.errors import OptionError
from fluxcompile.sources import SourceError, find, import_torchvision, named_task, net_of

MODULE = """
import torch
net = torch.nn.Conv2d(3, 4, 1)
def build():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
class Holder:
    build = staticmethod(build)
def number():
    return 4

def count_task():
    from fluxcompile.tasks import Task
    return Task.custom(salience=lambda outputs, size: None, agreement=lambda one, two: 1, shift=lambda one, offset: one)
made = count_task()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current folder with a Python module in it; its name is used by no other test."""
    (tmp_path / "flux_source_example.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["net", "build", "Holder.build"])
def test_module_and_callable(name: str, here: Path) -> None:
    found = find(f"flux_source_example:{name}")
    assert not found.module.training
    assert (found.shapes, found.pixels) == (None, "unit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.onnx", "no such file"),
        ("nothing.pt2", "no such file"),
        ("nothing.pt", "no such file"),
        ("nothing", "no such file; a model is a file"),
        ("notes.txt", "what is this"),
        ("no_such_module:build", "no Python module no_such_module"),
        ("flux_source_example:missing", "has no missing"),
        ("flux_source_example:number", "gave int, not an nn.Module"),
        ("zoo:torchvision/missing", "no such model in torchvision"),
    ],
)
def test_what_cannot_be_opened(text: str, message: str, here: Path) -> None:
    (here / "notes.txt").write_text("text")
    with pytest.raises(SourceError, match=message):
        find(text)


@pytest.mark.parametrize("name", ["made", "count_task"])
def test_a_task_of_ones_own(name: str, here: Path) -> None:
    found = named_task(f"flux_source_example:{name}")
    assert found is not None
    assert (found.name, found.figure) == ("custom", "agreement")


def test_tasks_by_name(here: Path) -> None:
    assert named_task(None) is None
    found = named_task("segment")
    assert found is not None
    assert found.name == "segment"
    with pytest.raises(OptionError, match="of your own functions"):
        named_task("count")
    for name, message in (("number", "gave int, not a fluxcompile"), ("build", "gave Sequential"), ("no", "has no no")):
        with pytest.raises(SourceError, match=message):
            named_task(f"flux_source_example:{name}")


def test_module_needs_an_example(here: Path) -> None:
    with pytest.raises(SourceError, match="say --example"):
        net_of("flux_source_example:net")


def test_compiled_program_takes_no_compiler_options() -> None:
    with pytest.raises(SourceError, match="is compiled already"):
        net_of("net.flux", shapes=[(1, 3, 8, 8)])
    with pytest.raises(SourceError, match="--attention belong to"):
        net_of("net.flux", attention="incremental")
    with pytest.raises(SourceError, match="no such file"):
        net_of("missing.flux")


def test_options_reach_the_compiler(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def compiler(model: object, example: object, **options: object) -> str:
        asked.update(options, model=model, example=example)
        return "net"

    monkeypatch.setattr(sources, "_compiler", lambda name: compiler)
    options = {"without": ["fold_batch_norm"], "attention": "active"}
    assert net_of("flux_source_example:net", [(1, 3, 8, 8)], "imagenet", **options) == "net"
    assert asked["attention"] == "active"
    assert asked["frames"] == sources.IMAGENET
    assert asked["without"] == ["fold_batch_norm"]
    assert tuple(asked["example"].shape) == (1, 3, 8, 8)
    assert net_of("flux_source_example:net", [(1, 3, 8, 8), (1, 2)], None) == "net"
    assert asked["frames"] is None
    assert [tuple(tensor.shape) for tensor in asked["example"]] == [(1, 3, 8, 8), (1, 2)]
    (here / "model.onnx").write_bytes(b"")
    net_of("model.onnx", None, "auto")
    assert (asked["model"], asked["example"], asked["frames"]) == (Path("model.onnx"), None, sources.PIXELS["unit"])


def test_our_zoo_comes_first() -> None:
    found = find("zoo:resnet-mini")
    assert (found.shapes, found.pixels) == ([(1, 3, 64, 64)], "imagenet")


def test_torchvision_and_timm() -> None:
    """torchvision opens even where its compiled operators do not fit this torch."""
    if not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed")
    assert import_torchvision() is import_torchvision()
    assert find("zoo:resnet18").shapes == [(1, 3, 224, 224)]
    assert find("zoo:timm/test_resnet").shapes == [(1, 3, 160, 160)]
    assert type(find("zoo:fcn_resnet50").module).__module__.startswith("torchvision")  # and no weights are fetched


def test_ultralytics_weights_have_a_usual_shape(here: Path) -> None:
    (here / "yolo.pt").write_bytes(b"")
    found = find("yolo.pt")
    assert (found.module, found.shapes, found.pixels) == (Path("yolo.pt"), [(1, 3, 640, 640)], "unit")
