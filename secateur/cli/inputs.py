"""The network and the images of a job: what the command line names, checked, uploaded, or found on the server."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from secateur.cli.common import say
from secateur.cli.options import Normalization, default_image_size, model_arch, parse_normalization
from secateur.client import Client
from secateur.errors import NotFound, UsageError
from secateur.files import ProgressCallback, as_zip
from secateur.schemas import Dataset, Model

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the user named; `check` finds mistakes before anything is sent, `store` does the sending."""

    model: str
    arch: str | None
    class_names: Sequence[str] | None
    data: str
    image_size: int | None
    normalize: str | None
    mean: str | None
    std: str | None
    class_map: Mapping[str, int] | None

    def check(self) -> None:
        """Raise `UsageError` for what can be seen to be wrong from here."""
        if (model := local(self.model)) is not None:
            arch = model_arch(model, self.arch)
            if local(self.data) is not None:
                self._normalization(arch)
                if arch != "onnx" and self.image_size is None:
                    default_image_size(arch, None)
        local(self.data)

    def store(self, client: Client, *, quiet: bool) -> tuple[Model, Dataset]:
        """Return the model and the dataset as the server holds them, uploading what is a file here."""
        model = self._store_model(client, quiet=quiet)
        return model, self._store_dataset(client, model, quiet=quiet)

    def _store_model(self, client: Client, *, quiet: bool) -> Model:
        path = local(self.model)
        if path is None:
            return _found(client.model, "model", self.model)
        with transfer_bar(f"sending {path.name}", quiet=quiet) as on_progress:
            return client.upload_model(
                path, arch=model_arch(path, self.arch), class_names=self.class_names, on_progress=on_progress
            )

    def _store_dataset(self, client: Client, model: Model, *, quiet: bool) -> Dataset:
        path = local(self.data)
        if path is None:
            return _found(client.dataset, "dataset", self.data)
        quiet_zip = quiet or not path.is_dir()
        with transfer_bar(f"zipping {path.name}", quiet=quiet_zip) as on_zip, as_zip(path, on_zip) as file:
            dataset = self._send(client, file, path.resolve().stem, model, quiet=quiet)
        if dataset.num_skipped:
            say(f"{dataset.num_skipped} images do not decode and are left out; the first: {dataset.skipped[0]}")
        return dataset

    def _send(self, client: Client, file: Path, name: str, model: Model, *, quiet: bool) -> Dataset:
        normalization = self._normalization(model.arch)
        with transfer_bar(f"sending {name}", quiet=quiet) as on_progress:
            return client.upload_dataset(
                file,
                image_size=self.image_size or default_image_size(model.arch, model.input_shape),
                mean=normalization.mean,
                std=normalization.std,
                class_map=self.class_map,
                name=name,
                on_progress=on_progress,
            )

    def _normalization(self, arch: str) -> Normalization:
        return parse_normalization(self.normalize, self.mean, self.std, arch=arch)


def local(text: str) -> Path | None:
    """Return the file or folder the text names, or None when it can only be an id of something on the server."""
    path = Path(text).expanduser()
    if path.exists():
        return path
    if path.suffix or len(path.parts) > 1 or text.startswith("~"):
        raise UsageError(f"there is no file {text}")
    return None


def _found(get: Callable[[str], T], kind: str, text: str) -> T:
    try:
        return get(text)
    except NotFound as error:
        raise UsageError(f"{text} is neither a file here nor a {kind} on the server") from error


@contextmanager
def transfer_bar(title: str, *, quiet: bool) -> Iterator[ProgressCallback | None]:
    """Give a callback that draws a bar on stderr, or None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)

        def on_progress(done: int, total: int) -> None:
            text = title if done < total else f"{title}: done, a worker is looking at it"
            progress.update(task, completed=done, total=total, description=text)

        yield on_progress
