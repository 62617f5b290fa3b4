"""What became of each layer, as a table."""

from typing import Any

from fluxcompile.program import Layer


class Explanation:
    """Each layer's domain, form and cost, and why it is dense where it is. `str()` is a table."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    @property
    def total_macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def blocked_mac_share(self) -> float:
        """MACs in layers that run only where something changed, over all MACs."""
        blocked = sum(layer.macs for layer in self.layers if layer.form != "dense")
        return blocked / self.total_macs if self.total_macs else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "blocked_mac_share": self.blocked_mac_share,
            "total_macs": self.total_macs,
            "layers": [
                {"name": x.name, "op": x.op, "domain": x.domain, "form": x.form, "macs": x.macs, "reason": x.reason}
                for x in self.layers
            ],
        }

    def __str__(self) -> str:
        rows = [("layer", "op", "form", "MMACs", "domain")]
        rows += [
            (x.name, x.op, x.form, f"{x.macs / 1e6:.2f}", x.domain + (f"  ({x.reason})" if x.reason else ""))
            for x in self.layers
        ]
        wide = [max(len(r[i]) for r in rows) for i in range(4)]
        lines = [
            f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:<{wide[2]}}  {d:>{wide[3]}}  {e}".rstrip() for a, b, c, d, e in rows
        ]
        total = f"{100 * self.blocked_mac_share:.1f} % of {self.total_macs / 1e6:.1f} MMACs"
        return "\n".join([*lines, "", f"{total} run only where something changed"])
