"""Files by their SHA-256 in an S3 bucket.

A file is spooled to the local disk first, because its name is its hash, and put under that name in one upload. An upload,
in one part or several, becomes visible whole or not at all, and whoever puts the same name puts the same bytes: there is
no temporary key to copy from, and nothing to make conditional.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from app.store.blobs import CHUNK_BYTES, BlobStore, StoredBlob, StoreUnavailable, blob_key
from app.store.blobs_cache import BlobCache
from app.store.blobs_presign import Presigner

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_PART_BYTES = 16 * CHUNK_BYTES
_PARTS_AT_ONCE = 4
_LISTED_AT_ONCE = 1000
_RETRIES: "RetryConfig" = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
_TIMEOUTS: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=5),
    # Silence that means a dead link; a part that is sent must be answered within it.
    "read_timeout": timedelta(seconds=30),
    # Of a whole request, body included: the default of 30 s broke every download that took longer.
    "timeout": timedelta(hours=6),
}


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Where the bucket is and who we are; what is empty comes from the usual AWS variables."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    allow_http: bool = False

    def open(self) -> S3Store:
        """A store of the keys below the prefix."""
        named: S3Config = {}
        if self.endpoint:
            named["endpoint"] = self.endpoint
        if self.region:
            named["region"] = self.region
        if self.access_key_id:
            named["access_key_id"] = self.access_key_id
        if self.secret_access_key:
            named["secret_access_key"] = self.secret_access_key
        client: ClientConfig = {"allow_http": self.allow_http, **_TIMEOUTS}
        return S3Store(
            self.name, prefix=self.prefix or None, config=named, client_options=client, retry_config=_RETRIES
        )


class S3Blobs(BlobStore):
    """`<prefix>/<first two digits>/<sha256>` in a bucket, with a spool and a cache on the local disk."""

    def __init__(self, bucket: Bucket, *, spool: Path, cache: BlobCache, presigner: Presigner | None = None) -> None:
        super().__init__(spool)
        self._store = bucket.open()
        self._cache = cache
        self._presigner = presigner

    def adopt(self, path: Path, sha256: str) -> None:
        """See BlobStore."""
        with _answers(sha256):
            obstore.put(self._store, blob_key(sha256), path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        path.unlink()

    def size_bytes(self, sha256: str) -> int:
        """See BlobStore."""
        with _answers(sha256):
            return obstore.head(self._store, blob_key(sha256))["size"]

    def chunks(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """See BlobStore."""
        if start >= end:
            return
        with _answers(sha256):
            found = obstore.get(self._store, blob_key(sha256), options={"range": (start, end)})
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    @contextlib.contextmanager
    def local(self, sha256: str) -> Iterator[Path]:
        """See BlobStore."""
        size_bytes = self.size_bytes(sha256)

        def fetch(part: Path) -> None:
            with part.open("xb", buffering=0) as file:
                for chunk in self.chunks(sha256, 0, size_bytes):
                    file.write(chunk)

        with self._cache.local(sha256, size_bytes, fetch) as path:
            yield path

    def delete(self, sha256: str) -> bool:
        """See BlobStore."""
        if not self.exists(sha256):  # S3 itself does not say whether there was anything to delete
            return False
        with _answers(sha256):
            obstore.delete(self._store, blob_key(sha256))
        return True

    def stored(self) -> Iterator[StoredBlob]:
        """See BlobStore."""
        with _answers("listing"):
            for batch in obstore.list(self._store, chunk_size=_LISTED_AT_ONCE):
                for entry in batch:
                    name = entry["path"].rpartition("/")[2]
                    with contextlib.suppress(ValueError):  # not ours: somebody else writes below the same prefix
                        blob_key(name)
                        yield StoredBlob(sha256=name, size_bytes=entry["size"], modified_at=entry["last_modified"])

    def signed_url(self, sha256: str, *, media_type: str, disposition: str) -> str | None:
        """See BlobStore."""
        if self._presigner is None:
            return None
        return self._presigner.url(blob_key(sha256), media_type=media_type, disposition=disposition)


@contextlib.contextmanager
def _answers(sha256: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise FileNotFoundError(f"there is no file {sha256}") from None
    except BaseError as error:
        # The text may hold the request's address and, with it, what signed it: only its first line is of use anyway.
        raise StoreUnavailable(str(error).splitlines()[0][:300]) from error
