"""What can be said against a job without looking into any file. The rest is found in its validating phase."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.auth.access import Access
from app.errors import ApiProblem
from app.store.models import DatasetRow, DeviceRow, ModelRow
from app.store.repositories import Inputs, Jobs, Luts
from secateur.schemas import ANALYTIC, ANALYTIC_DEVICES, ErrorDetail, PruneJobCreate
from secateur.wire import Scheduled

_MOST_NAMES_SHOWN = 20


class Faults:
    """Collects faults, so that the answer names all of them; its code is that of the first."""

    def __init__(self) -> None:
        self._faults: list[tuple[str, ErrorDetail]] = []

    def add(self, code: str, pointer: str, detail: str) -> None:
        """Note one fault."""
        self._faults.append((code, ErrorDetail(pointer=pointer, detail=detail)))

    def raise_if_any(self) -> None:
        """Raise ApiProblem with everything noted."""
        if not self._faults:
            return
        code, first = self._faults[0]
        more = len(self._faults) - 1
        detail = first.detail + (f" ({more} more in `errors`.)" if more else "")
        raise ApiProblem(code, detail, errors=[error for _, error in self._faults])


def check_job(session: Session, who: Access, spec: PruneJobCreate) -> tuple[str, DeviceRow]:
    """The project the job belongs to (its model's) and its device. Raises ApiProblem (422) unless everything it names exists and fits together.

    Model and dataset stay locked against deletion until `session` commits.
    """
    faults = Faults()
    model, dataset, device = Inputs(session).share(spec.model_id, spec.dataset_id, spec.device)
    if model is not None and who.sees not in (None, model.project_id):
        model = None
    if model is None:
        faults.add("unknown_model", "/model_id", f"There is no model {spec.model_id!r}.")
    # An administrator sees every project; a job is of one.
    sees = model.project_id if model else who.sees
    if dataset is not None and sees not in (None, dataset.project_id):
        dataset = None
    if dataset is None:
        faults.add("unknown_dataset", "/dataset_id", f"There is no dataset {spec.dataset_id!r}.")
    if device is None:
        faults.add(
            "unknown_device",
            "/device",
            f"No worker has registered the device {spec.device!r}; GET /v1/devices lists those there are.",
        )
    _check_further_devices(session, spec, faults)
    check_after(session, sees, spec, faults)
    if dataset is not None:
        chosen = _check_classes(spec.classes, dataset, faults)
        if model is not None:
            _check_fit(chosen, dataset, model, faults)
    faults.raise_if_any()
    assert model is not None and device is not None
    return model.project_id, device


def check_after(session: Session, project_id: str | None, spec: Scheduled, faults: Faults) -> None:
    """Note every job in `after` that the project does not have."""
    known = Jobs(session).of_project(spec.after, project_id)
    for index, job_id in enumerate(spec.after):
        if job_id not in known:
            faults.add("unknown_job", f"/after/{index}", f"There is no job or table build {job_id!r}.")


def _check_further_devices(session: Session, spec: PruneJobCreate, faults: Faults) -> None:
    """A device that the job's worker does not measure on must be a model, or have a latency table for the threads and the batch."""
    for position, also in enumerate(spec.also):
        if also.device == spec.device or also.device in ANALYTIC_DEVICES:
            continue
        if also.device.startswith(ANALYTIC):
            detail = f"There is no model of {also.device!r}; there are {', '.join(ANALYTIC_DEVICES)}."
            faults.add("unknown_device", f"/also/{position}/device", detail)
            continue
        found = Luts(session).newest(
            also.device, threads=also.threads, batch=also.batch, runtime=also.runtime, share=True
        )
        if found is None:
            under = f" under {also.runtime}" if also.runtime else ""
            detail = (
                f"There is no latency table of the device {also.device!r}{under} for {also.threads} threads and batch "
                f"{also.batch}; GET /v1/luts lists those there are."
            )
            faults.add("no_latency_table", f"/also/{position}", detail)


def _check_classes(classes: Sequence[str | int], dataset: DatasetRow, faults: Faults) -> dict[str, str]:
    """Folder name -> pointer of each class that exists, once."""
    chosen: dict[str, str] = {}
    known = set(dataset.classes)
    for position, given in enumerate(classes):
        pointer = f"/classes/{position}"
        if isinstance(given, int):
            name = dataset.classes[given] if 0 <= given < len(dataset.classes) else None
        else:
            name = given if given in known else None
        if name is None:
            faults.add(
                "unknown_class", pointer, f"The dataset has no class {given!r}; it has {_listed(dataset.classes)}."
            )
        elif name in chosen:
            faults.add("duplicate_class", pointer, f"The class {name!r} is there already, at {chosen[name]}.")
        else:
            chosen[name] = pointer
    return chosen


def _check_fit(chosen: dict[str, str], dataset: DatasetRow, model: ModelRow, faults: Faults) -> None:
    """Compare the class map, where there is one, and the image size, where the model fixes one.

    Without a map the job finds the rows itself: by the model's class names, by order, or by what the dense network predicts.
    """
    for name, pointer in chosen.items() if dataset.class_map is not None else ():
        row = (dataset.class_map or {}).get(name)
        if row is None:
            faults.add("class_not_mapped", pointer, f"The dataset's `class_map` has no entry for {name!r}.")
        elif row >= model.num_outputs:
            detail = f"The class {name!r} is mapped to output {row}; the model's last one is {model.num_outputs - 1}."
            faults.add("class_not_mapped", pointer, detail)
    size = [dataset.image_size, dataset.image_size]
    if model.input_shape is not None and list(model.input_shape[1:]) != size:
        detail = f"The model takes images of {model.input_shape[1:]} pixels, the dataset is declared as {size}."
        faults.add("shape_mismatch", "/dataset_id", detail)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMES_SHOWN])
    return shown if len(names) <= _MOST_NAMES_SHOWN else f"{shown} and {len(names) - _MOST_NAMES_SHOWN} more"
