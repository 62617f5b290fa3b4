"""Ablation: a row for each pass and a control; same outputs or it says so; what fails is a row."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fluxcompile import OptionError, cli, pass_names, pipeline, sources
from fluxcompile.measure import figures
from fluxcompile.measure.ablate import FULL, ablate
from fluxcompile.measure.bench import Plan
from fluxcompile.sources import Model
from tests.fake_camera import FakeNet

KEYS = {
    "pass", "ms", "ms_median", "ratio", "idle_ms", "idle_ratio", "work_share", "cache_bytes", "compile_s",
    "max_relative_error", "reason",
}  # fmt: skip
PLAN = Plan((50,), rounds=1, warmups=0)


def test_a_row_for_each_pass_and_the_control() -> None:
    asked = []

    def compiler(without: Any) -> FakeNet:
        asked.append(tuple(without))
        if without == ("fold_constants",):
            raise RuntimeError("nothing works\nwithout it")
        return FakeNet(without)

    result = ablate("fake", compiler, ["fold_batch_norm", "fold_constants", "gate_changes"], PLAN)
    control, norm, failed, gate = result.rows
    assert asked == [(), (), ("fold_batch_norm",), ("fold_constants",), ("gate_changes",)]
    assert [row.left_out for row in result.rows] == [FULL, "fold_batch_norm", "fold_constants", "gate_changes"]
    assert (failed.reason, failed.ms) == ("RuntimeError: nothing works", None)
    for row in (control, norm, gate):
        assert row.work_share == pytest.approx(0.5)
        assert row.cache_bytes == 4096
        assert row.ratio is not None
        assert row.ratio > 0
        assert row.reason == ""
    assert (control.max_relative_error, gate.max_relative_error) == (0, 0)
    assert norm.max_relative_error is not None
    assert 0 < norm.max_relative_error < 1e-5


def test_other_outputs_are_told() -> None:
    def compiler(without: Any) -> FakeNet:
        net = FakeNet()
        if without:
            net.inner.program.constants = {k: 2 * v for k, v in net.inner.program.constants.items()}
        return net

    control, other = ablate("fake", compiler, ["fold_constants"], PLAN).rows
    assert control.max_relative_error == 0
    assert other.max_relative_error is not None
    assert other.max_relative_error > 0.1


def test_ctrl_c_keeps_the_rows_so_far() -> None:
    def compiler(without: Any) -> FakeNet:
        if without == ("gate_changes",):
            raise KeyboardInterrupt
        return FakeNet(without)

    result = ablate("fake", compiler, ["fold_constants", "gate_changes", "hold_globals"], PLAN)
    assert result.interrupted
    assert len(result.rows) == 2


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    net = FakeNet()
    monkeypatch.setattr(sources, "find", lambda text: Model(net.module, None))
    monkeypatch.setattr(sources, "compile_model", lambda *arguments, **options: net)
    monkeypatch.setattr(pipeline, "pass_names", lambda: ["fold_batch_norm", "gate_changes"])
    line = ["ablate", "net", "--passes", "--rounds", "1", "-o", str(tmp_path)]
    result = CliRunner().invoke(cli.app, [*line, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["pass"] for row in found["rows"]] == [FULL, "fold_batch_norm", "gate_changes"]
    assert all(set(row) == KEYS for row in found["rows"])
    assert json.loads((tmp_path / "ablate.json").read_text()) == found
    assert (tmp_path / "ablate.png").exists()
    found["rows"][1] |= {"reason": "it broke", "ratio": None}
    figures.ablate_table(found)
    assert len(figures.write_ablation(found, tmp_path / "again")) == 3
    shown = CliRunner().invoke(cli.app, line)
    assert "fold_batch_norm" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("zoo:x",), "--passes"), (("x.flux", "--passes"), "compiled already")],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["ablate", *arguments])
    assert isinstance(result.exception, OptionError)
    assert message in str(result.exception)


@pytest.mark.slow
def test_on_the_reference() -> None:
    """A net of the zoo, every pass, exact outputs equal."""
    found = sources.find("zoo:resnet-mini")
    result = ablate(
        "resnet-mini",
        lambda without: sources.compile_model("zoo:resnet-mini", found, without=without),
        pass_names(),
        Plan((25,), backend="reference", rounds=1, warmups=0),
    )
    assert [row.reason for row in result.rows] == [""] * (1 + len(pass_names()))
    assert all(row.max_relative_error is not None and row.max_relative_error < 1e-5 for row in result.rows)
