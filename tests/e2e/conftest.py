"""The whole service in an empty home, with a network that was trained here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.demo import ARCH, digits, train, write_zip
from secateur import Client
from secateur.schemas import Dataset, Model

Server = tuple["subprocess.Popen[str]", Client]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """`secateur serve` on a free port: its process and a client."""
    command = [sys.executable, "-m", "secateur", "serve", "--port", "0", "--home", str(folder / "home"), "--json"]
    environment = {**os.environ, "SECATEUR_MEASURE_S": "0.3"}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "serve.log").read_text()
    with Client(json.loads(line)["url"]) as client:
        yield process, client
    process.terminate()
    assert process.wait(60) is not None


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    return server[1]


@pytest.fixture(scope="session")
def inputs(folder: Path, client: Client) -> tuple[Model, Dataset]:
    """ResNet-20, trained here for a few epochs, and the digits it learnt."""
    images, labels = digits()
    weights = train(images, labels, folder / "resnet20.safetensors", max_epochs=3)
    archive = write_zip(images, labels, folder / "digits.zip")
    dataset = client.upload_dataset(archive, image_size=32, mean=[0.5] * 3, std=[0.5] * 3)
    return client.upload_model(weights, arch=ARCH), dataset
