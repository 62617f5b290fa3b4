"""What a model's outputs mean, and how well a stream's results agree with those of dense inference.

    detect     YOLO heads [1, 4 + classes, n], or YOLOX's [1, n, 5 + classes]: boxes
    instances  [1, 4 + classes + m, n] and prototypes [1, m, h, w]: boxes with masks
    keypoints  [1, 5 + 3k, n]: persons with k keypoints
    heatmaps   [1, k, h, w]: where each of k maps is highest; never guessed
    segment    every output is [1, classes, h, w]: the best class of each pixel
    classify   [1, classes]: what the whole frame shows
    depth      [1, h, w] or [1, 1, h, w]: positive numbers; never guessed
    regress    anything else: numbers
    custom     `Task.custom`: three functions of one's own

A result is one frame's; a tally holds what one frame adds to the figures, so that those of a clip, of a part of it and
of many clips come from the same tallies.
"""

from collections.abc import Sequence
from functools import partial

from fluxcompile.errors import OptionError, TaskError
from fluxcompile.runtime import salience
from fluxcompile.tasks.boxes import box_figures, compare_boxes, decode_boxes, match, overlaps, shift_boxes
from fluxcompile.tasks.classes import class_figures, compare_classes, decode_classes, unmoved
from fluxcompile.tasks.custom import Array
from fluxcompile.tasks.delays import Delay, delay_figures, new_object_delays
from fluxcompile.tasks.depth import compare_depth, decode_depth, depth_figures
from fluxcompile.tasks.heatmaps import Peaks, compare_heatmaps, decode_heatmaps, heatmap_figures, shift_heatmaps
from fluxcompile.tasks.instances import Instances, compare_instances, decode_instances, instance_delays, shift_instances
from fluxcompile.tasks.keypoints import compare_keypoints, decode_keypoints, keypoint_figures
from fluxcompile.tasks.maps import Maps, compare_maps, decode_maps, map_figures, shift_maps
from fluxcompile.tasks.numbers import compare_numbers, decode_numbers, number_figures, shift_numbers
from fluxcompile.tasks.task import Task

__all__ = [
    "TASKS",
    "Delay",
    "Task",
    "TaskError",
    "TaskSalience",
    "delay_figures",
    "match",
    "new_object_delays",
    "overlaps",
    "task_of",
]

PERSONS = (17, 21, 26, 133)
"""Numbers of keypoints that a head is guessed to have: COCO's, a hand's, Halpe's, the whole body's."""
MOST_CLASSES = 160

_boxes = partial(Task, figure="f1_50", delays=new_object_delays, shift=shift_boxes)
TASKS = {
    task.name: task
    for task in (
        _boxes(
            "detect", decode=decode_boxes, compare=compare_boxes, figures=box_figures, salience=salience.boxes
        ),
        _boxes(
            "instances", decode=decode_instances, compare=compare_instances, figures=box_figures,
            salience=salience.instances, shift=shift_instances, delays=instance_delays, result=Instances,
        ),
        _boxes(
            "keypoints", decode=decode_keypoints, compare=compare_keypoints, figures=keypoint_figures,
            salience=salience.keypoints,
        ),
        Task("segment", "miou", decode_maps, compare_maps, map_figures, salience.maps, shift_maps, Maps),
        Task(
            "heatmaps", "pck", decode_heatmaps, compare_heatmaps, heatmap_figures, salience.everywhere,
            shift_heatmaps, Peaks,
        ),
        Task("classify", "top1", decode_classes, compare_classes, class_figures, salience.everywhere, unmoved),
        Task(
            "depth", "delta_105", decode_depth, compare_depth, depth_figures, salience.everywhere, shift_numbers, Maps,
        ),
        Task(
            "regress", "likeness", decode_numbers, compare_numbers, number_figures, salience.everywhere, shift_numbers,
            Maps,
        ),
    )
}  # fmt: skip
"""Each task by its name."""


def task_of(outputs: Sequence[Array], name: str | Task | None = None) -> Task:
    """The task itself, that of a name, or the one that the shapes of the outputs suggest."""
    if isinstance(name, Task):
        return name
    if name is not None:
        if name not in TASKS:
            own = "Task.custom(...) makes one of your own functions, package.module:callable names it"
            raise OptionError(f"task is {name!r}; use {', '.join(TASKS)}; {own}")
        return TASKS[name]
    return TASKS[_guessed([x.shape for x in outputs])]


def _guessed(shapes: Sequence[tuple[int, ...]]) -> str:
    match shapes:
        case [(1, rows, n)] if 4 < rows < n:
            return "keypoints" if rows - 5 in [3 * k for k in PERSONS] else "detect"
        case [(1, n, columns)] if 5 < columns < n:
            return "detect"
        case [(1, rows, n), (1, kinds, _, _)] | [(1, kinds, _, _), (1, rows, n)] if 4 + kinds < rows < n:
            return "instances"
        case [(1, classes)] if classes > 1:
            return "classify"
    if shapes and all(len(s) == 4 and s[0] == 1 and 2 <= s[1] <= MOST_CLASSES for s in shapes):
        return "segment"
    return "regress"


class TaskSalience:
    """The salience of a task, which the first outputs decide where nobody named it."""

    def __init__(self, task: str | Task | None) -> None:
        self._task = task

    def __call__(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        self._task = task_of(outputs, self._task)
        return self._task.salience(outputs, size)
