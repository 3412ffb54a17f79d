"""What a client can do with devices and latency tables."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from secateur.errors import JobCancelled, JobFailed, UsageError
from secateur.files import ProgressCallback, save_whole
from secateur.lut_schemas import Device, DeviceCreate, Lut, LutBuild, LutBuildCreate, LutComparison, LutVersion
from secateur.schemas import JobEvent, JobStatus, Page
from secateur.sse import follow
from secateur.transport import INSPECT_TIMEOUT_S, Transport

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

BUILDS = "/v1/lut-builds"


class Tables:
    """The part of `Client` that deals with devices and latency tables; not used by itself."""

    _transport: Transport
    patience_s: float

    def devices(self) -> Iterator[Device]:
        """Iterate over the devices that workers measure on or that have tables from elsewhere."""
        return self._transport.pages("/v1/devices", Page[Device])

    def create_device(self, device_id: str, **fields: Any) -> Device:
        """Make a device for tables that come from elsewhere; `fields` are those of `DeviceCreate`."""
        body = checked(DeviceCreate, {"id": device_id, **fields})
        return self._transport.read(self._transport.request("POST", "/v1/devices", model=body), Device)

    def delete_device(self, device_id: str) -> None:
        """Delete a device that has no tables, no live worker and no job."""
        self._transport.request("DELETE", f"/v1/devices/{quote(device_id, safe='')}")

    def luts(self, **wanted: Any) -> Iterator[Lut]:
        """Iterate over the latency tables, newest first: all, or those of a `device`, `runtime`, `threads`, `batch`, or
        `published` ones.
        """
        return self._transport.pages("/v1/luts", Page[Lut], wanted)

    def lut(self, lut_id: str) -> Lut:
        """Return a latency table's profile and figures."""
        return self._transport.get(_path(lut_id), Lut)

    def lut_versions(self, lut_id: str) -> Iterator[LutVersion]:
        """Iterate over every state a table has had, newest first."""
        return self._transport.pages(f"{_path(lut_id)}/versions", Page[LutVersion])

    def import_lut(
        self,
        path: str | Path,
        *,
        device: str,
        name: str | None = None,
        on_progress: ProgressCallback | None = None,
        **profile: Any,
    ) -> Lut:
        """Import a table as JSON or CSV; `profile` says what a CSV lacks (`hardware`, `threads`, `batch`, ...).

        Where the device has a table of that profile, the file's entries are merged into it as a new version.
        """
        path = Path(path)
        fields = {"device": device, "name": name or path.name, **profile}
        return self._transport.upload("/v1/luts", path, fields, Lut, on_progress)

    def export_lut(
        self, lut_id: str, path: str | Path, *, format: Literal["json", "csv"] = "json", version: int | None = None
    ) -> Path:
        """Save a table as a file, whole or not at all, and return its path."""
        params = {"format": format, "version": version}
        response = self._transport.request(
            "GET", f"{_path(lut_id)}/file", params=params, safe=True, timeout_s=INSPECT_TIMEOUT_S
        )
        return save_whole(response.content, Path(path))

    def publish_lut(self, lut_id: str, *, version: int | None = None) -> Lut:
        """Make a version (the newest unless named) the team's reference and return the table."""
        response = self._transport.request("POST", f"{_path(lut_id)}/publish", params={"version": version})
        return self._transport.read(response, Lut)

    def unpublish_lut(self, lut_id: str) -> Lut:
        """Let the table be imported into and deleted again, and return it."""
        return self._transport.read(self._transport.request("POST", f"{_path(lut_id)}/unpublish"), Lut)

    def delete_lut(self, lut_id: str) -> None:
        """Delete a table with all its versions."""
        self._transport.request("DELETE", _path(lut_id))

    def compare_luts(self, a: str, b: str) -> LutComparison:
        """Return how table `b` differs from `a`, entry by entry."""
        response = self._transport.request(
            "GET", "/v1/luts/compare", params={"a": a, "b": b}, safe=True, timeout_s=INSPECT_TIMEOUT_S
        )
        return self._transport.read(response, LutComparison)

    # Builds

    def build_lut(self, model_id: str, *, idempotency_key: str | None = None, **fields: Any) -> LutBuild:
        """Start a job that measures all a model needs, and return it; `fields` are those of `LutBuildCreate`."""
        spec = checked(LutBuildCreate, {"model_id": model_id, **fields})
        key = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._transport.read(
            self._transport.request("POST", BUILDS, model=spec, headers=key, safe=True), LutBuild
        )

    def lut_build(self, build_id: str) -> LutBuild:
        """Return a build as it stands."""
        return self._transport.get(f"{BUILDS}/{quote(build_id, safe='')}", LutBuild)

    def lut_builds(self, *, status: JobStatus | str | None = None) -> Iterator[LutBuild]:
        """Iterate over the builds, newest first."""
        return self._transport.pages(BUILDS, Page[LutBuild], {"status": status})

    def cancel_build(self, build_id: str) -> LutBuild:
        """Ask for a build to be stopped and return it."""
        return self._build_act(build_id, "cancel")

    def retry_build(self, build_id: str) -> LutBuild:
        """Go on with a failed or cancelled build and return it."""
        return self._build_act(build_id, "retry")

    def build_events(self, build_id: str, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Iterate over a build's events until it has ended, as `Client.events` does for a job."""
        return follow(
            self._transport, build_id, after=after, patience_s=self.patience_s, timeout_s=timeout_s, root=BUILDS
        )

    def wait_build(
        self,
        build_id: str,
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> LutBuild:
        """Return a build when it has ended; raises as `Client.wait` does."""
        for event in self.build_events(build_id, timeout_s=timeout_s):
            if on_event:
                on_event(event)
        state = self.lut_build(build_id)
        if check and state.status == JobStatus.FAILED:
            raise JobFailed(state)
        if check and state.status == JobStatus.CANCELLED:
            raise JobCancelled(state)
        return state

    def _build_act(self, build_id: str, verb: str) -> LutBuild:
        path = f"{BUILDS}/{quote(build_id, safe='')}/{verb}"
        return self._transport.read(self._transport.request("POST", path), LutBuild)


def _path(lut_id: str) -> str:
    return f"/v1/luts/{quote(lut_id, safe='')}"


def checked(kind: type[B], fields: Mapping[str, Any]) -> B:
    """Return the fields as a body; raises `UsageError` where they contradict each other."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        faults = {"/".join(str(part) for part in fault["loc"]): fault["msg"] for fault in error.errors()}
        raise UsageError("; ".join(f"{where}: {message}" for where, message in faults.items())) from error
