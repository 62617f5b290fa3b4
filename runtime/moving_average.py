"""The exponential moving average, by which rates and costs follow what was measured last."""

FADE = 0.8
"""Weight of what was measured so far against one measurement."""


def moving_average(so_far: float, measured: float) -> float:
    return FADE * so_far + (1 - FADE) * measured
