"""What the FluxShard paper reports, to stand beside ours."""

from typing import NamedTuple


class Reported(NamedTuple):
    """Accuracy and hit ratio in per cent, megabytes a second."""

    accuracy: float
    hits: float
    mb_per_s: float


SYSTEMS = ("spinn", "coach", "deltacnn", "ours")
_ROWS = {
    ("yolo11", 130): ((86.0, 10.5, 10.05), (84.5, 9.8, 10.85), (97.1, 22.4, 6.57), (96.8, 75.3, 2.05)),
    ("sdpose", 130): ((89.0, 42.7, 7.42), (87.2, 43.5, 3.17), (99.2, 72.8, 0.64), (99.0, 91.1, 0.26)),
    ("yolo11", 56): ((86.0, 10.3, 0.058), (85.2, 9.7, 5.05), (97.0, 23.1, 3.08), (96.3, 73.8, 1.04)),
    ("sdpose", 56): ((89.0, 42.9, 3.38), (88.1, 43.0, 1.26), (99.1, 73.4, 0.34), (98.8, 91.2, 0.24)),
    ("yolo11", 25): ((86.0, 10.3, 0.113), (86.0, 9.9, 0.67), (96.9, 23.7, 0.89), (95.5, 72.5, 0.32)),
    ("sdpose", 25): ((89.0, 43.1, 0.020), (89.0, 42.8, 0.092), (99.0, 73.1, 0.26), (98.5, 90.7, 0.23)),
}
REPORTED = {
    (net, mbps, system): Reported(*row)
    for (net, mbps), rows in _ROWS.items()
    for system, row in zip(SYSTEMS, rows, strict=True)
}
