"""What passes is tried again, and nothing else is."""

import errno

import pytest
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from app.store.blobs import StoreUnavailable
from workers.fence import passes


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OperationalError("UPDATE", {}, Exception("database or disk is full")),
        OperationalError("UPDATE", {}, Exception("server closed the connection unexpectedly")),
        StoreUnavailable("the bucket is away"),
    ],
)
def test_want_of_room_and_of_a_database_pass(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("7"),
        PermissionError(errno.EACCES, "Permission denied"),
        IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed")),
        DataError("INSERT", {}, Exception("value too long")),
    ],
)
def test_what_would_come_again_does_not_pass(error: Exception) -> None:
    assert not passes(error)
