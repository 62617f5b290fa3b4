"""`fluxcompile serve`: the server of cameras."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from fluxcompile.cli.shared import JsonOption, console
from fluxcompile.net import load

IDENTITY = Path.home() / ".fluxcompile" / "server"
FIRST_PORT = 7080
ProgramArgument = Annotated[Path, typer.Argument(metavar="NET.flux", help="What `fluxcompile compile` wrote.")]


def serve(
    net: ProgramArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; off this machine, TLS is used.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = FIRST_PORT,
    workers: Annotated[int, typer.Option(min=1, help="Processes that streams are shared among.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of each process.")] = 1,
    cameras: Annotated[int, typer.Option(min=1, help="The most that are taken.")] = 64,
    metrics: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics and /healthz; 0 for none.")] = 0,
    identity: Annotated[
        Path,
        typer.Option(show_default="~/.fluxcompile/server", help="Folder of the certificate and the secret, made once."),
    ] = IDENTITY,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Keep streams on a Ray cluster: auto, local or its address.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve cameras that run NET.flux, until Ctrl-C; then let what is under way be answered.

    NET.flux may be cloud.flux of a partition: cameras that run its folder send boundary maps.
    """
    from fluxcompile.identity import identity as identity_of
    from fluxcompile.remote import require_servable, served_as
    from fluxcompile.runtime.serve import Limits
    from fluxcompile.serving import Serving
    from fluxcompile.serving import serve as serve_

    program = load(net)
    require_servable(program)
    how = Serving(host, port, workers, threads, metrics, Limits(cameras=cameras))

    def on_ready(taken: int, token: str) -> None:
        if as_json:
            print(json.dumps({"host": host, "port": taken, "token": token, "program": served_as(program)}), flush=True)
            return
        console.print(f"serving {net} at {host}:{taken}; a camera connects with", highlight=False, soft_wrap=True)
        shown = net.name if program.program.part is None else net.resolve().parent.name
        command = f"  fluxcompile edge {shown} --camera CLIP --server {host}:{taken} --token {token}"
        console.print(command, highlight=False, markup=False, soft_wrap=True)

    async def main() -> None:
        pools = None
        if cluster is not None:
            from fluxcompile.cluster import ray_pools

            pools = ray_pools(net, cluster)
        await serve_(program, net, identity_of(identity), how, on_ready, pools)

    asyncio.run(main())
