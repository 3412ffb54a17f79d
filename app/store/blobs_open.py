"""The store that the settings name."""

import os
from urllib.parse import urlsplit

from app.settings import Settings
from app.store.blobs import BlobStore, LocalBlobs
from app.store.blobs_cache import BlobCache
from app.store.blobs_presign import Presigner
from app.store.blobs_s3 import Bucket, S3Blobs


def open_blobs(settings: Settings) -> BlobStore:
    """The folder in `home`, or the bucket of `store_url`. Raises ValueError where what a bucket needs is not set."""
    if not settings.store_url:
        return LocalBlobs(settings.blobs_folder)
    given = urlsplit(settings.store_url)
    bucket = Bucket(
        name=given.netloc,
        prefix=given.path.strip("/"),
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        access_key_id=settings.store_access_key_id,
        secret_access_key=settings.store_secret_access_key.get_secret_value(),
        allow_http=settings.store_allow_http,
    )
    cache = BlobCache(settings.home / "blob-cache", settings.cache_bytes)
    presigner = _presigner(bucket) if settings.store_presign else None
    return S3Blobs(bucket, spool=settings.home / "spool", cache=cache, presigner=presigner)


def _presigner(bucket: Bucket) -> Presigner:
    environ = os.environ.get
    own = bool(bucket.access_key_id)
    key_id = bucket.access_key_id or environ("AWS_ACCESS_KEY_ID", "")
    secret = bucket.secret_access_key or environ("AWS_SECRET_ACCESS_KEY", "")
    if not key_id or not secret:
        raise ValueError(
            "SECATEUR_STORE_PRESIGN needs an access key: SECATEUR_STORE_ACCESS_KEY_ID or AWS_ACCESS_KEY_ID"
        )
    region = bucket.region or environ("AWS_REGION") or environ("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = bucket.endpoint or environ("AWS_ENDPOINT_URL_S3") or environ("AWS_ENDPOINT_URL")
    base = endpoint.rstrip("/") if endpoint else f"https://s3.{region}.amazonaws.com"
    return Presigner(
        base_url="/".join(filter(None, (base, bucket.name, bucket.prefix))),
        region=region,
        access_key_id=key_id,
        secret_access_key=secret,
        session_token="" if own else environ("AWS_SESSION_TOKEN", ""),
    )
