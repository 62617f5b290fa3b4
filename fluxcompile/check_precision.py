"""The check of a bundle's precision: how far its results, and what they mean, come from float32's, by ONNX Runtime."""

import numpy as np

from fluxcompile.checks import Case, Failed, Skipped
from fluxcompile.losses import Graph, loss_of, meaning_of, most_to_blame

ALLOWED = {"fp16": (0.02, 0.95), "int8": (0.2, 0.85)}
"""By precision: the most that results may be off, over their root mean square; the least agreement of the task."""


def precision_holds(case: Case) -> str:
    """Plays the clip through plugin.onnx as the engine rounds it, and through golden.onnx."""
    manifest = case.manifest
    if manifest.precision == "fp32":
        raise Skipped("the bundle is float32, which `golden equals reference` compares")
    most_rms, least = ALLOWED[manifest.precision]
    exact, quantized = (
        Graph(case.with_functions(name), manifest.caches, manifest.results) for name in ("golden.onnx", "plugin.onnx")
    )
    floats = {op for op, kept in manifest.kept.items() if kept.precision == "fp32"}
    near = quantized.rounded(floats)
    feeds = list(case.feeds())
    meaning = meaning_of(case.program, case.task)
    loss = loss_of(exact, near, feeds, meaning)
    found = f"{len(feeds)} frames; results are {loss.rms:.1e} off, over their root mean square, {loss.most:.1e} at most"
    if loss.figure:
        agreement = "had nothing to compare" if loss.agreement is None else f"{loss.agreement:.3f}"
        found += f"; {loss.figure} against float32 {agreement}"
    if np.isfinite(loss.rms) and loss.rms <= most_rms and (loss.agreement is None or loss.agreement >= least):
        wide = len(floats)
        return f"{found}; {wide} ops kept in float32, {len(manifest.kept) - wide} in float16"
    blamed = most_to_blame(exact, near, feeds, floats)
    paths = {op.name: op.path for op in case.program.graphs["blocked"].ops}
    names = ", ".join(f"{op} ({paths[op]})" if paths.get(op) else op for op in blamed)
    guessed = (
        f"; the task was guessed to be {meaning.task.name}, --task says another" if meaning and not case.task else ""
    )
    raise Failed(
        f"{found}; {manifest.precision} allows {most_rms:g} and {least:g}. Most is lost in {names}: "
        f"export again with --keep {','.join(blamed)}, or with a wider precision{guessed}"
    )
