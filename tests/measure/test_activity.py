"""Masks: how many blocks, how they hang together, the same every time. A camera: what it shows a stream."""

import numpy as np
import pytest
import torch

from fluxcompile import OptionError, fluxcompile
from fluxcompile.measure.activity import BLOCK, Camera, Mask, draw
from fluxcompile.options import Policy


def blocks_of(mask: Mask) -> Mask:
    """The mask of blocks that a mask of pixels stands for; it must be made of whole ones."""
    blocks = mask[::BLOCK, ::BLOCK]
    assert (mask == blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[: mask.shape[0], : mask.shape[1]]).all()
    return blocks


def pieces(blocks: Mask) -> int:
    """How many connected shapes there are."""
    left = {(int(y), int(x)) for y, x in np.argwhere(blocks)}
    count = 0
    while left:
        count += 1
        todo = [left.pop()]
        while todo:
            y, x = todo.pop()
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            todo += near
    return count


@pytest.mark.parametrize("pattern", ["blobs", "scattered"])
@pytest.mark.parametrize("size", [(640, 640), (352, 640), (100, 70), (20, 20)])
def test_counts_are_exact(pattern: str, size: tuple[int, int]) -> None:
    total = -(-size[0] // BLOCK) * -(-size[1] // BLOCK)
    for percent in (0.1, 1, 5, 10, 25, 50, 99):
        blocks = blocks_of(draw(pattern, size, percent / 100, (1, 2)))
        assert blocks.sum() == max(1, int(percent / 100 * total + 0.5)), percent
    assert draw(pattern, size, 1.0, (0,)).all()
    assert not draw(pattern, size, 0.0, (0,)).any()
    assert draw(pattern, size, 1.0, (0,)).shape == size


def test_blobs_hang_together_and_scattered_blocks_do_not() -> None:
    for seed in range(8):
        for share in (0.01, 0.05, 0.1, 0.25, 0.5):
            assert pieces(blocks_of(draw("blobs", (640, 640), share, (seed,)))) <= 4
        assert pieces(blocks_of(draw("scattered", (640, 640), 0.1, (seed,)))) > 10


def test_masks_repeat_and_differ() -> None:
    for pattern in ("blobs", "scattered"):
        masks = [draw(pattern, (640, 640), 0.1, (0, index)) for index in range(6)]
        again = [draw(pattern, (640, 640), 0.1, (0, index)) for index in range(6)]
        assert all((one == two).all() for one, two in zip(masks, again, strict=True))
        assert len({mask.tobytes() for mask in masks}) == 6


def test_camera_changes_what_is_new_and_nothing_else() -> None:
    net = fluxcompile(torch.nn.Conv2d(3, 4, 3, padding=1).eval(), torch.zeros(1, 3, 64, 96))
    camera = Camera(net, "reference")
    assert camera.size == (64, 96)
    before = camera.frames[0].copy()
    camera.see(camera.change(np.ones(camera.size, bool)))
    first = camera.frames[0].copy()
    assert (first != before).any(1).all()
    mask = camera.change(draw("blobs", camera.size, 0.2, (0,)))
    (second,) = camera.frames
    assert (np.asarray((first != second).any(1))[0] == mask).all()
    camera.see(mask)
    assert (camera.stream.stats.miss == mask).all()
    assert camera.stream.stats.work_share == pytest.approx(1 / 6)
    camera.see(camera.change(np.zeros(camera.size, bool)))
    assert camera.stream.stats.work_share == 0


def test_camera_of_a_net_without_an_image() -> None:
    net = fluxcompile(torch.nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    with pytest.raises(OptionError, match="is an image"):
        Camera(net, "reference")


def test_camera_vouches_for_the_mask() -> None:
    """A backend that takes `miss` is told; the policy, the backend and the threads reach it."""
    net = fluxcompile(torch.nn.Conv2d(3, 4, 1).eval(), torch.zeros(1, 3, 32, 32))
    asked = []

    class Told:
        program = net.program

        def stream(self, policy: Policy, backend: str = "reference", threads: int = 1) -> "Told":
            asked.append((policy, backend, threads))
            return self

        def __call__(self, *frames: object, miss: Mask) -> None:
            asked.append(miss)

    camera = Camera(Told(), "cpu", 2)  # type: ignore[arg-type]
    mask = np.ones((32, 32), bool)
    camera.see(mask)
    assert asked[0] == (Policy(exact=False, radius=0), "cpu", 2)
    assert asked[1] is mask
