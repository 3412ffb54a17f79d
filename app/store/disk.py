"""When a disk is full, whoever says so."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room on the device, in the quota, or in a single file (a limit of the process)."""
_SAYINGS = ("no space left on device", "disk is full", "disk quota exceeded", "file too large")


def is_full(error: BaseException) -> bool:
    """True for an error that means that there is no room: of the system, of SQLite or Postgres, of a library's own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return says_full(str(error))


def says_full(text: str) -> bool:
    """True for the text of such an error."""
    return any(saying in text.lower() for saying in _SAYINGS)
