"""OpenVINO in int8: the same model, quantised after training by NNCF, in a row of its own.

It computes something else than the float peers do, so that it is never the fastest of them: it is timed beside them,
and its results are held against those of float dense inference, as a stream's are. It is set up to be good as well as
fast: activations may be asymmetric (SiLU is), and what no layer with weights follows stays float, where eight bits
would round boxes to pixels and save nothing. It is calibrated on other clips than the one it is measured on.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

from fluxcompile.errors import OptionError
from fluxcompile.measure.peers.model import Model, quiet
from fluxcompile.measure.peers.openvino import read, run
from fluxcompile.measure.peers.peer import Infer, Peer, arrays
from fluxcompile.measure.timing import second_ms
from fluxcompile.runtime.fit import Image, fit
from fluxcompile.runtime.video import TruncatedVideo, frames, probe
from fluxcompile.tasks import Task, delay_figures

NAME = "openvino-int8"
CALIBRATION_FRAMES = 128
"""Frames that ranges are taken from, spread evenly over all clips but one."""
TURNS = 40
"""How often a clip's frames are timed."""
WEIGHTED = {
    "Convolution",
    "ConvolutionBackpropData",
    "DeformableConvolution",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    "MatMul",
}

Show = Callable[[Image], None]
"""Puts a camera frame where the peers read, as a model takes it."""


class Calibration:
    """Some frames of each clip, fitted, kept as bytes; `count` frames of a clip are all that is looked at."""

    def __init__(self, clips: Sequence[Path], size: tuple[int, int], count: int | None = None) -> None:
        alone = len(clips) == 1
        self._share = 4 if alone else 1
        most = CALIBRATION_FRAMES if alone else -(-CALIBRATION_FRAMES // (len(clips) - 1))
        self._kept = {clip: _spread(clip, size, most, count, self._share) for clip in clips}

    def without(self, clip: Path) -> tuple[list[Image], str]:
        """The frames of all clips but one, and their names; where it is alone, those of its first quarter."""
        if len(self._kept) == 1:
            return self._kept[clip], f"the first quarter of {clip.stem}"
        others = {path: images for path, images in self._kept.items() if path != clip}
        images = [image for images in others.values() for image in images]
        return images, ", ".join(path.stem for path in others)


def int8(model: Model, images: Sequence[Any], show: Callable[[Any], None], threads: int) -> Peer:
    """The model in int8, its ranges taken from images; `show` puts one into the model's frames, where `infer` reads."""
    nncf = _nncf()
    found = read(model)

    def given(image: Any) -> dict[int, Any]:
        show(image)
        return {index: frame.copy() for index, frame in enumerate(model.frames)}

    with quiet():
        quantised = nncf.quantize(
            found,
            nncf.Dataset(images, given),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=unweighted_end(found), validate=False),
        )
    return Peer(NAME, str(nncf.__version__), run(quantised, model, threads))


def int8_row(
    clip: Path,
    images: Sequence[Image],
    dense: Sequence[Any],
    *,
    model: Model,
    calibration: Calibration,
    show: Show,
    task: Task,
    size: tuple[int, int],
    threads: int,
    best: Infer | None = None,
) -> dict[str, Any]:
    """What int8 does over a clip: its time beside the fastest float peer's, its agreement with float dense results.

    images, dense: the clip's fitted frames, and the task's results of dense inference on them.
    best: the fastest float peer, opened with the same model, so that both read what `show` puts there.
    """
    ranges, calibrated_on = calibration.without(clip)
    infer = int8(model, ranges, show, threads).infer
    assert infer is not None
    every = max(1, len(images) // TURNS)
    results, ms, best_ms = [], list[float](), list[float]()
    for index, image in enumerate(images):
        show(image)
        results.append(task.decode(arrays(infer()), size))
        if index % every == every // 2:
            ms.append(second_ms(infer))
            if best is not None:
                best_ms.append(second_ms(best))
    figures = task.agreement(results, dense)
    if task.delays:
        figures["new_object_delay"] = delay_figures(task.delays(results, dense))
    return {
        "clip": clip.stem,
        "frames": len(images),
        "calibrated_on": calibrated_on,
        "ms": median(ms),
        "peer_ms": median(best_ms) if best_ms else None,
        "of_best_dense": mean(ms) / mean(best_ms) if best_ms else None,
        **figures,
        "per_frame": {task.figure: figures["per_frame"]},
    }


def unweighted_end(found: Any) -> list[str]:
    """The ops of OpenVINO's form of a model that no layer with weights follows."""
    followed: set[str] = set()
    end = []
    for op in reversed(found.get_ordered_ops()):
        users = [port.get_node() for output in op.outputs() for port in output.get_target_inputs()]
        if any(user.get_type_name() in WEIGHTED or user.get_friendly_name() in followed for user in users):
            followed.add(op.get_friendly_name())
        elif op.get_type_name() not in WEIGHTED:
            end.append(op.get_friendly_name())
    return end


def _nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # or it tells its makers of each run
    try:
        with quiet():
            return importlib.import_module("nncf")
    except ModuleNotFoundError as error:
        if error.name != "nncf":
            raise
        raise OptionError(f"{NAME} needs nncf, which is not installed: pip install 'fluxcompile[int8]'") from None


def _spread(clip: Path, size: tuple[int, int], most: int, count: int | None, share: int) -> list[Image]:
    """At most so many of the frames of the first `share`-th of a clip, evenly apart."""
    long = probe(clip).num_frames or CALIBRATION_FRAMES
    stop = max(1, min(long, count or long) // share)
    images: list[Image] = []
    try:
        for image in islice(frames(clip, count=stop), 0, None, max(1, -(-stop // most))):
            images.append(fit(image, *size)[0])
    except TruncatedVideo:
        pass  # what came is good; who plays the clip says that it breaks off
    return images
