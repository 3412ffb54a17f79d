"""Fixtures of the client's tests."""

import json
from collections.abc import Iterator

import pytest

from secateur.schemas import ErrorDetail, Failure, PruneJobCreate
from tests.unit.secateur.fake_bodies import REPORT
from tests.unit.secateur.fake_service import FakeService, running


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A running fake service, stopped with the test."""
    fake = FakeService()
    fake.files["report.json"] = json.dumps(REPORT).encode()
    with running(fake):
        yield fake


@pytest.fixture
def spec() -> PruneJobCreate:
    """A job's spec."""
    return PruneJobCreate(model_id="m1", dataset_id="d1", classes=["cat", "dog"], budget_ms=2.0, name="cats")


@pytest.fixture
def failure() -> Failure:
    """Why a job failed."""
    return Failure(
        code="nan_loss", detail="the loss is not a number", errors=[ErrorDetail(pointer="/finetune", detail="too fast")]
    )
