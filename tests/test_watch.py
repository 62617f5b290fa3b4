"""A clip through a net: what is seen lies in the pixels of each picture, whatever its size and however it moves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluxcompile import Frames, Net, OptionError, fluxcompile
from fluxcompile.runtime.video import Writer
from fluxcompile.tasks import TaskError

CELL, CELLS = 8, 12


class Finder(nn.Module):
    """A detector of what is white: a box for each cell, scored by how white it is."""

    def __init__(self) -> None:
        super().__init__()
        y, x = np.mgrid[:CELLS, :CELLS].reshape(2, -1) * CELL + CELL / 2
        grid = np.stack([x, y, np.full_like(x, CELL), np.full_like(x, CELL)])
        self.register_buffer("grid", torch.from_numpy(grid).float()[None])

    def forward(self, x: Tensor) -> Tensor:
        white = nn.functional.avg_pool2d(x, CELL).amin(1).flatten().reshape(1, 1, -1)
        scores = torch.sigmoid(40 * (white - 0.9))
        return torch.cat([self.grid, scores, torch.zeros_like(scores)], 1)


@pytest.fixture(scope="module")
def finder() -> Net:
    side = CELLS * CELL
    return fluxcompile(Finder().eval(), torch.rand(1, 3, side, side), frames=Frames())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 x 160 pixels, a white square of 40 that moves across a dark scene, 3 down and 5 to the right a frame."""
    path = tmp_path_factory.mktemp("clip") / "square.mp4"
    scene = np.random.default_rng(0).integers(0, 60, (15, 20, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with Writer(path, 10.0, crf=4) as writer:
        for k in range(6):
            picture = scene.copy()
            picture[10 + 3 * k : 50 + 3 * k, 20 + 5 * k : 60 + 5 * k] = 255
            writer.write(picture)
    return path


@pytest.mark.parametrize("policy", ["exact", "video", "video,anchor=off"])
def test_boxes_lie_in_the_picture(finder: Net, clip: Path, policy: str) -> None:
    seen = list(finder.watch(clip, policy, task="detect"))
    assert len(seen) == 6
    for k, watched in enumerate(seen):
        assert watched.picture.shape == (120, 160, 3)
        boxes = watched.boxes
        assert len(boxes)
        side = CELL / watched.placement.scale_x  # a box may reach over the square by what a cell holds of it
        low, high = boxes[:, :2].min(0), boxes[:, 2:4].max(0)
        np.testing.assert_allclose(low, (20 + 5 * k, 10 + 3 * k), atol=side)
        np.testing.assert_allclose(high, (60 + 5 * k, 50 + 3 * k), atol=side)
    assert seen[0].stats.dense
    assert seen[-1].stats.miss.mean() < 0.5


def test_so_many_pictures(finder: Net, clip: Path) -> None:
    assert len(list(finder.watch(clip, count=2))) == 2


def test_a_result_without_boxes(clip: Path) -> None:
    net = fluxcompile(nn.Conv2d(3, 4, 3, padding=1).eval(), torch.rand(1, 3, 64, 64), frames=Frames())
    (watched,) = net.watch(clip, "exact", task="segment", count=1)
    (labels,) = watched.result.values
    assert watched.placement.crop(labels).shape == (48, 64)
    with pytest.raises(TaskError, match="`result` is what it gives"):
        _ = watched.boxes


def test_a_net_of_tensors_is_told_at_once() -> None:
    net = fluxcompile(nn.Conv2d(3, 4, 3).eval(), torch.rand(1, 3, 16, 16))
    with pytest.raises(OptionError, match="compile it with frames="):
        net.watch("nothing.mp4")
