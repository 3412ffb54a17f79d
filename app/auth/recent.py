"""Keys that were let in a moment ago, for routes that are asked again and again."""

import hashlib
import time

from app.store.repositories import FoundKey

TRUSTED_S = 1.0
MOST = 10_000


class RecentKeys:
    """What was found of keys within the last second, by the hash of what was sent; of this process alone.

    Only for changes: they ask in their own transaction whether the key still lives (`Access.record`), and so only limits of
    its project may be a second old.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[float, FoundKey]] = {}

    def get(self, text: str) -> FoundKey | None:
        """What was found of this key, or None."""
        found_at, found = self._found.get(_digest(text), (0.0, None))
        return found if time.monotonic() - found_at < TRUSTED_S else None

    def put(self, text: str, found: FoundKey) -> None:
        """Remember a key that was let in just now."""
        if len(self._found) >= MOST:
            self._found.clear()
        self._found[_digest(text)] = time.monotonic(), found

    def clear(self) -> None:
        """Forget all: a key or the limits of a project have changed."""
        self._found.clear()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
