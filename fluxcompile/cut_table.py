"""The table of the ways to place a net on two machines. Plain data: a device can read it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Row:
    """One way to place a net. number: what `at` takes for it. Times are None where no profiles were given."""

    at: str
    maps: list[str]
    edge_macs_share: float
    bytes: float
    edge_ms: float | None = None
    send_ms: float | None = None
    cloud_ms: float | None = None
    number: int | None = None

    @property
    def total_ms(self) -> float | None:
        times = (self.edge_ms, self.send_ms, self.cloud_ms)
        return None if None in times else sum(t for t in times if t is not None)


@dataclass
class CutTable:
    """Every candidate, and which was chosen; `str()` is the table."""

    rows: list[Row]
    chosen: int = -1

    def fastest(self) -> int:
        """The row of least total; the first of equals."""
        totals = [row.total_ms for row in self.rows]
        return min(range(len(totals)), key=lambda i: totals[i] or 0.0)

    def to_json(self) -> dict[str, Any]:
        rows = [asdict(row) | {"total_ms": row.total_ms} for row in self.rows]
        return {"chosen": self.chosen, "rows": rows}

    def __str__(self) -> str:
        head = ("", "at", "boundary", "edge MACs", "bytes", "edge ms", "send ms", "cloud ms", "total ms", "")
        lines = [head, *(self._cells(i, row) for i, row in enumerate(self.rows))]
        wide = [max(len(line[k]) for line in lines) for k in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) if head[k] in ("at", "boundary") else c.rjust(w) for k, (c, w) in cells).rstrip()
            for cells in (enumerate(zip(line, wide, strict=True)) for line in lines)
        )

    def _cells(self, index: int, row: Row) -> tuple[str, ...]:
        number = "" if row.number is None else str(row.number)
        times = (row.edge_ms, row.send_ms, row.cloud_ms, row.total_ms)
        maps = row.maps[0] if len(row.maps) == 1 else f"{row.maps[0]} and {len(row.maps) - 1} more" if row.maps else "-"
        told = ("-" if t is None else f"{t:.2f}" for t in times)
        mark = "<- chosen" if index == self.chosen else ""
        return number, row.at, maps, f"{row.edge_macs_share:.1%}", f"{row.bytes:,.0f}", *told, mark
