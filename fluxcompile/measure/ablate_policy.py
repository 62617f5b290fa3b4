"""What each part of a policy is worth: the same clips with one part off in turn, beside the whole.

`fluxcompile ablate MODEL --clips` is this. Parts that are off in the policy are put on instead, so that every knob has
its row; the last rows are other policies: exact reuse, and one without motion or salience in the manner of DeltaCNN
(Parger et al., 2022): thresholds on pixels, then on every map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fluxcompile.options import Policy

WHOLE = "the whole"
OFF: dict[str, dict[str, Any]] = {
    "anchor": {"anchor": False},
    "salience": {"background": 0.0, "edge": 0.0},
    "texture": {"texture": 0.0},
    "edge": {"edge": 0.0},
    "support": {"support": 0},
    "radius": {"radius": None},
    "exposure": {"exposure": False},
    "vectors": {"vectors": False},
    "gate": {"gate": 0.0},
    "freshness": {"freshness": 0.0},
    "budget": {"budget_ms": 0.0},
}
"""Each part of a policy, and the knobs that take it away."""
ON: dict[str, dict[str, Any]] = {
    "vectors": {"vectors": True},
    "gate": {"gate": 0.2, "gate_by": "mean"},
    "freshness": {"freshness": 0.02},
    "budget": {"budget_ms": 8.0},
}
"""The parts that a policy may lack, and what puts them in."""


def variants(policy: Policy) -> dict[str, Policy]:
    """The policy and its variants by name: "no anchor", "with gate"."""
    found = {WHOLE: policy}
    for part, knobs in OFF.items():
        without = replace(policy, **knobs)
        if without != policy:
            found[f"no {part}"] = without
        elif part in ON:
            found[f"with {part}"] = replace(policy, **ON[part])
    found["DeltaCNN-like"] = Policy(exact=False, threshold=8.0 * policy.residual / 2, gate=0.25)
    found["exact"] = Policy()
    return found


def rows_of(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each variant: its figures over all clips and on each, ratios to the whole."""
    rows = []
    for name, result in zip(names, results, strict=False):
        told = result["all"]
        if not told:
            continue
        clips = {row["clip"]: {k: row[k] for k in ("work_share", "ms", result["figure"])} for row in result["clips"]}
        row = {"part": name, **{k: told[k] for k in ("work_share", "ms", "ms_mean", "speedup", "dense_frames")}}
        rows.append({**row, "agreement": told[result["figure"]], "policy": result["policy"], "clips": clips})
    for row in rows:
        row["work_ratio"] = row["work_share"] / rows[0]["work_share"] if rows[0]["work_share"] else None
    return rows
