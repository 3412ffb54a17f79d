"""A job in steps, through the real service."""

from secateur import Client
from secateur.schemas import Dataset, JobStatus, Model
from tests.e2e.test_main_job import PATIENCE_S, submit


def test_a_gradual_job_goes_through_the_service(client: Client, inputs: tuple[Model, Dataset]) -> None:
    job = submit(
        client,
        inputs,
        schedule={"mode": "gradual", "steps": 3, "batches": 5},
        solver="halp",
        saliency="bn_taylor",
        finetune={"max_epochs": 1},
    )
    assert job.wait(timeout_s=PATIENCE_S).outcome == "budget_met"
    steps = [event.data for event in job.events() if event.kind == "metric" and "num_units" in event.data]
    assert [row["step"] for row in steps] == [1, 2]
    assert steps[0]["budget_ms"] > steps[1]["budget_ms"] >= steps[1]["predicted_ms"]


def test_a_job_on_every_class_has_no_other_classes(client: Client, inputs: tuple[Model, Dataset]) -> None:
    options = {"saliency": "other_classes", "classes": [str(digit) for digit in range(10)]}
    state = submit(client, inputs, **options).wait(timeout_s=PATIENCE_S, check=False)
    assert state.status == JobStatus.FAILED
    assert state.failure is not None and state.failure.code == "no_other_classes"
