"""`fluxcompile edge`: a net on a camera, here or on the server."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import IO, TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fluxcompile.cli.shared import POLICY_HELP, JsonOption, TaskOption, console, print_json
from fluxcompile.errors import OptionError
from fluxcompile.net import Net, Partition, load, load_partition
from fluxcompile.options import parse_policy

if TYPE_CHECKING:
    from fluxcompile.remote import Uplink
    from fluxcompile.runtime.cut_edge import CutEdge
    from fluxcompile.runtime.edge import Answer, Edge
    from fluxcompile.runtime.fit import Image

log = logging.getLogger("fluxcompile")
TokenOption = Annotated[str | None, typer.Option(help="What `serve` printed; or FLUX_TOKEN.", envvar="FLUX_TOKEN")]


def edge(
    net: Annotated[
        Path, typer.Argument(metavar="NET.flux|PARTS", help="What `compile` wrote, or the folder of `partition`.")
    ],
    camera: Annotated[str, typer.Option(metavar="CLIP", help="A video file, rtsp:// address or camera index.")],
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of the cloud; without it, edge alone.")
    ] = None,
    token: TokenOption = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help=f"{POLICY_HELP} video when not given, of PARTS video,anchor=off."),
    ] = None,
    task: TaskOption = None,
    places: Annotated[str, typer.Option(help="Where frames may be computed.")] = "edge,cloud",
    codec: Annotated[
        str | None,
        typer.Option(help="h264, jpeg, raw, or auto for the quickest; of PARTS the maps: fp32, fp16, int8."),
    ] = None,
    crf: Annotated[int | None, typer.Option(min=0, max=51, help="Of H.264: higher is smaller and coarser.")] = None,
    coarser: Annotated[
        int, typer.Option(min=0, max=51, help="Of H.264: quantiser steps more for what is not salient.")
    ] = 0,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Milliseconds after which an answer is worth nothing.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, help="Of a file; its own rate when not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of the kernels.")] = 1,
    page: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of a live page on this machine.")] = None,
    log_file: Annotated[Path | None, typer.Option("--log", help="A line of JSON for each answer.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run NET.flux on a camera: here, or on the server, whichever answers first."""
    from fluxcompile.identity import reached
    from fluxcompile.remote import Uplink
    from fluxcompile.runtime.device import ThisMachine
    from fluxcompile.runtime.newest import Newest
    from fluxcompile.runtime.video import probe
    from fluxcompile.sources import named_task

    parts = load_partition(net) if net.is_dir() else None
    program = load(net) if parts is None else parts.first
    chosen, about = parse_policy(policy or ("video" if parts is None else "video,anchor=off")), probe(camera)
    wanted = tuple(word.strip() for word in places.split(",") if word.strip())
    if not wanted or set(wanted) - {"edge", "cloud"}:
        raise OptionError(f"--places is {places!r}; use edge, cloud or both")
    if server is not None and token is None:
        raise OptionError("--server needs --token, which `fluxcompile serve` prints")
    name, meaning = Path(camera).stem or camera, named_task(task)
    uplink = Uplink(*reached(server, token), camera=name) if server is not None and token is not None else None

    async def main() -> list["Answer"]:
        machine = ThisMachine()
        options: dict[str, Any] = {
            "policy": chosen, "task": meaning, "places": wanted, "deadline_ms": deadline_ms, "threads": threads,
        }  # fmt: skip
        one = _opened(program if parts is None else parts, machine, uplink, codec, (crf, coarser), options)
        live = None
        if page is not None:
            from fluxcompile.live import LivePage

            live = LivePage(one, f"{net.name} on {name}")
            taken = await live.start("127.0.0.1", page)
            console.print(f"live at http://127.0.0.1:{taken}/", highlight=False)
        answers: list[Answer] = []
        live_source = about.num_frames is None
        pictures = _pictures(camera, program, chosen.anchor, None if live_source else frames)
        if live_source:
            pictures = itertools.islice(Newest(pictures), frames)
        loop, began = asyncio.get_running_loop(), 0.0
        every_s = 0.0 if live_source else 1 / (fps or about.fps)
        try:
            if one.proxy is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(one.proxy.link.opened.wait(), 5.0)
                if one.proxy.link.refused is not None:
                    raise one.proxy.link.refused
            with _Log(log_file) as written:
                while (picture := await asyncio.to_thread(next, pictures, None)) is not None:
                    began = began or loop.time()
                    await asyncio.sleep(max(0.0, began + len(answers) * every_s - loop.time()))
                    answer = await one(picture)
                    answers.append(answer)
                    written.add(answer)
                    if live is not None:
                        live.show(picture, answer)
        except asyncio.CancelledError:
            pass  # Ctrl-C: what was done is told
        finally:
            await one.close()
            if live is not None:
                await live.stop()
            machine.close()
        return answers

    answers = asyncio.run(main())
    if not answers:
        raise OptionError(f"{camera}: no frame to play")
    _tell(summary(answers), as_json)


