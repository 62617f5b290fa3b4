"""Dense peers: they agree with us on tiny nets from every kind of source, and one that cannot says why."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluxcompile import OptionError, fluxcompile
from fluxcompile.measure import peers
from fluxcompile.measure.peers import Model, Peer, arrays, difference, open_peers

QUICK = ("openvino", "onnxruntime", "torch")
SHAPE = (1, 3, 16, 24)


class Tiny(nn.Module):
    """Two outputs, one in a dict beside a None; a norm that tells training from inference."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x)))
        return {"map": y, "none": None, "mean": (y.mean((2, 3)),)}


def tiny() -> nn.Module:
    torch.manual_seed(0)
    module = Tiny()
    module.norm.running_mean += 0.5
    return module.eval()


def opened(source: Any, net: Any, wanted: tuple[str, ...] = QUICK) -> dict[str, Peer]:
    frame = np.random.default_rng(0).random(SHAPE, np.float32)
    here = [name for name in wanted if importlib.util.find_spec(peers.PEERS[name][0])]
    model = Model(source, net.program, [frame])
    return {peer.name: peer for peer in open_peers(model, 1, arrays(net.dense(frame)), here)}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return tiny()


@pytest.fixture(scope="module")
def net(module: nn.Module) -> Any:
    return fluxcompile(module, torch.zeros(SHAPE))


@pytest.fixture(scope="module")
def files(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    example = (torch.zeros(SHAPE),)
    torch.export.save(torch.export.export(module, example, strict=False), folder / "tiny.pt2")
    torch.onnx.export(peers.model.flat(module), example, folder / "tiny.onnx", dynamo=False)
    return {"pt2": folder / "tiny.pt2", "onnx": folder / "tiny.onnx"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["module", "program", "pt2", "onnx"])
def test_peers_agree(kind: str, module: nn.Module, net: Any, files: dict[str, Path]) -> None:
    source = {"module": module, "program": None, **files}[kind]
    found = opened(source, net)
    assert "torch" in found
    for peer in found.values():
        assert peer.reason == ""
        assert peer.infer is not None
        assert peer.version
        assert peer.max_relative_error is not None
        assert peer.max_relative_error < 1e-5, peer.name
    assert not module.training
    assert not module.norm.training


@pytest.mark.slow
def test_torch_compile_agrees(module: nn.Module, net: Any) -> None:
    peer = opened(module, net, ("torch.compile",))["torch.compile"]
    if peer.max_relative_error is None:
        pytest.skip(f"torch.compile does not work here: {peer.reason}")
    assert peer.max_relative_error < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_peer_that_computes_something_else_is_left_out(net: Any) -> None:
    torch.manual_seed(1)
    for peer in opened(Tiny().eval(), net).values():
        assert peer.infer is None
        assert "differ from ours" in peer.reason


def test_a_peer_that_cannot_take_the_model_says_why(net: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for peer in opened(tmp_path / "broken.onnx", net).values():
        assert peer.infer is None
        assert peer.reason
        assert "\n" not in peer.reason


def test_a_missing_peer_names_the_extra(net: Any, module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    frame = np.zeros(SHAPE, np.float32)
    monkeypatch.setattr(peers, "PEERS", {k: v for k, v in peers.PEERS.items() if k in ("openvino", "torch")})
    model = Model(module, net.program, [frame])
    missing, there = open_peers(model, 1, arrays(net.dense(frame)))
    assert "fluxcompile[bench]" in missing.reason
    assert there.infer is not None
    with pytest.raises(ModuleNotFoundError):
        list(open_peers(model, 1, [], ["openvino"]))
    with pytest.raises(OptionError, match=r"no peer is called tensorrt; there are openvino"):
        list(open_peers(model, 1, [], ["tensorrt"]))


def test_difference() -> None:
    want = np.array([0.0, 10.0], np.float32)
    assert difference([want], [want]) == 0
    assert difference([want + 1], [want]) == pytest.approx(0.1)
    assert difference([want * np.nan], [want]) == float("inf")
    assert difference([np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]) == 0.25
    with pytest.raises(ValueError, match="ours are"):
        difference([want], [want, want])
