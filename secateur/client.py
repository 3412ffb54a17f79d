"""The client: one method per thing the service can do."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from secateur.access import Access
from secateur.errors import JobCancelled, JobFailed, UnexpectedAnswer, UsageError
from secateur.files import ProgressCallback, as_zip, has_sha256, save_checked
from secateur.jobs import Job, job_spec
from secateur.schemas import (
    Artifact,
    Dataset,
    JobEvent,
    JobStatus,
    Model,
    Page,
    Preflight,
    PruneJob,
    PruneJobCreate,
)
from secateur.sse import follow
from secateur.tables import Tables
from secateur.transport import INSPECT_TIMEOUT_S, Transport
from secateur.upload_schemas import Purpose
from secateur.uploads import send_file

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8117"
KEY_VARIABLE = "SECATEUR_API_KEY"


class Client(Tables, Access, AbstractContextManager["Client"]):
    """Talks to one Secateur server. Use it as a context manager, or call `close`.

    Every method raises `ApiError` when the service refuses and `ConnectionFailed` when it cannot be reached.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, key: str | None = None, timeout_s: float = 30.0, patience_s: float = 60.0
    ) -> None:
        """`key` is an API key, by default that of SECATEUR_API_KEY, if any; `timeout_s` bounds the silence on a request,
        `patience_s` how long a broken event stream is mended.
        """
        own = os.environ.get(KEY_VARIABLE, "") if key is None else key
        self._transport = Transport(url, key=own, timeout_s=timeout_s)
        self.url = self._transport.base_url
        self.patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # Models and datasets

    def upload_model(
        self,
        path: str | Path,
        *,
        arch: str,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Model:
        """Upload weights (safetensors, with the name of their architecture) or an ONNX file (`arch="onnx"`).

        `class_names` names each output row. The file is streamed, a big one in pieces that survive a broken line;
        `on_progress(done_bytes, total_bytes)` follows it.
        """
        path = Path(path)
        fields = {"name": name or path.stem, "arch": arch, "class_names": class_names}
        return self._send("/v1/models", path, fields, Model, "model", on_progress)

    def upload_dataset(
        self,
        path: str | Path,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_map: Mapping[str, int] | None = None,
        name: str | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Dataset:
        """Upload images: a zip of `train/<class>/<image>` (optional `val/`, `test/`), or such a folder.

        `mean` and `std` are per channel, for pixels scaled to 0..1; `class_map` gives the model's output row of each
        class folder, where their order differs.
        """
        path = Path(path)
        fields = {
            "name": name or path.resolve().stem,
            "image_size": image_size,
            "mean": list(mean),
            "std": list(std),
            "class_map": class_map,
        }
        with as_zip(path) as archive:
            return self._send("/v1/datasets", archive, fields, Dataset, "dataset", on_progress)

    def model(self, model_id: str) -> Model:
        """Return an uploaded model."""
        return self._transport.get(f"/v1/models/{quote(model_id, safe='')}", Model)

    def dataset(self, dataset_id: str) -> Dataset:
        """Return an uploaded dataset."""
        return self._transport.get(f"/v1/datasets/{quote(dataset_id, safe='')}", Dataset)

    def models(self) -> Iterator[Model]:
        """Iterate over the models, newest first."""
        return self._transport.pages("/v1/models", Page[Model])

    def datasets(self) -> Iterator[Dataset]:
        """Iterate over the datasets, newest first."""
        return self._transport.pages("/v1/datasets", Page[Dataset])

    # Jobs

    def submit(
        self, spec: PruneJobCreate | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Submit a job, given as a `PruneJobCreate` or as its fields, and return a handle to it.

        The request carries an `Idempotency-Key` (a fresh one unless given), so that it is safe to send again and
        a line that breaks cannot start the job twice. Raises `UsageError` when the fields contradict each other.
        """
        response = self._transport.request(
            "POST",
            "/v1/prune-jobs",
            model=job_spec(spec, fields),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            safe=True,
        )
        return Job(self, self._transport.read(response, PruneJob))

    def validate(self, spec: PruneJobCreate | None = None, /, **fields: Any) -> Preflight:
        """Return what a job would meet (blockers, the reachable minimum) without storing anything."""
        response = self._transport.request(
            "POST", "/v1/prune-jobs/validate", model=job_spec(spec, fields), safe=True, timeout_s=INSPECT_TIMEOUT_S
        )
        return self._transport.read(response, Preflight)

    def job(self, job_id: str) -> Job:
        """Return a handle to a job, in its present state."""
        return Job(self, self._state(job_id))

    def jobs(self, *, status: JobStatus | str | None = None, page_size: int | None = None) -> Iterator[Job]:
        """Iterate over the jobs, newest first, fetching pages as they are needed."""
        params = {"status": status, "limit": page_size}
        return (Job(self, state) for state in self._transport.pages("/v1/prune-jobs", Page[PruneJob], params))

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be stopped and return it; a running one passes through `cancelling`."""
        return self._act(job_id, "cancel")

    def retry(self, job_id: str) -> Job:
        """Run a failed or cancelled job again and return it."""
        return self._act(job_id, "retry")

    def events(self, job_id: str, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Iterate over a job's events, past and to come, until it has ended.

        Each event with an id above `after` comes once and in order; a broken stream is mended out of sight.
        Raises `WaitTimeout` after `timeout_s` seconds.
        """
        return follow(self._transport, job_id, after=after, patience_s=self.patience_s, timeout_s=timeout_s)

    def wait(
        self,
        job_id: str,
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> PruneJob:
        """Return a job when it has ended; `on_event` sees every event on the way.

        Raises `JobFailed` or `JobCancelled` for such an end unless `check` is False, `WaitTimeout` after `timeout_s`.
        A job that ends as infeasible has succeeded: look at `outcome`.
        """
        for event in self.events(job_id, timeout_s=timeout_s):
            if on_event:
                on_event(event)
        state = self._state(job_id)
        if check and state.status == JobStatus.FAILED:
            raise JobFailed(state)
        if check and state.status == JobStatus.CANCELLED:
            raise JobCancelled(state)
        return state

    # Results

    def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the files a job left."""
        return list(self._transport.pages(f"{_job_path(job_id)}/artifacts", Page[Artifact]))

    def report(self, job_id: str) -> dict[str, Any]:
        """Return the job's report (`report.json`)."""
        response = self._transport.request("GET", f"{_job_path(job_id)}/artifacts/report.json", safe=True)
        return self._transport.read(response, dict[str, Any])

    def download(
        self,
        job_id: str,
        folder: str | Path,
        *,
        names: Sequence[str] | None = None,
        on_progress: Callable[[Artifact, int], None] | None = None,
    ) -> list[Path]:
        """Save a job's files (all, or `names`) in `folder` and return their paths.

        A file appears under its name only when it is whole and its SHA-256 is right; one that is there already is
        left alone. `on_progress(artifact, done_bytes)` follows each. Raises `ChecksumMismatch`.
        """
        files = {artifact.name: artifact for artifact in self.artifacts(job_id)}
        if unknown := [name for name in names or () if name not in files]:
            raise UsageError(f"job {job_id} has no file {', '.join(unknown)}; it has {', '.join(files) or 'none'}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return [self._download(job_id, files[name], folder, on_progress) for name in names or files]

    def _download(
        self, job_id: str, file: Artifact, folder: Path, on_progress: Callable[[Artifact, int], None] | None
    ) -> Path:
        path = f"{_job_path(job_id)}/artifacts/{quote(file.name, safe='')}"
        if Path(file.name).name != file.name or file.name.startswith("."):
            raise UnexpectedAnswer(self._transport.url(path), f"{file.name!r} is not a plain file name")
        target = folder / file.name
        if has_sha256(target, file.sha256):
            return target
        with self._transport.stream(path, redirected=True) as response:
            save_checked(
                response.iter_bytes(),
                target,
                sha256=file.sha256,
                on_progress=None if on_progress is None else lambda done: on_progress(file, done),
            )
        return target

    def _send(
        self,
        path: str,
        file: Path,
        fields: dict[str, Any],
        kind: type[T],
        purpose: Purpose,
        on_progress: ProgressCallback | None,
    ) -> T:
        return send_file(
            self._transport, path, file, fields, kind,
            purpose=purpose, patience_s=self.patience_s, on_progress=on_progress,
        )  # fmt: skip

    def _act(self, job_id: str, verb: str) -> Job:
        response = self._transport.request("POST", f"{_job_path(job_id)}/{verb}")
        return Job(self, self._transport.read(response, PruneJob))

    def _state(self, job_id: str) -> PruneJob:
        return self._transport.get(_job_path(job_id), PruneJob)


def _job_path(job_id: str) -> str:
    return f"/v1/prune-jobs/{quote(job_id, safe='')}"
