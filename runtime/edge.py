"""The edge: for each picture the place that should answer first, and an answer always.

After FluxShard's Algorithm 1: look at the picture (what missed against one's own caches), tell what each place would
take, send it or compute it. While cloud works, edge repairs its own caches in slices; an answer that is late, or lost
with the link, is computed here, where these caches lie. A link that idles carries pictures nobody waits for, so that
cloud's caches stay fresh. Work is done by a `Device`, so that all this runs for real or on a virtual clock.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fluxcompile.runtime.camera import Computed, Eye
from fluxcompile.runtime.device import Device, Work
from fluxcompile.runtime.latency import Latency
from fluxcompile.runtime.messages import Result
from fluxcompile.runtime.proxy import Asked, Proxy
from fluxcompile.runtime.salience import Salience
from fluxcompile.runtime.schedule import Estimate, Scheduler
from fluxcompile.runtime.values import unpack
from fluxcompile.runtime.worker import salience_of

RECENT = 8
"""Pictures of which the shortest interval tells how soon the next may come."""
SLICE_MS = 5.0
"""Idle time is used in slices of about so long: a picture that comes waits no longer."""
FIRST_PATIENCE_MS = 2000.0
"""How long cloud's first answer may take, dense and of a machine nobody knows."""
CLEARLY = 1.25
"""Times that edge must take longer for a picture to be sent before edge has looked at it: what missed there is told by
the picture before."""
WARMING = 0.1
"""Share of its time that edge spends at most on caches that a scene cut emptied while cloud answers."""
HOME = 0.95
"""Share of the deadline that a picture may take at the edge to be kept there while others wait for cloud."""
BEHIND = 0.05
"""Share of its blocks by which cloud's view may differ from the picture before an idle link brings it up to date."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What is in one picture, where that was found, and what it took.

    place: edge or cloud. fallback: cloud was asked, or was to be, and edge answered. estimates: what each place should
    have taken. blocks: of 16 x 16 pixels, computed for it; a dense frame counts those around the picture too.
    picture_blocks: all of the picture. sent_bytes: 0 if it was not sent.
    """

    seq: int
    result: Any
    place: str
    fallback: bool
    latency_ms: float
    estimates: dict[str, float]
    blocks: float
    picture_blocks: float
    work_share: float
    sent_bytes: int

    @property
    def hit_ratio(self) -> float:
        """The share of the picture that was reused."""
        return max(0.0, 1 - self.blocks / self.picture_blocks)


@dataclass(frozen=True, eq=False)
class _Turn:
    """One picture's turn."""

    seq: int
    picture: Any
    began_ms: float
    estimates: dict[str, float] = field(default_factory=dict)


