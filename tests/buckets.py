"""A bucket for the tests: moto's S3 server in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from app.settings import Settings

KEYS = {"aws_access_key_id": "AKTEST", "aws_secret_access_key": "secret"}


@contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[str]:
    """The endpoint of a server with the bucket `files`."""
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS).create_bucket(Bucket="files")
        yield endpoint
    finally:
        server.stop()


def bucket_settings(endpoint: str, home: Path, **more: Any) -> Settings:
    """Settings of a service that keeps its files in the bucket."""
    return Settings(
        home=home, store_url=f"s3://files/{home.parent.name}-{home.name}", store_endpoint=endpoint, store_allow_http=True,
        store_region="us-east-1", store_access_key_id=KEYS["aws_access_key_id"],
        store_secret_access_key=KEYS["aws_secret_access_key"], **more,
    )  # fmt: skip
