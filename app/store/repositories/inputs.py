"""What a job is made of, looked up together."""

from sqlalchemy import bindparam, select, true
from sqlalchemy.orm import Session

from app.store.models import DatasetRow, DeviceRow, ModelRow
from app.store.repositories.datasets import Datasets
from app.store.repositories.devices import Devices
from app.store.repositories.models import Models

# Asked with every job that is submitted, and so made once.
_ALL = (
    select(ModelRow, DatasetRow, DeviceRow)
    .select_from(ModelRow)
    .join(DatasetRow, true())
    .join(DeviceRow, true())
    .where(
        ModelRow.id == bindparam("model_id"),
        DatasetRow.id == bindparam("dataset_id"),
        DeviceRow.id == bindparam("device_id"),
    )
    .with_for_update(read=True, of=(ModelRow, DatasetRow))
)


class Inputs:
    """Rows of the `model`, `dataset` and `device` tables."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def share(
        self, model_id: str, dataset_id: str, device_id: str
    ) -> tuple[ModelRow | None, DatasetRow | None, DeviceRow | None]:
        """Model, dataset and device, of any project, None for one that is not there: in one statement where all are.

        Nobody deletes the model or the dataset until we commit.
        """
        ids = {"model_id": model_id, "dataset_id": dataset_id, "device_id": device_id}
        # Jobs that are submitted together are often of the same.
        shared = self._session.info.setdefault(_ALL, {})
        key = tuple(ids.values())
        if key not in shared and (found := self._session.execute(_ALL, ids).one_or_none()) is not None:
            shared[key] = found[0], found[1], found[2]
        return shared.get(key) or (
            Models(self._session).get(model_id, share=True),
            Datasets(self._session).get(dataset_id, share=True),
            Devices(self._session).get(device_id),
        )