class Edge:
    """One camera. Pictures, one after the other, are what it takes: uint8 (height, width, 3) of one size, for one.

    proxy: of the cloud, None for edge alone. places: those the scheduler may choose from. deadline_ms: an answer later
    than that is worth nothing. latency: what is known of this device before its first frame.
    """

    def __init__(
        self,
        camera: Eye,
        device: Device,
        proxy: Proxy | None,
        *,
        places: tuple[str, ...] = ("edge", "cloud"),
        deadline_ms: float | None = None,
        latency: Latency | None = None,
    ) -> None:
        self.camera, self.device, self.proxy = camera, device, proxy
        self.places, self.deadline_ms = places, deadline_ms
        self.scheduler, self.latency = Scheduler(), latency or Latency()
        self.background_bytes = 0
        self._seq, self._blocks = -1, camera.all_blocks
        self._last_ms = 0.0
        self._intervals_ms: deque[float] = deque(maxlen=RECENT)
        self._busy_until_ms, self._warm_again_ms = 0.0, 0.0
        self._hint: Salience | None = None
        self._others: set[asyncio.Future[Any]] = set()
        """What still runs of the last picture."""

    async def __call__(self, picture: Any) -> Answer:
        """The answer to the next picture."""
        self.camera.require(picture)
        turn = _Turn(self._seq + 1, picture, self.device.now_ms())
        self._seq = turn.seq
        self._saw_interval(turn.began_ms)
        there, changed = [], 0.0
        if self.proxy is not None and "cloud" in self.places and self.proxy.free:
            changed = self.proxy.coder.changed(picture)
            there = [self.proxy.estimate(changed)]
        looked = not there or not self._clearly(there[0])
        if looked:
            await _all(self._rest())
            await self._look(picture)
        estimates = [*([self._here()] if "edge" in self.places else []), *there]
        turn.estimates.update((estimate.place, estimate.ms) for estimate in estimates)
        chosen = self.scheduler.choose(estimates or [self._here()], home_ms=self._home_ms)
        if chosen.place == "cloud":
            answer, own = await self._by_cloud(turn, changed, chosen, looked)
        else:
            answer, own = self._told(turn, await self._computed(), fallback=not estimates), None
        self._others.add(asyncio.ensure_future(self._use_idle_time(turn, answer, own)))
        return answer

    async def close(self) -> None:
        """Wait for what still runs, and end the connection."""
        self._seq += 1
        await _all(self._rest())
        if self.proxy is not None:
            await self.proxy.link.close()

    async def _look(self, picture: Any) -> None:
        self._blocks, _ = await self.device.run(partial(self.camera.look, picture), Work("look"))

    def _here(self) -> Estimate:
        """What the picture that was looked at last takes here, once what still runs is done."""
        busy_ms = max(0.0, self._busy_until_ms - self.device.now_ms())
        return Estimate("edge", busy_ms + (self.latency.predict_ms(self._blocks) or 0.0))

    def _clearly(self, there: Estimate) -> bool:
        """Whether cloud is so much quicker that edge needs not look first."""
        if "edge" not in self.places:
            return True
        here = self._here()
        return CLEARLY * there.ms < here.ms and here.ms > self._home_ms

    @property
    def _home_ms(self) -> float:
        """What a picture may take here to be kept here, whatever cloud takes: while others wait for cloud, those go
        there that could not keep the deadline by themselves.
        """
        if self.deadline_ms is None or self.proxy is None or not self.proxy.crowded:
            return 0.0
        return HOME * self.deadline_ms

    # --- there ---

    async def _by_cloud(
        self, turn: _Turn, changed: float, chosen: Estimate, looked: bool
    ) -> tuple[Answer, "asyncio.Future[Any]"]:
        """The answer, and edge's own work on the picture, which may go on."""
        assert self.proxy is not None
        patience_ms = self.scheduler.patience_ms(chosen, self._here().ms, self.deadline_ms)
        if not self.proxy.latency.known:
            patience_ms = max(patience_ms, FIRST_PATIENCE_MS)
        asked = await self.proxy.ask(turn.seq, turn.picture, changed, wanted=True, deadline_ms=patience_ms)
        expected_ms, until_ms = turn.began_ms + chosen.ms, turn.began_ms + patience_ms
        own = asyncio.ensure_future(self._meanwhile(turn, self._rest(), asked.answer, expected_ms, looked))
        self._others.add(own)
        while not asked.answer.done() and (left_ms := until_ms - self.device.now_ms()) > 0:
            either: set[asyncio.Future[Any]] = {asked.answer} if own.done() else {asked.answer, own}
            await asyncio.wait(either, timeout=left_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
            if own.done():
                self._others.discard(own)  # what it raises is raised once
                if (done := own.result()) is not None and not asked.answer.done():
                    self.proxy.forget(asked)
                    return self._told(turn, done, fallback=True, sent_bytes=asked.num_bytes), own
        result = asked.answer.result() if asked.answer.done() else None
        if result is not None:
            return self._told_by_cloud(turn, asked, result), own
        return await self._in_its_stead(turn, asked, own)

    async def _meanwhile(
        self,
        turn: _Turn,
        rest: "set[asyncio.Future[Any]]",
        answer: "asyncio.Future[Result | None]",
        expected_ms: float,
        looked: bool,
    ) -> Computed | None:
        """Edge's own work while cloud has the picture: look at it, and repair caches until its answer is expected.

        Caches in which there is nothing yet are made of the picture, which may then be answered by that.
        """
        await _all(rest)
        if "edge" in self.places and self._seq == turn.seq:
            if not looked:
                await self._look(turn.picture)
            if self.camera.cold and self.device.now_ms() >= self._warm_again_ms:
                began_ms = self.device.now_ms()
                done = await self._computed()
                self._warm_again_ms = began_ms + (self.device.now_ms() - began_ms) / WARMING
                return done
        await self._leave()
        while self._seq == turn.seq and not answer.done():
            blocks = self._slice(expected_ms - self.device.now_ms())
            if blocks < 1 or not await self._repair(blocks):
                break
        return None

    async def _in_its_stead(
        self, turn: _Turn, asked: Asked, own: "asyncio.Future[Computed | None]"
    ) -> tuple[Answer, "asyncio.Future[Any]"]:
        """Compute the picture here; should cloud answer before that is done, its answer counts."""
        ours = asyncio.ensure_future(self._computed_after(own, turn))
        pending: set[asyncio.Future[Any]] = {ours} if asked.answer.done() else {ours, asked.answer}
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        result = asked.answer.result() if asked.answer.done() else None
        if not ours.done() and result is not None:
            self._others.add(ours)
            return self._told_by_cloud(turn, asked, result), ours
        done = await ours
        assert self.proxy is not None
        self.proxy.forget(asked)
        return self._told(turn, done, fallback=True, sent_bytes=asked.num_bytes), ours

    def _told_by_cloud(self, turn: _Turn, asked: Asked, result: Result) -> Answer:
        self._hint = salience_of(result.salience)
        values = unpack(result.values, self.camera.task.result)
        done = Computed(values, None, result.blocks, result.work_share, result.dense)
        return self._told(turn, done, place="cloud", sent_bytes=asked.num_bytes)

    # --- here ---

    async def _computed(self) -> Computed:
        self._busy_until_ms = self.device.now_ms() + self._here().ms
        done, took_ms = await self.device.run(
            self.camera.compute, lambda found: Work("compute", found.blocks, found.dense)
        )
        self._busy_until_ms = self.device.now_ms()
        self.latency.saw(done.blocks, took_ms, done.dense)
        return done

    async def _computed_after(self, own: "asyncio.Future[Computed | None]", turn: _Turn) -> Computed:
        """What edge does on the picture already may be just that."""
        done = await own
        if done is not None:
            return done
        await self._look(turn.picture)
        return await self._computed()

    async def _leave(self) -> None:
        """The picture that was looked at is cloud's; what cloud found salient in the last that it answered."""
        hint, self._hint = self._hint, None
        await self.device.run(partial(self.camera.leave, hint), Work("idle"))

    async def _repair(self, blocks: float) -> float:
        """How many blocks were."""
        done, _ = await self.device.run(partial(self.camera.refresh, blocks), lambda found: Work("refresh", found))
        return done

    def _slice(self, left_ms: float) -> float:
        """Blocks that are repaired at once: a slice of them, or what the time left allows where slices cost more."""
        if left_ms <= 0:
            return 0
        return self.latency.most(min(SLICE_MS, left_ms)) or self.latency.most(left_ms) or 0

    async def _use_idle_time(self, turn: _Turn, answer: Answer, own: "asyncio.Future[Any] | None") -> None:
        """Until the next picture: bring cloud's view up to date, repair one's own caches."""
        if own is not None:
            await own
        proxy = self.proxy
        if proxy is not None and "cloud" in self.places and proxy.free and not proxy.link.estimate.busy:
            changed = proxy.coder.changed(turn.picture)
            if answer.sent_bytes == 0 and changed > BEHIND * answer.picture_blocks and not proxy.crowded:
                deadline_ms = self._interval_ms
                asked = await proxy.ask(turn.seq, turn.picture, changed, wanted=False, deadline_ms=deadline_ms)
                self.background_bytes += asked.num_bytes
        if answer.place == "cloud":
            await self._leave()
        while self._seq == turn.seq:
            left_ms = self._last_ms + self._interval_ms - self.device.now_ms()
            blocks = self._slice(left_ms)
            if blocks < 1 or not await self._repair(blocks):
                return

    def _rest(self) -> "set[asyncio.Future[Any]]":
        """What still runs of the pictures before, and ends after its slice; who takes it waits for it."""
        rest, self._others = self._others, set()
        return rest

    def _saw_interval(self, now_ms: float) -> None:
        if self._seq:
            self._intervals_ms.append(now_ms - self._last_ms)
        self._last_ms = now_ms

    @property
    def _interval_ms(self) -> float:
        """How soon the next picture may come."""
        return min(self._intervals_ms, default=0.0)

    def _told(
        self, turn: _Turn, done: Computed, *, place: str = "edge", fallback: bool = False, sent_bytes: int = 0
    ) -> Answer:
        return Answer(
            seq=turn.seq,
            result=done.result,
            place=place,
            fallback=fallback,
            latency_ms=self.device.now_ms() - turn.began_ms,
            estimates=turn.estimates,
            blocks=done.blocks,
            picture_blocks=self.camera.blocks_of(turn.picture),
            work_share=done.work_share,
            sent_bytes=sent_bytes,
        )


async def _all(rest: set[asyncio.Future[Any]]) -> None:
    """Until all of it is done; raises what any of it raised."""
    if rest:
        await asyncio.wait(rest)
        for one in rest:
            one.result()
