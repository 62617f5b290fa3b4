"""A server that listens: TCP for cameras, HTTP for its metrics, processes for its streams, an end in good order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxcompile.identity import Identity, is_loopback
from fluxcompile.net import Net
from fluxcompile.remote import checker, served_as
from fluxcompile.runtime.channel import listen
from fluxcompile.runtime.pool import Pool, ProcessPool, python_command
from fluxcompile.runtime.serve import Limits, Server

log = logging.getLogger("fluxcompile")


@dataclass(frozen=True)
class Serving:
    """Where and how: `workers` processes of `threads` each; metrics_port 0 keeps the metrics to itself."""

    host: str = "127.0.0.1"
    port: int = 7080
    workers: int = 1
    threads: int = 1
    metrics_port: int = 0
    limits: Limits = field(default_factory=Limits)


async def serve(
    net: Net,
    path: Path,
    who: Identity,
    how: Serving,
    on_ready: Callable[[int, str], None],
    pools: list[Pool] | None = None,
) -> None:
    """Serve until the process is told to stop (SIGINT, SIGTERM). on_ready: told the port and the token.

    path: of the net, for the processes to load. pools: where streams live, instead of processes.
    """
    encrypted = not is_loopback(how.host)
    command = python_command("fluxcompile.serve_worker", str(path), str(how.threads))
    homes = pools or [ProcessPool(command) for _ in range(how.workers)]
    server = Server(served_as(net), homes, token=who.secret, check=checker(net), limits=how.limits)
    listener, port = await listen(server.talk, how.host, how.port, who.context() if encrypted else None)
    pages = await _metrics_page(server, how.host, how.metrics_port) if how.metrics_port else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, ValueError):  # not in this thread, or not on this system
            loop.add_signal_handler(number, stop.set)
    on_ready(port, who.token(encrypted))
    try:
        await stop.wait()
    finally:
        listener.close()
        await server.drain()
        if pages is not None:
            await pages.cleanup()


async def _metrics_page(server: Server, host: str, port: int) -> Any:
    """/metrics in Prometheus' words, /healthz."""
    from aiohttp import web
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    registry = metrics_of(server)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"cameras": server.cameras, "loads": server.loads()})

    pages = web.Application()
    pages.add_routes([web.get("/metrics", metrics), web.get("/healthz", health)])
    runner = web.AppRunner(pages, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


def metrics_of(server: Server) -> Any:
    """A registry that reads the server's counts when it is asked."""
    from prometheus_client import CollectorRegistry, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

    counts = server.counts
    registry = CollectorRegistry()
    buckets = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    waited = Histogram("flux_queue_milliseconds", "A frame's wait for its turn", registry=registry, buckets=buckets)
    took = Histogram("flux_compute_milliseconds", "A frame's computing", registry=registry, buckets=buckets)
    shares = tuple(n / 10 for n in range(1, 11))
    work = Histogram("flux_work_share", "MACs over those of a dense frame", registry=registry, buckets=shares)

    def on_result(queue_ms: float, compute_ms: float, work_share: float) -> None:
        waited.observe(queue_ms)
        took.observe(compute_ms)
        work.observe(work_share)

    counts.on_result = on_result

    class Counted(Collector):
        def collect(self) -> Any:
            for name, text, value in (
                ("flux_frames", "Frames that came", counts.frames),
                ("flux_results", "Frames that were answered", counts.results),
                ("flux_received_bytes", "Bytes from cameras", counts.received_bytes),
                ("flux_sent_bytes", "Bytes to cameras", counts.sent_bytes),
                ("flux_broken_connections", "Connections that broke the protocol", counts.broken),
                ("flux_resumed_streams", "Streams that went on over a new connection", counts.resumed),
            ):
                yield CounterMetricFamily(name, text, value)
            for name, text, label, values in (
                ("flux_skipped_frames", "Frames without an answer", "reason", counts.skipped),
                ("flux_refused_cameras", "Cameras that were refused", "code", counts.refused),
            ):
                family = CounterMetricFamily(name, text, labels=[label])
                for key, value in values.items():
                    family.add_metric([key], value)
                yield family
            yield GaugeMetricFamily("flux_cameras", "Streams that are kept", server.cameras)
            loads = GaugeMetricFamily("flux_load", "Share of its time that a worker is busy", labels=["worker"])
            for index, load in enumerate(server.loads()):
                loads.add_metric([str(index)], load)
            yield loads

    registry.register(Counted())
    return registry
