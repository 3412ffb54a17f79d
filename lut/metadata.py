"""What a pattern keeps of a layer, counted, and the bits it takes to say where that sits.

Letters: B_out x B_in = a tile; R = C_out / B_out block-rows of T tiles, K' kept of each; N:M = N kept of M consecutive
input channels. All functions but `metadata_bits` take a pattern that is fitted to the layer. Source: CRISP, arXiv
2311.14272; method section 2.
"""

from lut.pattern import Pattern


def index_width(count: int) -> int:
    """Return ceil(log2(count)): bits that tell `count` >= 1 choices apart."""
    return (count - 1).bit_length()


def num_tiles(pattern: Pattern, c_in: int, num_taps: int = 1) -> int:
    """Return T; 0 where the pattern has no tiles."""
    return (c_in * num_taps if pattern.per_tap else c_in) // pattern.tile_in if pattern.tile_out else 0


def num_kept_in_runs(pattern: Pattern, channels: int) -> int:
    """Return what N:M keeps of `channels` consecutive input channels: N of each whole run, min(N, rest) of a short last one."""
    runs, rest = divmod(channels, pattern.m)
    return runs * pattern.n + min(pattern.n, rest)


def runs_fit_tiles(pattern: Pattern, c_in: int) -> bool:
    """Return True when every tile begins where a run of M channels begins, so that indices can describe the mask."""
    whole_rows = pattern.tile_out == 0 or pattern.tile_in % c_in == 0
    return whole_rows or (c_in % pattern.m == 0 and pattern.tile_in % pattern.m == 0)


def num_choices(pattern: Pattern, c_in: int, c_out: int, num_taps: int = 1) -> int:
    """Return how many channels the runs of a layer keep in all, a choice that rows and taps share counted once.

    Exact where runs fit tiles.
    """
    rows, taps = (c_out // pattern.tile_out, 1) if pattern.shared else (c_out, num_taps)
    if not pattern.tile_out:
        return rows * taps * num_kept_in_runs(pattern, c_in)
    # Only whole rows of channels end in a short run; other tiles hold whole runs.
    rows_in_tile = pattern.tile_in // c_in if pattern.tile_in % c_in == 0 else 0
    in_tile = rows_in_tile * num_kept_in_runs(pattern, c_in) or pattern.tile_in // pattern.m * pattern.n
    return rows * pattern.num_kept_tiles(c_in, num_taps) * in_tile * (1 if pattern.per_tap else taps)


def num_kept(pattern: Pattern, c_in: int, c_out: int, num_taps: int = 1) -> int:
    """Return the weights a pattern keeps of a layer; exact where runs fit tiles."""
    return num_choices(pattern, c_in, c_out, num_taps) * (pattern.tile_out * num_taps if pattern.shared else 1)


def metadata_bits(pattern: Pattern, c_in: int, c_out: int, num_taps: int = 1) -> int:
    """Return the bits of a layer's indices: `nnz * ceil(log2 M) + R * K' * ceil(log2 T)`, no row pointers.

    The pattern is fitted to the layer first. A shared ("vector") N:M choice counts once for the rows and taps that
    share it. Where runs straddle tiles no indices describe the mask, and it takes one bit a weight. A dense layer
    needs none. Raises ValueError where the pattern does not fit the layer.
    """
    pattern = pattern.fitted(c_in, c_out, num_taps)
    if not runs_fit_tiles(pattern, c_in):
        return c_out * c_in * num_taps
    bits = num_choices(pattern, c_in, c_out, num_taps) * index_width(pattern.m)
    if pattern.tile_out:
        kept = c_out // pattern.tile_out * pattern.num_kept_tiles(c_in, num_taps)
        bits += kept * index_width(num_tiles(pattern, c_in, num_taps))
    return bits
