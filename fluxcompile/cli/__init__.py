"""The `fluxcompile` command: what it can be asked for, and how it fails. Torch is imported when a command needs it."""

import logging
import sys
from collections.abc import Callable

from fluxcompile import options
from fluxcompile.cli import (
    ablate,
    bench,
    calibrate,
    compile,
    demo,
    edge,
    explain,
    export,
    partition,
    profile,
    run,
    serve,
    testbed,
    zoo,
)
from fluxcompile.cli.shared import app, console
from fluxcompile.errors import FluxError

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Compile and play": {"compile": compile.compile_, "explain": explain.explain, "run": run.run, "demo": demo.demo},
    "Measure": {"calibrate": calibrate.calibrate, "bench": bench.bench, "ablate": ablate.ablate, "zoo": zoo.zoo},
    "Edge and cloud": {
        "profile": profile.profile,
        "partition": partition.partition,
        "serve": serve.serve,
        "edge": edge.edge,
        "testbed": testbed.run_testbed,
    },
    "Engines for a target": {"export": export.export, "check": export.check},
}
"""The commands, in the order and under the headings of `--help`."""
EXTRAS = {
    "networkx": "compile",
    "torch": "compile",
    "onnx": "onnx",
    "av": "video",
    "cv2": "video",
    "timm": "zoo",
    "torchvision": "zoo",
    "ultralytics": "ultralytics",
    "jinja2": "report",
    "matplotlib": "bench",
    "nncf": "int8",
    "onnxruntime": "bench",
    "openvino": "bench",
    "aiohttp": "remote",
    "cryptography": "remote",
    "prometheus_client": "remote",
    "ray": "cluster",
    "tensorrt_rtx": "rtx",
}
"""The extra that brings a package that is not always there."""

for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)


def main() -> None:
    """Run the command; our own errors are one message and exit code 2, a traceback only under FLUX_LOG=debug."""
    debug = False
    try:
        level = options.log_level()
        debug = level <= logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("fluxcompile").setLevel(level)
        app()
    except FluxError as error:
        _fail(str(error), debug)
    except OSError as error:  # a folder that cannot be made, a disk that is full
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f"this needs {package}: pip install 'fluxcompile[{EXTRAS[package]}]'", debug)


def _fail(message: str, debug: bool) -> None:
    if debug:
        console.print_exception()
    console.print("[bold red]error:[/bold red] ", end="")
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)
