"""Random weights and inputs, equal in every run."""

from functools import cache

import numpy as np

_POOL_SIZE = 1 << 22


@cache
def random_pool() -> np.ndarray:
    """Return float32 [4,194,304] normal random numbers, the source of all weights and inputs (no denormals)."""
    pool = np.random.default_rng(0).standard_normal(_POOL_SIZE, dtype=np.float32)
    pool = np.where(np.abs(pool) < 1e-3, np.float32(1e-3), pool)
    pool.setflags(write=False)
    return pool


def random_array(shape: tuple[int, ...], *, offset: int = 0, scale: float = 1.0) -> np.ndarray:
    """Return float32 `shape` random numbers, equal for equal arguments."""
    size = int(np.prod(shape))
    start = offset % (_POOL_SIZE // 2)
    pool = random_pool()
    values = pool[start : start + size] if start + size <= _POOL_SIZE else np.resize(pool[start:], size)
    return np.ascontiguousarray((values * np.float32(scale)).reshape(shape))
