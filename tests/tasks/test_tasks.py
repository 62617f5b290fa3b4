"""Which task the outputs suggest, and what every task gives."""

from collections.abc import Sequence

import numpy as np
import pytest

from fluxcompile.errors import OptionError
from fluxcompile.measure.clip_figures import FIGURES, MEANINGS
from fluxcompile.tasks import TASKS, task_of
from tests.tasks.made import SIZE

OUTPUTS = {
    "detect": [(1, 84, 126)],
    "instances": [(1, 44, 126), (1, 32, 16, 24)],
    "keypoints": [(1, 56, 126)],
    "segment": [(1, 20, 64, 96)],
    "heatmaps": [(1, 17, 16, 24)],
    "classify": [(1, 1000)],
    "depth": [(1, 1, 64, 96)],
    "regress": [(1, 7, 8, 12), (3, 5)],
}


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ([(1, 84, 8400)], "detect"),
        ([(1, 3549, 85)], "detect"),
        ([(1, 56, 8400)], "keypoints"),
        ([(1, 20, 64, 128)], "segment"),
        ([(1, 2, 64, 128), (1, 2, 64, 128)], "segment"),
        ([(1, 1, 64, 128), (1, 128, 64, 128)], "regress"),
        ([(1, 1000)], "classify"),
        ([(1, 1)], "regress"),
        ([(2, 1000)], "regress"),
        ([(1, 116, 8400), (1, 32, 160, 160)], "instances"),
        ([(1, 32, 160, 160), (1, 37, 8400)], "instances"),
        ([(1, 36, 8400), (1, 32, 160, 160)], "regress"),
        ([(1, 1, 64, 128)], "regress"),
        ([], "regress"),
    ],
)
def test_shapes_suggest_a_task(shapes: list[tuple[int, ...]], name: str) -> None:
    assert task_of([np.zeros(shape, np.float32) for shape in shapes]).name == name


def test_a_name_or_a_task_decides() -> None:
    assert task_of([np.zeros((1, 56, 8400))], "detect") is TASKS["detect"]
    assert task_of([np.zeros((1, 56, 8400))], TASKS["depth"]) is TASKS["depth"]
    with pytest.raises(OptionError, match=r"use detect, instances, .*regress; Task.custom\(...\) makes one"):
        task_of([], "count")


def outputs_of(name: str, seed: int = 0) -> Sequence[np.ndarray]:
    generator = np.random.default_rng(seed)
    outputs = [generator.random(shape, np.float32) for shape in OUTPUTS[name]]
    if outputs[0].ndim == 3:
        outputs[0][:, :4] *= 60  # boxes of some size
    return outputs


@pytest.mark.parametrize("name", TASKS)
def test_every_task_agrees_with_itself_and_not_with_noise(name: str) -> None:
    task = TASKS[name]
    one, two = (task.decode(outputs_of(name, seed), SIZE) for seed in (0, 1))
    assert task.agreement([one], [one])[task.figure] == 1.0
    assert task.agreement([two], [one])[task.figure] < 0.9
    assert task.figures([])[task.figure] is None
    assert task.agreement([task.shift(one, (0, 0))], [one])[task.figure] == 1.0


@pytest.mark.parametrize("name", TASKS)
def test_results_outlive_the_outputs(name: str) -> None:
    """A stream writes the next frame into the same memory."""
    task = TASKS[name]
    outputs = outputs_of(name)
    result = task.decode(outputs, SIZE)
    for x in outputs:
        x[...] = 0.5
    assert task.agreement([result], [task.decode(outputs_of(name), SIZE)])[task.figure] == 1.0
    assert task.agreement([result], [task.decode(outputs, SIZE)])[task.figure] != 1.0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_weighs_places(name: str) -> None:
    found = TASKS[name].salience(outputs_of(name), SIZE)
    assert (found.dtype, found.shape) == (np.float32, (8, 12))
    assert 0 <= found.min() <= found.max() == 1.0 or name in ("detect", "instances", "keypoints")
    assert found.max() > 0.5


@pytest.mark.parametrize("name", TASKS)
def test_tables_know_every_task(name: str) -> None:
    task = TASKS[name]
    assert set(FIGURES[name]) <= set(task.figures([]))
    assert task.figure in FIGURES[name]
    assert MEANINGS[name]
