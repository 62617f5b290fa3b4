"""A camera whose net is cut inside, live: the first half here, the second here or at the cloud, whichever is quicker.

To `Edge` the boundary maps are what a camera shows. So the second half has all that a whole net has: a choice of
places, answers that are waited for no longer than they are worth, a cloud that may vanish in the middle of a frame.
Where it does, the second half goes on here, from the maps that are there.
"""

from dataclasses import replace
from functools import partial

from fluxcompile.errors import OptionError
from fluxcompile.runtime.camera import PER_BLOCK, require_picture
from fluxcompile.runtime.canvas import Pair, centred
from fluxcompile.runtime.device import Device, Work
from fluxcompile.runtime.edge import Answer, Edge
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.half import Crossing, HalfCamera
from fluxcompile.runtime.latency import BLOCK
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.proxy import Proxy


class FirstHalf:
    """The first half of a camera. macs_share: of the whole net's."""

    def __init__(self, stream: CpuStream, size: Pair, macs_share: float) -> None:
        if stream.policy.anchor:
            raise OptionError("Policy: frames of a net that is cut keep their place; pass anchor=False")
        self.stream, self.size, self.macs_share = stream, size, macs_share
        self._blocks = 0.0

    def look(self, picture: Image) -> float:
        """Take the picture in: the blocks that `compute` would."""
        require_picture(picture, self.size)
        self._blocks = self.stream.look(centred(picture, self.size)) / PER_BLOCK
        return self._blocks

    def compute(self) -> Crossing:
        """The boundary maps of the picture that was looked at."""
        return Crossing(self.stream.compute()["boundary"], self._blocks)


class CutEdge:
    """One camera. second: the edge that runs the rest, its camera a `HalfCamera`."""

    def __init__(self, first: FirstHalf, second: Edge, device: Device) -> None:
        self.camera, self.second, self.device = first, second, device

    @property
    def proxy(self) -> Proxy | None:
        return self.second.proxy

    async def __call__(self, picture: Image) -> Answer:
        """The answer to the next picture; its blocks are those of the first half."""
        began_ms, first, rest = self.device.now_ms(), self.camera, self.second.camera
        assert isinstance(rest, HalfCamera)
        if rest.salience is not None and first.stream.policy.background:
            first.stream.hint(rest.salience)
        blocks, _ = await self.device.run(partial(first.look, picture), Work("look"))
        crossing, _ = await self.device.run(first.compute, self._work)
        answer = await self.second(crossing)
        stats = first.stream.stats
        assert stats is not None
        share = first.macs_share
        return replace(
            answer,
            latency_ms=self.device.now_ms() - began_ms,
            blocks=blocks,
            picture_blocks=picture.shape[0] * picture.shape[1] / BLOCK**2,
            work_share=share * stats.work_share + (1 - share) * answer.work_share,
        )

    async def close(self) -> None:
        await self.second.close()

    def _work(self, crossing: Crossing) -> Work:
        stats = self.camera.stream.stats
        assert stats is not None
        return Work("compute", crossing.blocks, stats.dense, self.camera.macs_share)
