"""Any model becomes a functional graph on static shapes; what cannot says where and why."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.errors import CaptureError
from fluxcompile.ir import text
from fluxcompile.passes.capture import capture, copy_graph, template
from fluxcompile.verify import verify
from tests.helpers import Do, assert_equal_numbers, assert_matches, captured, seeded, state_of

SHAPE = (1, 3, 8, 8)
X = torch.randn(SHAPE)


def test_text() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True))
    assert_expected_inline(
        text(captured(model, SHAPE)),
        """\
%input_1: f32[1x3x8x8] = input
%conv2d: f32[1x4x4x4] = aten.conv2d(%input_1, @0.weight, @0.bias, stride=[2, 2], padding=[1, 1])  # 0
%relu: f32[1x4x4x4] = aten.relu(%conv2d)  # 1
return [%relu]""",
    )


INPLACE: dict[str, Any] = {
    "relu_": lambda x: (x * 2).relu_() + 1,
    "read before and after": lambda x: _read_twice(x * 2),
    "of a view": lambda x: _of_view(x * 2),
    "before a view": lambda x: (x * 2).add_(1).view(1, -1).mul_(3),
    "of a slice": lambda x: _of_slice(x * 2),
    "of a part": lambda x: _of_part(x * 2),
    "twice": lambda x: (x * 2).add_(1).relu_().mul_(x),
    "norm beside it": lambda x: _of_slice(F.batch_norm(x, torch.zeros(3), torch.ones(3))),
}


def _read_twice(y: Tensor) -> Tensor:
    before = y * 3
    y.add_(1)
    return before + y


def _of_view(y: Tensor) -> Tensor:
    flat = y.view(-1)
    y.add_(1)
    return flat + y.reshape(-1)


def _of_slice(y: Tensor) -> Tensor:
    y[:, 1] = 0
    return y


def _of_part(y: Tensor) -> Tensor:
    a, _, _ = y.split(1, 1)
    a.sub_(5)
    return y


@pytest.mark.parametrize("name", INPLACE)
def test_in_place_becomes_functional(name: str) -> None:
    model = Do(INPLACE[name])
    module = captured(model, SHAPE)
    verify(module, "captured", "capture")
    assert_equal_numbers(model, module, X)


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


TREES: dict[str, tuple[Any, Any]] = {
    "tensor": (lambda x: x + 1, 0),
    "tuple": (lambda x: (x, x + 1), {"tuple": [0, 1]}),
    "nested": (lambda x: {"a": [x + 1, (x,)], "b": x}, {"dict": {"a": {"list": [0, {"tuple": [1]}]}, "b": 2}}),
}


@pytest.mark.parametrize("name", TREES)
def test_output_trees(name: str) -> None:
    function, want = TREES[name]
    assert captured(Do(function), SHAPE).meta["template"] == want


def test_a_template_keeps_what_is_no_tensor() -> None:
    tree: Any = {"a": [0, None], "b": Pair(1, 2)}  # type: ignore[arg-type]
    assert template(tree) == {"dict": {"a": {"list": [0, None]}, "b": {"tuple": [1, 2]}}}
    with pytest.raises(CaptureError, match="returns a slice"):
        template(slice(3))


def test_an_exported_program_and_its_file(tmp_path: Path) -> None:
    model = seeded(lambda: nn.Conv2d(3, 4, 3))
    program = torch.export.export(model, (X,))
    torch.export.save(program, tmp_path / "net.pt2")
    for source in (program, tmp_path / "net.pt2", str(tmp_path / "net.pt2")):
        assert_equal_numbers(model, capture(source), X)


def test_several_inputs() -> None:
    model = Do(lambda x, y: x * y)
    module = captured(model, SHAPE, (1, 3, 1, 1))
    assert_equal_numbers(model, module, X, torch.rand(1, 3, 1, 1))


def test_the_model_is_not_changed() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
    before, want = state_of(model), model(X).detach()
    captured(model, SHAPE)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(model(X), want)


class Remembers(nn.Module):
    """As detection heads do that keep the grid of the last input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.size: tuple[int, ...] = ()
        self.calls: list[int] = []
        self.register_buffer("grid", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.size != tuple(x.shape[2:]):
            self.calls.append(x.shape[3])
            self.register_forward_hook(lambda module, args, out: self.calls.append(0))
            self.size = tuple(x.shape[2:])
            self.grid = torch.arange(x.shape[3], dtype=x.dtype) + x.sum() * 0
        return x + self.grid


def test_what_a_model_keeps_while_it_is_captured_is_forgotten() -> None:
    model = nn.Sequential(Remembers()).eval()
    x = torch.rand(1, 3, 4, 6)
    capture(model, x)
    assert model[0].size == ()
    assert model[0].calls == []
    assert not model[0]._forward_hooks
    assert torch.equal(model[0].grid, torch.zeros(1))
    assert_matches(model(x), x + torch.arange(6))


def test_a_copy_may_be_rewritten() -> None:
    module = captured(nn.ReLU(), SHAPE)
    before = text(module)
    copied = copy_graph(module)
    assert text(copied) == before
    next(n for n in copied.graph.nodes if n.op == "call_function").target = torch.ops.aten.sigmoid.default
    assert "sigmoid" in text(copied)
    assert text(module) == before


# --- what cannot be captured ------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x if self.last is None else x + self.last + 1
        return self.last


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "control flow": (nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), Branch())), r"^1\.1: torch\.export cannot"),
    "control flow at the top": (Branch(), r"^Branch: torch\.export cannot"),
    "a state of its own": (nn.Sequential(Counter()), r"0\.seen: the model changes a buffer"),
    "a state in an attribute": (nn.Sequential(Recurrent()), r"^0\.last: called again with the same input"),
    "a shape from data": (nn.Sequential(nn.ReLU(), Do(lambda x: x[x > 0])), r"1: the shape .* depends on data"),
    "what is no tensor": (Do(lambda x: {"a": object()}), r"cannot capture|returns a object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_module(name: str) -> None:
    model, message = REFUSED[name]
    with pytest.raises(CaptureError, match=message):
        captured(model, SHAPE)


def test_bfloat16_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"^weight: the model computes in bfloat16; compile it in float32"):
        captured(nn.Conv2d(3, 4, 3), SHAPE, dtype=torch.bfloat16)


def test_training_mode_names_the_module() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dropout())).eval()
    model[1][0].train()
    with pytest.raises(CaptureError, match=r"^1\.0 is in training mode; call model\.eval\(\)"):
        capture(model, X)
    with pytest.raises(CaptureError, match=r"^the model is in training mode"):
        capture(model.train(), X)


@pytest.mark.parametrize(
    ("source", "example", "message"),
    [
        (nn.ReLU().eval(), None, "needs an example"),
        (nn.ReLU().eval(), ("x",), "example 0 is a str"),
        (nn.ReLU().eval(), torch.zeros(2, 3, 8, 8), "has batch 2; a stream is one camera"),
        (3, X, "cannot compile a int"),
        ("missing.onnx", None, "no such file"),
        (__file__, None, "unknown kind of model file"),
    ],
)
def test_wrong_sources(source: Any, example: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(source, example)


def test_a_broken_archive(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"nothing")
    with pytest.raises(CaptureError, match=r"not a \.pt2 archive"):
        capture(tmp_path / "net.pt2")
