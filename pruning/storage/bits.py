"""Small numbers as a stream of bits: number i takes bits [i * width, (i + 1) * width), least significant first."""

import numpy as np


def num_bytes(count: int, width: int) -> int:
    """Return the bytes that `count` numbers of `width` bits take: the last byte is padded with zeros."""
    return (count * width + 7) // 8


def to_bytes(numbers: np.ndarray, width: int) -> np.ndarray:
    """Return integers [count] in [0, 2**width) as uint8 [num_bytes(count, width)]; width 0 takes no bytes."""
    bits = np.empty((len(numbers), width), np.uint8)
    for i in range(width):
        bits[:, i] = (numbers >> i) & 1
    return np.packbits(bits, bitorder="little")


def from_bytes(data: np.ndarray, count: int, width: int, name: str) -> np.ndarray:
    """Return int64 [count] from uint8 data; `width` is at most 62.

    Raises ValueError, naming `name`, for a wrong length or padding that is not zero.
    """
    if data.shape != (num_bytes(count, width),):
        raise ValueError(
            f"{name}: {count} numbers of {width} bits are {num_bytes(count, width)} bytes, found {data.shape}"
        )
    bits = np.unpackbits(data, bitorder="little")
    if bits[count * width :].any():
        raise ValueError(f"{name}: the bits after the last number are not zero")
    numbers = np.zeros(count, np.int64)
    for i in range(width):
        numbers |= bits[i : count * width : width].astype(np.int64) << i
    return numbers
