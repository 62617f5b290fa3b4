"""Edge and cloud of a net: cameras and workers made of it, and the words in which a policy crosses the wire."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from fluxcompile.errors import FluxError, InputError, OptionError
from fluxcompile.identity import reached
from fluxcompile.net import Net, Partition
from fluxcompile.options import Policy
from fluxcompile.runtime.camera import Camera, Meaning
from fluxcompile.runtime.channel import Connect
from fluxcompile.runtime.codecs import Codecs
from fluxcompile.runtime.cut_edge import CutEdge, FirstHalf
from fluxcompile.runtime.device import Device, ThisMachine
from fluxcompile.runtime.edge import Answer, Edge
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.half import HalfCamera, MapCoder
from fluxcompile.runtime.latency import Latency
from fluxcompile.runtime.link import Link
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.proxy import Proxy
from fluxcompile.runtime.sending import PictureCoder
from fluxcompile.runtime.worker import Worker
from fluxcompile.tasks import TASKS, Task

T = TypeVar("T")


def policy_words(policy: Policy) -> str:
    """A policy as the wire carries it."""
    return json.dumps(policy.to_json(), separators=(",", ":"))


def policy_from_words(words: str) -> Policy:
    """The policy of such words; OptionError where they mean none."""
    try:
        return Policy(**json.loads(words))
    except (ValueError, TypeError) as error:
        raise OptionError(f"a policy that cannot be read: {error}") from error


def camera_of(net: Net, policy: Policy, task: Task | str | None = None, threads: int = 1) -> Camera:
    """A camera of a net that takes camera frames, with our kernels."""
    meaning = net.task(task)
    stream = net.stream(policy, backend="cpu", task=meaning, threads=threads)
    assert isinstance(stream, CpuStream)
    return Camera(stream, meaning, net.frame_size)


def worker_of(net: Net, threads: int = 1) -> Worker:
    """What serves streams of a net, or of the cloud's half of one, each by its own policy."""
    make = camera_of if net.program.part is None else half_camera_of
    return Worker(lambda policy, task: make(net, policy_from_words(policy), task, threads))


def half_camera_of(net: Net, policy: Policy, task: Task | str | None = None, threads: int = 1) -> HalfCamera:
    """A camera's second half, of the cloud's half of a net that takes camera frames."""
    part = net.program.part
    if part is None or part.side != "cloud":
        raise OptionError("this is not the cloud's half of a net; `fluxcompile partition -o DIR` writes DIR/cloud.flux")
    if part.frame_size is None:
        raise OptionError("this half is of a net that takes no camera frames; compile that with frames=Frames(...)")
    if sorted(part.leaves) != list(range(len(part.leaves))):
        raise OptionError("some of the net's outputs are ready at the edge; cut it before all of them")
    meaning = net.task(task)
    stream = net.stream(policy, backend="cpu", threads=threads)
    assert isinstance(stream, CpuStream)
    maps = [spec for spec in net.program.graphs["blocked"].inputs if spec.role == "input"]
    return HalfCamera(stream, meaning, maps, part.frame_size, part.leaves, meaning.salience)


def require_servable(net: Net) -> None:
    """Refuses now what no camera could use."""
    if net.program.part is None:
        net.frame_size  # noqa: B018
    else:
        half_camera_of(net, Policy())


def served_as(net: Net) -> str:
    """What edge and cloud must have the same of: a hash of the net, and of where it is cut."""
    return net.digest if net.program.part is None else net.program.part.whole


def checker(net: Net) -> Callable[[str, str], str | None]:
    """What tells why a policy and a task, in words, cannot be served."""

    def check(policy: str, task: str) -> str | None:
        try:
            parsed = policy_from_words(policy)
            if task not in TASKS:
                raise OptionError(f"task is {task!r}; there are {', '.join(TASKS)}")
            if parsed.anchor and not net.takes_frames:
                raise OptionError("anchor needs a net with one image as input")
        except FluxError as error:
            return str(error)
        return None

    return check


