"""What placements cost, and that "auto" takes the cheapest."""

from typing import Any

import pytest
import torch
from torch import nn

from fluxcompile import Frames, Net, OptionError, fluxcompile
from fluxcompile.runtime.profile import LayerProfile, Profile
from tests.helpers import seeded


def narrowing() -> nn.Module:
    """A light layer makes a small map, a heavy one a large map."""
    layers = [nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 4, 1)]
    return seeded(lambda: nn.Sequential(*layers))


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(narrowing(), torch.zeros(1, 3, 64, 64), frames=Frames())


def device(**changed: Any) -> Profile:
    known = {
        "device": "d",
        "net": "n",
        "source": "s",
        "frame": (64, 64),
        "dense_ms": 1000,
        "a": 0.0,
        "b": 1.0,
        "c": 0.0,
    }
    return Profile(**(known | changed))


SLOW, FAST = device(b=10.0), device(b=1.0)


def test_the_costs_of_a_cut(net: Net) -> None:
    """Half of 16 blocks are active: 80 ms on the edge, 8 in the cloud, by MACs; half of the map crosses."""
    table = net.partition(0, edge=SLOW, cloud=FAST, mbps=8, rtt_ms=3, active=0.5).explain()
    macs = [layer.macs for layer in net.explain().layers]
    edge, cloud, cut = table.rows[:3]
    assert (edge.total_ms, edge.bytes) == (80, 0)
    assert (cloud.bytes, cloud.send_ms, cloud.cloud_ms) == (64 * 64 * 3 / 2, 3 + 6.144, 8)
    share = macs[0] / sum(macs)
    assert cut.maps == ["relu 1x4x16x16"]
    assert cut.bytes == 4 * 16 * 16 / 2
    assert (cut.edge_ms, cut.send_ms, cut.cloud_ms) == (
        pytest.approx(80 * share),
        pytest.approx(3 + 0.512),
        pytest.approx(8 * (1 - share)),
    )


@pytest.mark.parametrize(
    ("mbps", "options", "at"),
    [(1000, {}, "cloud"), (0.02, {}, "edge"), (1.5, {}, "0"), (1.5, {"frame_bytes": 200}, "cloud")],
)
def test_auto_takes_the_fastest(net: Net, mbps: float, options: dict[str, Any], at: str) -> None:
    parts = net.partition(at="auto", edge=SLOW, cloud=FAST, mbps=mbps, **options)
    table = parts.explain()
    totals = [row.total_ms for row in table.rows]
    assert totals[table.chosen] == min(totals)  # type: ignore[type-var]
    assert table.rows[table.chosen].at == at
    assert (parts.edge is None, parts.cloud is None) == (at == "cloud", at == "edge")
    assert str(table).splitlines()[1 + table.chosen].endswith("<- chosen")


def test_measured_layers_decide(net: Net) -> None:
    """An edge whose first layer is free, and of which few cells change, sends that one's map."""
    names = [layer.name for layer in net.explain().layers]
    layers = {name: LayerProfile([0.0 if name == names[0] else 40.0], [0.01]) for name in names}
    quick = device(b=10.0, activities=[0.0], layers=layers)
    table = net.partition(at="auto", edge=quick, cloud=FAST, mbps=2).explain()
    chosen = table.rows[table.chosen]
    assert (chosen.at, chosen.bytes) == ("0", pytest.approx(0.01 * 4 * 16 * 16))


def test_precision_is_counted(net: Net) -> None:
    rows = [net.partition(at=0, edge=SLOW, cloud=FAST, mbps=8, precision=p).explain().rows[2] for p in ("int8", "fp32")]
    assert rows[1].bytes == 4 * rows[0].bytes


def test_without_profiles_there_are_no_times(net: Net) -> None:
    table = net.partition(at="2").explain()
    assert [row.total_ms for row in table.rows] == [None] * 4
    assert [row.bytes for row in table.rows] == [0, 64 * 64 * 3, 4 * 16 * 16, 64 * 16 * 16]
    assert table.to_json()["rows"][table.chosen]["at"] == "2"


def test_cuts_that_are_no_candidates_are_added(net: Net) -> None:
    table = net.partition(at=["0", "2"]).explain()
    assert table.rows[table.chosen].at == "2"
    joined = fluxcompile(seeded(Two), torch.zeros(1, 3, 16, 16)).partition(at=["a", "b"]).explain()
    assert joined.rows[joined.chosen].at == "a + b"


class Forked(nn.Module):
    """Two light layers read the frame, heavy ones the sum of their small maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 2, 3, 4, 1) for _ in range(2))
        self.heavy = nn.Sequential(nn.Conv2d(2, 64, 3, 1, 1), nn.Conv2d(64, 8, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heavy(self.a(x) + self.b(x))  # type: ignore[no-any-return]


def test_the_fastest_of_all_cuts_may_follow_several_layers() -> None:
    """After one of the two the frame would have to cross as well."""
    net = fluxcompile(seeded(Forked), torch.zeros(1, 3, 64, 64), frames=Frames())
    parts = net.partition(at="auto", edge=SLOW, cloud=FAST, mbps=1.5)
    table = parts.explain()
    assert table.rows[table.chosen].at == "least time"
    assert table.rows[table.chosen].maps == ["add 1x2x16x16"]
    assert [i.name for i in parts.boundary] == ["add"]
    assert parts.edge is not None
    assert [layer.name for layer in parts.edge.explain().layers] == ["a", "b"]


class Two(nn.Module):
    """Two layers of the same frame."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.a(x) + self.b(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"edge": SLOW, "mbps": 1}, "give edge, cloud and mbps together"),
        ({}, "needs profiles of both devices"),
        ({"edge": SLOW, "cloud": FAST, "mbps": 0}, "mbps is 0"),
        ({"edge": SLOW, "cloud": FAST, "mbps": 1, "active": 2}, "active is 2"),
        ({"edge": SLOW, "cloud": FAST, "mbps": 1, "precision": "int1"}, "precision is 'int1'"),
    ],
)
def test_what_means_nothing_is_refused(net: Net, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        net.partition(at="auto", **options)


def test_a_link_needs_devices(net: Net) -> None:
    with pytest.raises(OptionError, match="rtt_ms say what a link is like"):
        net.partition(at=0, rtt_ms=3)
