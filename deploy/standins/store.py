"""An S3 server in memory, with the bucket that compose mounts as a folder, and the health check that compose asks."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import run_simple

PORT = int(os.environ["VGW_PORT"].lstrip(":"))


def main() -> None:
    """Serve until the end."""
    first = ThreadedMotoServer(ip_address="127.0.0.1", port=0)  # the same memory, before anybody asks
    first.start()
    host, port = first.get_host_and_port()
    keys = {"aws_access_key_id": os.environ["ROOT_ACCESS_KEY"], "aws_secret_access_key": os.environ["ROOT_SECRET_KEY"]}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)
    for folder in Path("/buckets").iterdir():
        client.create_bucket(Bucket=folder.name)
    files = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == os.environ["VGW_HEALTH"]:
            start("200 OK", [])
            return [b""]
        answer: Iterable[bytes] = files(environ, start)
        return answer

    run_simple("0.0.0.0", PORT, app, threaded=True)


if __name__ == "__main__":
    main()
