"""The paper's schedule as data: N:M first, then fewer and fewer tiles, training in between (CRISP, algorithm 1)."""

from dataclasses import dataclass, replace
from fractions import Fraction

from lut.pattern import Pattern

MAX_DENOMINATOR = 1000
"""Shares are rounded to fractions that can be read."""


@dataclass(frozen=True, kw_only=True)
class MaskStage:
    """What one round of masking and training aims at."""

    pattern: Pattern
    """With the share of a layer of average density; `allocate` gives every layer its own."""
    density: float
    """Kept weights over all weights of the masked layers."""


def stages(pattern: Pattern, density: float, num_steps: int) -> tuple[MaskStage, ...]:
    """Return `num_steps` stages, from N:M with all tiles (where there is N:M) to `density`, in even steps of the share.

    One step goes to `density` at once. Fewer stages come back where there is nothing left to do in between. Masks nest
    when each is chosen within the one before (`best_mask(..., within=...)`).

    Raises ValueError for no steps, for a density outside (0, N/M], and for one below N/M of a pattern without tiles.
    """
    ceiling = Fraction(pattern.n, pattern.m)
    share = (Fraction(density) / ceiling).limit_denominator(MAX_DENOMINATOR)
    if num_steps < 1 or not 0 < share <= 1 or (share < 1 and not pattern.tile_out):
        raise ValueError(f"{pattern.id} cannot reach a density of {density} in {num_steps} steps")
    if not pattern.tile_out:
        return (MaskStage(pattern=pattern, density=float(ceiling)),)
    first = int(pattern.m > 1 and num_steps > 1)
    shares = [Fraction(1)] * first
    for step in range(1, num_steps - first + 1):
        lowered = 1 - (1 - share) * Fraction(step, num_steps - first)
        shares.append(lowered.limit_denominator(MAX_DENOMINATOR))
    shares = sorted(set(shares), reverse=True)
    return tuple(MaskStage(pattern=replace(pattern, share=s), density=float(s * ceiling)) for s in shares)
