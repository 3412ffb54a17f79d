"""A job's handle: its last known state, and what one can do with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from secateur.errors import UsageError
from secateur.schemas import Artifact, Failure, JobEvent, JobStatus, Outcome, PruneJob, PruneJobCreate

if TYPE_CHECKING:
    from secateur.client import Client


class Job:
    """A prune job on a server. Reading is free: `state` is what was last heard; `refresh` asks again."""

    def __init__(self, client: "Client", state: PruneJob) -> None:
        """`client` must stay open as long as the handle is used."""
        self._client = client
        self.state = state

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.status}{f', {self.outcome}' if self.outcome else ''})"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.state.id

    @property
    def name(self) -> str:
        """The job's name, perhaps empty."""
        return self.state.name

    @property
    def spec(self) -> PruneJobCreate:
        """What was asked for."""
        return self.state.spec

    @property
    def status(self) -> JobStatus:
        """Where the job stood when last heard of."""
        return self.state.status

    @property
    def progress(self) -> float:
        """0 to 1 over the whole job."""
        return self.state.progress

    @property
    def phase(self) -> str | None:
        """What it was at."""
        return self.state.phase

    @property
    def outcome(self) -> Outcome | None:
        """Whether the budget was met; None until the job has succeeded."""
        return self.state.outcome

    @property
    def summary(self) -> dict[str, Any]:
        """Headline figures; empty until there are any."""
        return self.state.summary or {}

    @property
    def failure(self) -> Failure | None:
        """Why the job failed, if it did."""
        return self.state.failure

    def refresh(self) -> Self:
        """Ask for the present state and return the handle."""
        self.state = self._client.job(self.id).state
        return self

    def wait(
        self,
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> Self:
        """Return the handle when the job has ended; see `Client.wait`."""
        self.state = self._client.wait(self.id, on_event=on_event, timeout_s=timeout_s, check=check)
        return self

    def events(self, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Iterate over the job's events until it has ended; see `Client.events`."""
        return self._client.events(self.id, after=after, timeout_s=timeout_s)

    def cancel(self) -> Self:
        """Ask for the job to be stopped and return the handle."""
        self.state = self._client.cancel(self.id).state
        return self

    def retry(self) -> Self:
        """Run the failed or cancelled job again and return the handle."""
        self.state = self._client.retry(self.id).state
        return self

    def artifacts(self) -> list[Artifact]:
        """Return the files the job left."""
        return self._client.artifacts(self.id)

    def report(self) -> dict[str, Any]:
        """Return the job's report."""
        return self._client.report(self.id)

    def download(self, folder: str | Path, *, names: Sequence[str] | None = None) -> list[Path]:
        """Save the job's files and return their paths; see `Client.download`."""
        return self._client.download(self.id, folder, names=names)


def job_spec(spec: PruneJobCreate | None, fields: Mapping[str, Any]) -> PruneJobCreate:
    """Return the spec, or one made of its fields; raises `UsageError` with the first fault of each field."""
    if spec is not None:
        if fields:
            raise UsageError("give a PruneJobCreate or its fields, not both")
        return spec
    try:
        return PruneJobCreate.model_validate(dict(fields))
    except ValidationError as error:
        faults = {"/".join(str(part) for part in fault["loc"]): fault["msg"] for fault in error.errors()}
        text = "; ".join(f"{where}: {message}" if where else message for where, message in faults.items())
        raise UsageError(text.replace("Value error, ", "")) from error
