"""Patterns: which weights of a layer may stay, as plain numbers that a device, a table key and a mask agree on.

Letters: B_out x B_in = a tile; R = C_out / B_out block-rows; N:M = N kept of M consecutive input channels. The weight
is [C_out, C_in, kh, kw] (kh = kw = 1 for a linear layer). Source: CRISP, arXiv 2311.14272, sections 2 and 4 of the
method.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True, kw_only=True, order=True)
class Pattern:
    """Tiles of which every block-row keeps the same number, N:M along the input channels, both, or neither (dense)."""

    tile_out: int = 0
    """B_out: output channels of a block-row; 0 where there are no tiles."""
    tile_in: int = 0
    """B_in: input channels of a tile; 1 gives each block-row its own free list of channels."""
    share: Fraction = Fraction(1)
    """Tiles kept of each block-row's, in (0, 1]: K'/K."""
    per_tap: bool = False
    """False: a tile spans all kernel taps. True: the paper's matrix, C_out x (kh * kw * C_in), is cut into tiles."""
    n: int = 1
    m: int = 1
    """N kept of every M consecutive input channels; 1:1 is no N:M. Chosen before the tiles."""
    shared: bool = False
    """True ("vector"): the B_out rows of a block-row and all taps share the N:M choice. False: each weight row and tap
    makes its own.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that describe no pattern."""
        tiles = self.tile_out > 0 and self.tile_in > 0
        if not tiles and (self.tile_out or self.tile_in or self.share != 1 or self.per_tap or self.shared):
            raise ValueError(f"a pattern with a share, taps or shared N:M wants tiles: {self!r}")
        if min(self.tile_out, self.tile_in) < 0 or not 0 < self.share <= 1:
            raise ValueError(f"tiles are at least 1 x 1, their share is in (0, 1]: {self!r}")
        if not 1 <= self.n <= self.m or (self.n == self.m and self.m > 1):
            raise ValueError(f"N:M keeps 1 <= N < M (1:1 for none): {self!r}")
        if self.shared and (self.m == 1 or self.tile_in % self.m or self.per_tap):
            raise ValueError(f"shared N:M wants tiles of whole runs of M channels that span all taps: {self!r}")

    @property
    def id(self) -> str:
        """Return its name: `dense`, `2:4`, `64x64@1/4`, `64x1@1/4`, `2:4+16x16/tap@1/2`, `2:4v+64x64@1/2`."""
        parts = []
        if self.m > 1:
            parts.append(f"{self.n}:{self.m}{'v' if self.shared else ''}")
        if self.tile_out:
            tap = "/tap" if self.per_tap else ""
            share = f"{self.share.numerator}/{self.share.denominator}"
            parts.append(f"{self.tile_out}x{self.tile_in}{tap}@{share}")
        return "+".join(parts) or "dense"

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Return the pattern of this id. Raises ValueError."""
        fields: dict[str, object] = {}
        for part in () if name == "dense" else name.split("+"):
            if runs := re.fullmatch(r"(\d+):(\d+)(v?)", part, re.ASCII):
                fields |= {"n": int(runs[1]), "m": int(runs[2]), "shared": bool(runs[3])}
            elif tiles := re.fullmatch(r"(\d+)x(\d+)(/tap)?@(\d+)/([1-9]\d*)", part, re.ASCII):
                share = Fraction(int(tiles[4]), int(tiles[5]))
                fields |= {
                    "tile_out": int(tiles[1]), "tile_in": int(tiles[2]), "per_tap": bool(tiles[3]), "share": share
                }  # fmt: skip
            else:
                raise ValueError(f"not a pattern: {name!r}")
        pattern = cls(**fields)  # type: ignore[arg-type]
        if pattern.id != name:
            raise ValueError(f"not a pattern: {name!r} (it would be written {pattern.id!r})")
        return pattern

    @property
    def is_dense(self) -> bool:
        """True when every weight stays."""
        return self.m == 1 and self.share == 1

    @property
    def lowerable(self) -> bool:
        """True when a block-row reads one list of input channels at every tap: gather + grouped convolution."""
        return self.tile_out > 0 and not self.per_tap and (self.m == 1 or self.shared)

    def fitted(self, c_in: int, c_out: int, num_taps: int = 1) -> "Pattern":
        """Return the pattern with the largest tiles, no larger than its own, that divide this layer.

        Raises ValueError when none does (shared N:M on a layer whose input channels are no whole runs).
        """
        if not self.tile_out:
            return self
        run = self.m if self.shared else 1
        columns = c_in * num_taps if self.per_tap else c_in
        tile_in = _largest_divisor(columns // run, self.tile_in // run) * run if columns % run == 0 else 0
        if not tile_in:
            raise ValueError(f"{self.id}: {c_in} input channels are no whole runs of {run}")
        return replace(self, tile_out=_largest_divisor(c_out, self.tile_out), tile_in=tile_in)

    def num_kept_tiles(self, c_in: int, num_taps: int = 1) -> int:
        """Return K'/B_in, the tiles every block-row of a fitted layer keeps: the nearest whole number, at least 1."""
        tiles = (c_in * num_taps if self.per_tap else c_in) // self.tile_in
        return max(1, (2 * self.share.numerator * tiles + self.share.denominator) // (2 * self.share.denominator))

    def num_kept_channels(self, c_in: int) -> int:
        """Return the length of each block-row's list of input channels, for a fitted lowerable pattern."""
        return self.num_kept_tiles(c_in) * self.tile_in * self.n // self.m


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, max(limit, 1)), 0, -1) if number % d == 0)