def _opened(
    what: "Net | Partition",
    machine: Any,
    uplink: "Uplink | None",
    codec: str | None,
    h264: tuple[int | None, int],
    options: dict[str, Any],
) -> "Edge | CutEdge":
    from fluxcompile.remote import cut_edge_of, edge_of

    if isinstance(what, Net):
        return edge_of(what, machine, uplink, codec=codec or "auto", crf=h264[0], coarser=h264[1], **options)
    if h264 != (None, 0):
        raise OptionError("--crf, --coarser: of H.264; a net that is cut sends maps: use --codec fp32, fp16 or int8")
    return cut_edge_of(what, machine, uplink, precision=codec or "int8", **options)


def summary(answers: "list[Answer]") -> dict[str, Any]:
    """What a run was, in numbers."""
    latencies = [answer.latency_ms for answer in answers]
    return {
        "frames": len(answers),
        "latency_ms": mean(latencies),
        "latency_p95_ms": float(np.percentile(latencies, 95)),
        "latency_worst_ms": max(latencies),
        "cloud_share": mean(answer.place == "cloud" for answer in answers),
        "fallbacks": sum(answer.fallback for answer in answers),
        "hit_ratio": mean(answer.hit_ratio for answer in answers),
        "work_share": mean(answer.work_share for answer in answers),
        "bytes_per_frame": mean(answer.sent_bytes for answer in answers),
    }


def _tell(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    console.print(
        f"{told['frames']} frames, latency {told['latency_ms']:.1f} ms (95 % below {told['latency_p95_ms']:.1f}), "
        f"{told['cloud_share']:.0%} answered by cloud, {told['fallbacks']} in its stead, "
        f"{told['hit_ratio']:.1%} of the blocks reused, {told['bytes_per_frame'] / 1000:.1f} kB sent a frame",
        highlight=False,
        soft_wrap=True,
    )


def _pictures(camera: str, program: Any, anchored: bool, count: int | None) -> "Iterator[Image]":
    """The camera's frames at the size that the net takes, with a margin where an anchor moves them."""
    from fluxcompile.runtime.fit import fit, scaled
    from fluxcompile.runtime.video import frames

    size, margin = program.frame_size, program.margin if anchored else (0, 0)
    for image in frames(camera, count=count):
        yield np.ascontiguousarray(
            scaled(image, size[0], size[1], margin) if anchored else fit(image, size[0], size[1])[0]
        )


class _Log:
    """A line for each answer; a disk that is full costs lines, never answers."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> "_Log":
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def add(self, answer: "Answer") -> None:
        if self._file is None:
            return
        row = {"time": time.time(), "seq": answer.seq, "place": answer.place, "fallback": answer.fallback}
        row |= {"latency_ms": round(answer.latency_ms, 3), "estimates": answer.estimates, "blocks": answer.blocks}
        row |= {"work_share": answer.work_share, "sent_bytes": answer.sent_bytes}
        try:
            self._file.write(json.dumps(row) + os.linesep)
            self._file.flush()
        except OSError as error:
            log.warning("%s: %s; the run goes on without its log", self._path, error.strerror or error)
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
