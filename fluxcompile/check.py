"""Checks a bundle on the machine that exported it, without the target: what each check can prove, and whether it did.

A check that cannot be made here is told as skipped, with the reason; it proves nothing then.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fluxcompile import checks
from fluxcompile.bundle import MANIFEST, read_manifest
from fluxcompile.bundle_graphs import RTX, RTX_FIXED
from fluxcompile.check_precision import precision_holds
from fluxcompile.checks import Case, Failed, Found, Skipped
from fluxcompile.errors import FluxError, OptionError, in_a_line


@dataclass(frozen=True)
class Check:
    """`run` returns what it found, or raises Failed or Skipped. of_target: it looks beyond graph and scripts."""

    name: str
    proves: str
    run: Callable[[Case], str | Found]
    of_target: bool = False


@dataclass(frozen=True)
class Result:
    """`passed` is None for a check that was skipped; `detail` says what was found, or why not, `figures` in numbers."""

    name: str
    passed: bool | None
    proves: str
    detail: str
    figures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    folder: str | Path,
    *,
    clip: str | Path | None = None,
    bindings: dict[str, Path] | None = None,
    only: Collection[str] = (),
    task: str | None = None,
) -> list[Result]:
    """Make every check of the bundle in a folder, or those that are named.

    clip: a video to compare over in place of the samples. bindings: folders of TensorRT's Python bindings, by version.
    task: what the outputs mean, where their shapes do not say it.
    """
    case = Case(Path(folder), None if clip is None else Path(clip), bindings or {}, task)
    if not (case.folder / MANIFEST).is_file():
        read_manifest(case.folder)  # refuses what is no bundle at all
    known = checks_of(case.folder, case.bindings)
    unknown = set(only) - {c.name for c in known}
    if unknown:
        raise OptionError(
            f"no check is called {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in known)}"
        )
    return [_made(one, case) for one in known if not only or one.name in only]


def _made(one: Check, case: Case) -> Result:
    try:
        found = one.run(case)
        found = Found(found) if isinstance(found, str) else found
        return Result(one.name, True, one.proves, found.detail, found.figures)
    except Skipped as e:
        return Result(one.name, None, one.proves, str(e))
    except Failed as e:
        return Result(one.name, False, one.proves, str(e), e.figures)
    except FluxError as e:
        return Result(one.name, False, one.proves, str(e))
    except Exception as e:  # a file that was cut or altered makes its reader raise whatever it likes
        return Result(one.name, False, one.proves, in_a_line(e))


def checks_of(folder: Path, bindings: Mapping[str, Path]) -> list[Check]:
    """All that there are for a bundle: of the files it has, of each version of the bindings that is here."""
    proves = "every class, member and flag that the scripts use exists in TensorRT {}'s own bindings"

    def none(case: Case) -> str:
        raise Skipped("no bindings here; `make targets`, or --bindings VERSION=FOLDER")

    known = [*CHECKS, *(one for file, one in OF_FILE if (folder / file).exists())]
    if not bindings:
        return [*known, Check("names exist in TensorRT", proves.format("8.6 and 10.3"), none)]
    return known + [Check(f"names exist in TensorRT {v}", proves.format(v), checks.names_exist(v)) for v in bindings]


FIXED = Check(
    "fixed lists equal golden",
    "fixed.onnx gives golden.onnx's outputs and caches in every frame that it does not say is too much for it",
    checks.equals_golden("fixed.onnx"),
)
SPELLED = Check(
    "graph without plugins equals golden",
    "rtx.onnx, which TensorRT for RTX is given, gives golden.onnx's outputs and caches in every frame",
    checks.equals_golden(RTX),
    of_target=True,
)
SPELLED_FIXED = Check(
    "fixed lists without plugins equal golden",
    "rtx_fixed.onnx does so in every frame that it does not say is too much for it",
    checks.equals_golden(RTX_FIXED),
    of_target=True,
)
RTX_NAMES = Check(
    "names exist in TensorRT for RTX",
    "every class, member and flag that the scripts use with --rtx exists in the library that is installed here",
    checks.names_exist_in_rtx,
    of_target=True,
)
OF_FILE = (("fixed.onnx", FIXED), (RTX, SPELLED), (RTX_FIXED, SPELLED_FIXED), (RTX, RTX_NAMES))
"""The checks of what not every bundle has."""
CHECKS = [
    Check("bundle is whole", "every file is there and has the hash it was written with", checks.whole, of_target=True),
    Check(
        "golden equals reference",
        "golden.onnx in ONNX Runtime gives our reference executor's outputs to 1e-4, and its caches, frame by frame",
        checks.golden_equals_reference,
    ),
    Check(
        "samples are golden",
        "the samples that run.py --check compares with are golden.onnx's",
        checks.samples_are_golden,
    ),
    Check(
        "plugin graph is golden without functions",
        "what TensorRT is given is what ONNX Runtime was given, but for int8's nodes around products, which follow "
        "from the manifest; its plugin nodes have the plugins' ports",
        checks.plugin_is_golden_without_functions,
    ),
    Check(
        "precision holds",
        "with every tensor rounded as the engine may keep it, results and the task's agreement stay near float32's",
        precision_holds,
    ),
    Check("plugin source is there", "plugin/ declares every plugin that the graph uses", checks.plugin_source_matches),
    Check(
        "kernels compile",
        "NVRTC takes every kernel of plugin/ for the target's GPU; none was run",
        checks.kernels_compile,
        of_target=True,
    ),
    Check("scripts are Python 3.8", "the scripts parse as the Python of JetPack 5", checks.scripts_are_python_3_8),
    Check(
        "engine built ahead of time",
        "TensorRT for RTX parses rtx.onnx, the graph without plugins, and makes an engine of it, not run",
        checks.built_ahead_of_time,
        of_target=True,
    ),
]
"""In the order they are told; another check is another row."""
