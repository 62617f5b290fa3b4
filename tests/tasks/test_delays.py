"""When a stream has what is new."""

import numpy as np

from fluxcompile.tasks import delay_figures, new_object_delays
from tests.tasks.made import boxes


def test_new_objects() -> None:
    def at(frame: int) -> np.ndarray:
        return boxes((2 * frame, 0, 2 * frame + 10, 10, 0.9, 0))

    old = (60, 0, 80, 20, 0.9, 1)
    dense = [boxes(old), boxes(old)] + [np.concatenate([boxes(old), at(k)]) for k in range(6)]
    late = [boxes(old)] * 5 + [np.concatenate([boxes(old), at(k)]) for k in range(3, 6)]
    assert [(d.frames, d.found) for d in new_object_delays(dense, dense)] == [(0, True)]
    assert [(d.frames, d.found) for d in new_object_delays(late, dense)] == [(3, True)]
    blind = [boxes(old)] * 8
    delays = new_object_delays(blind, dense)
    assert [(d.frames, d.found) for d in delays] == [(6, False)]
    assert delay_figures(delays) == {"objects": 1, "median": 6.0, "worst": 6, "lost": 1}
    assert delay_figures([]) == {"objects": 0, "median": None, "worst": None, "lost": 0}
    flicker = [boxes(old), boxes(old, (0, 0, 10, 10, 0.9, 0)), boxes(old), boxes(old)]
    assert new_object_delays(blind[:4], flicker) == []
    back = [boxes(old), boxes(old), boxes(), boxes(old), boxes(old), boxes(old)]
    assert new_object_delays(back, back) == []  # away for a frame
