"""Edge and cloud of a net: cameras and workers made of it, and the words in which a policy crosses the wire."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from fluxcompile.errors import FluxError, InputError, OptionError
from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.runtime.camera import Camera
from fluxcompile.runtime.channel import Connect
from fluxcompile.runtime.codecs import Codecs
from fluxcompile.runtime.device import Device
from fluxcompile.runtime.edge import Edge
from fluxcompile.runtime.link import Link
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.proxy import Proxy
from fluxcompile.runtime.worker import Worker
from fluxcompile.tasks import TASKS, Task


def policy_words(policy: Policy) -> str:
    """A policy as the wire carries it."""
    return json.dumps(policy.to_json(), separators=(",", ":"))


def policy_of(words: str) -> Policy:
    """The policy of such words; OptionError where they mean none."""
    try:
        return Policy(**json.loads(words))
    except (ValueError, TypeError) as error:
        raise OptionError(f"a policy that cannot be read: {error}") from error


def camera_of(net: Net, policy: Policy, task: Task | str | None = None) -> Camera:
    """A camera of a net that takes camera frames, with our kernels."""
    meaning = net.task(task)
    stream = net.stream(policy, backend="cpu", task=meaning)
    assert isinstance(stream, CpuStream)
    return Camera(stream, meaning, net.frame_size)


def worker_of(net: Net) -> Worker:
    """What serves streams of a net, each by its own policy."""
    return Worker(lambda policy, task: camera_of(net, policy_of(policy), task))


def checker(net: Net) -> Callable[[str, str], str | None]:
    """What tells why a policy and a task, in words, cannot be served."""

    def check(policy: str, task: str) -> str | None:
        try:
            parsed = policy_of(policy)
            if task not in TASKS:
                raise OptionError(f"task is {task!r}; there are {', '.join(TASKS)}")
            if parsed.anchor and len(net.input_shapes) != 1:
                raise OptionError("anchor needs a net with one image as input")
        except FluxError as error:
            return str(error)
        return None

    return check


def new_token() -> str:
    """A secret that a server and its cameras share."""
    return secrets.token_urlsafe(24)


def edge_of(
    net: Net,
    device: Device,
    connect: Connect | None,
    *,
    policy: Policy,
    token: str = "",
    task: Task | str | None = None,
    camera: str = "camera",
    codec: str = "auto",
    crf: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Edge:
    """A camera at the edge; `connect` leads to its cloud, None keeps everything here. options: as of `Edge`."""
    eye = camera_of(net, policy, task)
    if connect is None:
        return Edge(eye, device, None, **options)
    if eye.task.name not in TASKS:
        raise InputError(f"task {eye.task.name}: a server knows only {', '.join(TASKS)}")
    words = {"policy": policy_words(policy), "task": eye.task.name, "camera": camera, "token": token}
    link = Link(connect, program=net.digest, seed=seed, **words)
    return Edge(eye, device, Proxy(link, device, Codecs(codec, crf), policy.residual), **options)
