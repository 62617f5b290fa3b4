"""The order of the passes, what a caller may leave out, and that the caller's model stays as it was."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fluxcompile import OptionError, fluxcompile, pass_names
from fluxcompile.pipeline import BLOCKED, CAPTURED
from tests.helpers import Do, assert_matches, seeded, state_of

X = torch.rand(1, 3, 16, 16)


def model() -> nn.Module:
    parts = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 2)
    return seeded(lambda: Do(lambda x, conv, norm, linear: linear(norm(conv(x / 2)).relu().mean((2, 3))), *parts))


def test_a_pass_is_named_as_its_file() -> None:
    passes = (*CAPTURED, *BLOCKED)
    assert len({p.__name__ for p in passes}) == len(passes)
    for one in passes:
        assert one.__module__ == f"fluxcompile.passes.{one.__name__}"
        assert "->" in str(__import__(one.__module__, fromlist=["x"]).__doc__) or one.__name__ == "choose_granularity"


def test_no_pass_changes_the_callers_model() -> None:
    """Nor does a stream; `test_exact` asks the same of the zoo."""
    source = model()
    before, want = state_of(source), source(X).detach()
    stream = fluxcompile(source, X).stream()
    for frame in (X, X + 0.1):
        stream(frame)
    after = source.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items())
    assert not any(m.training for m in source.modules())
    assert torch.equal(source(X), want)


def test_a_net_does_not_follow_the_model_afterwards() -> None:
    source = model()
    net = fluxcompile(source, X)
    want = net.dense(X)
    with torch.no_grad():
        for p in source.parameters():
            p.zero_()
    assert_matches(net.dense(X), want)


def test_a_caller_cannot_reach_constants_through_outputs() -> None:
    class Anchors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("anchors", torch.ones(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, self.anchors

    source = Anchors().eval()
    net = fluxcompile(source, X)
    for run in (net.dense, net.stream()):
        run(X)[1].zero_()
        assert_matches(run(X), (X * 2, torch.ones(4)))
    assert torch.equal(source.anchors, torch.ones(4))


def test_output_trees() -> None:
    tree = Do(lambda x: {"a": [x * 2, (x.sum(),)], "none": None})
    net = fluxcompile(tree.eval(), X)
    want = tree(X)
    assert_matches(net.dense(X), want)
    assert_matches(net.stream()(X), want)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("the input", lambda x: x),
        ("one value twice", lambda x: (x * 2,) * 2),
        ("only moves", lambda x: x.flatten(2)),
        ("a constant", lambda x: torch.ones(2)),
        ("several inputs", lambda x, y: x * y.mean()),
    ],
)
def test_small_nets(name: str, function: object) -> None:
    frames = (X, torch.rand(1, 5)) if name == "several inputs" else (X,)
    source = Do(function).eval()  # type: ignore[arg-type]
    net = fluxcompile(source, frames)
    stream = net.stream()
    for i in range(3):
        given = tuple(f + (i == 1) for f in frames)
        assert_matches(net.dense(*given), source(*given))
        assert_matches(stream(*given), source(*given))


def test_explain() -> None:
    found = fluxcompile(model(), X).explain()
    assert found.total_macs == 3 * 4 * 9 * 256 + 8
    assert [(x.name, x.form) for x in found.layers] == [("parts.0", "tile"), ("parts.2", "held")]
    assert found.to_json()["layers"][0]["reason"] == ""
    left = fluxcompile(model(), X, without=["cache_convolution"]).explain()
    assert (left.layers[0].form, left.layers[0].reason) == ("dense", "its pass was left out")
    assert left.blocked_mac_share < 0.01
    assert "100.0 % of 0.0 MMACs" in str(found)


# --- flags ------------------------------------------------------------------------------------------------------------


def test_dump_writes_numbered_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_DUMP", str(tmp_path / "deep" / "dump"))
    net = fluxcompile(model(), X, without=["hold_globals"])
    names = [p.name for p in sorted((tmp_path / "deep" / "dump").iterdir())]
    ran = [p.__name__ for p in (*CAPTURED, *BLOCKED) if p.__name__ != "hold_globals"]
    numbered = [n[3:-4] for n in names]
    assert [n for n in numbered if n in ran] == ran
    assert [n[:2] for n in names] == [f"{i:02d}" for i in range(len(names))]
    assert "batch_norm" in (tmp_path / "deep" / "dump" / names[0]).read_text()
    assert "batch_norm" not in net.text()


def test_without_verifying_the_net_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    want = fluxcompile(model(), X).text()
    monkeypatch.setenv("FLUX_VERIFY", "0")
    assert fluxcompile(model(), X).text() == want


def test_log_names_each_pass(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FLUX_LOG", "debug")
    fluxcompile(model(), X)
    told = [r.getMessage().split(":")[0] for r in caplog.records if r.name == "fluxcompile"]
    assert [n for n in told if n in pass_names()] == pass_names()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("FLUX_VERIFY", "yes", "FLUX_VERIFY is 'yes'; use 0 or 1"),
        ("FLUX_LOG", "loud", "FLUX_LOG is 'loud'; use one of"),
    ],
)
def test_flags_that_mean_nothing(flag: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flag, value)
    with pytest.raises(OptionError, match=message):
        fluxcompile(model(), X)
