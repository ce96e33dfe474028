"""How much is zero at which time while a network is pruned in several cuts."""

from __future__ import annotations


def cubic(step: int, start: int, stop: int, initial: float, final: float) -> float:
    """Share of zeros at an optimizer step: fast while there is much to spare, slow towards the end.

    `initial` up to `start`, `final` from `stop` on. Source: Zhu & Gupta 2017, "To prune, or not to prune", equation 1,
    with stop = t0 + n * dt.
    """
    done = min(max(step - start, 0) / max(stop - start, 1), 1.0)
    return final + (initial - final) * (1.0 - done) ** 3


def geometric(cut: int, cuts: int, final: float) -> float:
    """Share of zeros after a cut, from 1 to `cuts`: each cut removes the same share of what is left.

    Source: Han et al. 2015, "Learning both Weights and Connections", section 3.4; Frankle & Carbin 2018, section 1 (p^(1/n)).
    """
    return float(1.0 - (1.0 - final) ** (cut / cuts))