@dataclass(frozen=True)
class Uplink:
    """How a camera reaches its cloud, and who it is there. seed: of the pauses before it tries again."""

    connect: Connect
    token: str = ""
    camera: str = "camera"
    seed: int = 0

    def link(self, net: Net, policy: Policy, task: Meaning) -> Link:
        if task.name not in TASKS:
            raise InputError(f"task {task.name}: a server knows only {', '.join(TASKS)}")
        words = {"program": served_as(net), "policy": policy_words(policy), "task": task.name}
        return Link(self.connect, camera=self.camera, token=self.token, seed=self.seed, **words)


def edge_of(
    net: Net,
    device: Device,
    uplink: Uplink | None,
    *,
    policy: Policy,
    task: Task | str | None = None,
    threads: int = 1,
    codec: str = "auto",
    crf: int | None = None,
    coarser: int = 0,
    profiles: tuple[Profile | None, Profile | None] = (None, None),
    **options: Any,
) -> Edge:
    """A camera at the edge; without an uplink everything stays here. options: as of `Edge`.

    codec, crf, coarser: as of `Codecs`. profiles: of this device and of cloud's, where they were measured; else the
    first frames find out.
    """
    here, there = (None if profile is None else Latency(profile.curve, profile.dense_ms) for profile in profiles)
    eye = camera_of(net, policy, task, threads)
    if uplink is None:
        return Edge(eye, device, None, latency=here, **options)
    link = uplink.link(net, policy, eye.task)
    proxy = Proxy(link, device, PictureCoder(Codecs(codec, crf, coarser), policy.residual, eye.regions), there)
    return Edge(eye, device, proxy, latency=here, **options)


def cut_edge_of(
    parts: Partition,
    device: Device,
    uplink: Uplink | None,
    *,
    policy: Policy,
    task: Task | str | None = None,
    threads: int = 1,
    precision: str = "int8",
    **options: Any,
) -> CutEdge:
    """A camera whose net is cut inside; its cloud serves the cloud's half. The edge holds both, and goes on alone."""
    if parts.edge is None or parts.cloud is None:
        raise OptionError("this partition has the whole net on one side; run that .flux itself")
    late = parts.cloud_policy(policy)
    rest = half_camera_of(parts.cloud, late, task, threads)
    stream = parts.edge.stream(policy, backend="cpu", threads=threads)
    assert isinstance(stream, CpuStream)
    first = FirstHalf(stream, rest.size, parts.edge_macs_share)
    if uplink is None:
        return CutEdge(first, Edge(rest, device, None, **options), device)
    link = uplink.link(parts.cloud, late, rest.task)
    proxy = Proxy(link, device, MapCoder(rest.maps, rest.size, precision))
    return CutEdge(first, Edge(rest, device, proxy, **options), device)


class RemoteStream:
    """A camera whose pictures are answered here or by a server, whichever is quicker: `stream(picture)`, an `Answer`.

    Its connection lives in a thread beside the caller's. Close it, or use it in a `with`.
    """

    def __init__(
        self, net: Net, server: str, token: str, *, policy: Policy, camera: str = "camera", **options: Any
    ) -> None:
        connect, secret = reached(server, token)
        self._machine = ThisMachine()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()
        self.edge = self._await(self._made(net, Uplink(connect, secret, camera), policy=policy, **options))

    def __call__(self, picture: Image) -> Answer:
        return self._await(self.edge(picture))

    def wait_until_open(self, timeout_s: float = 10.0) -> None:
        """Until the server has taken the camera; RefusedError where it will not, TimeoutError after a while."""
        assert self.edge.proxy is not None
        link = self.edge.proxy.link
        self._await(asyncio.wait_for(link.opened.wait(), timeout_s))
        if link.refused is not None:
            raise link.refused

    def close(self) -> None:
        if self._loop.is_running():
            self._await(self.edge.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _made(self, net: Net, uplink: Uplink, **options: Any) -> Edge:
        return edge_of(net, self._machine, uplink, **options)

    def _await(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()
