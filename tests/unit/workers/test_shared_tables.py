"""Jobs that extend one table at once lose nothing and agree on what it holds."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from app.store.repositories import Artifacts, Devices, Jobs, Luts
from lut.entry import Entry
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable
from tests.unit.workers.worker_store import PROFILE, Store
from workers.journal import Journal, Kept
from workers.tables import joined, merged, pair
from workers.view import JobView

SETTING = DeviceProfile(**{**PROFILE.__dict__, "threads": 2, "batch": 4})
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1))


def table(points: dict[int, float], seconds: float = 1.0, profile: DeviceProfile = SETTING) -> LatencyTable:
    found = {(c, c): Entry(p50_us=us, p90_us=us, num_samples=1) for c, us in points.items()}
    return LatencyTable(profile=profile, entries={CONV: found}, step=8, seconds=seconds)


def finish(journal: Journal, view: JobView, mine: LatencyTable, folder: Path) -> None:
    """Let a job end its step with a table."""
    path = folder / f"{view.id}.json"
    mine.save(path)
    files = [Kept(name="table.json", blob=journal.blobs.put_file(path), source=path, hidden=False)]
    journal.finish_step(view, "profile", {"luts": [{"file": "table.json", **mine.figures()}]}, files, 0.5)


def stored(store: Store) -> tuple[LatencyTable, Any]:
    """The table as the registry has it, and its row."""
    with store.database.read() as session:
        row = Luts(session).find("local", SETTING.fingerprint)
        assert row is not None
        session.expunge(row)
    return LatencyTable.load(store.blobs.path(row.blob_sha256)), row


def test_stored_entries_stay_and_seconds_add_what_was_new() -> None:
    base, mine = table({1: 1.0}, seconds=10), table({1: 1.0, 2: 2.0, 3: 9.0}, seconds=14)
    both = merged(table({1: 1.0, 3: 3.0, 4: 4.0}, seconds=12), mine, base)
    assert both.entries == table({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}).entries
    assert both.seconds == 16
    other = DeviceProfile(**{**SETTING.__dict__, "hardware": "other"})
    with pytest.raises(ValueError):
        merged(table({1: 1.0}, profile=other), mine, None)


def test_a_jobs_entries_are_merged_into_what_another_stored_meanwhile(store: Store, tmp_path: Path) -> None:
    one, two = store.add_worker("a/0:1"), store.add_worker("a/1:1")
    first, second = store.begin(one, store.add_job()), store.begin(two, store.add_job())
    finish(one, first, table({1: 1.0, 2: 2.0}), tmp_path)
    finish(two, second, table({2: 7.0, 3: 3.0}), tmp_path)
    found, row = stored(store)
    assert {point[0]: entry.p50_us for point, entry in found.entries[CONV].items()} == {1: 1.0, 2: 2.0, 3: 3.0}
    assert (row.version, row.num_entries, row.seconds) == (2, 3, 2.0)
    used = [{"name": "table.json", "lut_id": row.id, "version": version} for version in (1, 2)]
    assert [store.job(first.id).tables, store.job(second.id).tables] == [[used[0]], [used[1]]]


def test_a_job_that_measured_nothing_new_makes_no_version(store: Store, tmp_path: Path) -> None:
    journal = store.add_worker("a/0:1")
    finish(journal, store.begin(journal, store.add_job()), table({1: 1.0}), tmp_path)
    view = store.begin(journal, store.add_job())
    assert view.tables == ({"name": "table.json", "lut_id": stored(store)[1].id, "version": 1},)
    finish(journal, view, LatencyTable.load(store.blobs.path(view.inputs["known_table.json"])), tmp_path)
    assert stored(store)[1].version == 1


def test_many_jobs_at_once_lose_no_entry(store: Store, tmp_path: Path) -> None:
    journals = [store.add_worker(f"a/{index}:1") for index in range(4)]
    views = [store.begin(journal, store.add_job()) for journal in journals]
    start = threading.Barrier(len(views))

    def work(index: int) -> None:
        start.wait()
        finish(journals[index], views[index], table({100 * (index + 1) + c: 1.0 + index for c in range(20)}), tmp_path)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, row = stored(store)
    assert (found.num_entries, row.num_entries, row.version) == (80, 80, 4)


def test_a_finished_job_tells_the_table_what_came_of_its_word(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    view = store.begin(journal, store.add_job())
    chosen = {"predicted_ms": 2.2, "correction": 1.1, "measured_ms": 2.5}
    plan = store.blobs.put_bytes(json.dumps({"plans": {"main": {"chosen": chosen}}}).encode())
    with store.database.write() as session:
        lut = Luts(session).save(
            device_id="local", fingerprint="f", blob_sha256="a" * 64, job_id="j", **table({1: 1.0}).figures()
        )
        lut_id = lut.id
        Jobs(session).set_tables(view.id, [{"name": "table.json", "lut_id": lut_id, "version": 1}])
        Artifacts(session).save(
            view.id, "plan.json", sha256=plan.sha256, size_bytes=plan.size_bytes, media_type="application/json"
        )
    journal.succeed(view, "budget_met")
    with store.database.read() as session:
        (found,) = Luts(session).pairs(lut_id)
        assert (found.job_id, found.version, found.measured_ms) == (view.id, 1, 2.5)
        assert found.predicted_ms == pytest.approx(2.0)
        row = Luts(session).get(lut_id)
        assert row is not None and row.num_pairs == 1 and row.residual == pytest.approx(0.2)


@pytest.mark.parametrize("plan", [{}, {"value": 1}, {"plans": {"main": {"chosen": None}}}, {"plans": {"main": {}}}])
def test_a_job_without_a_plan_has_no_pair(plan: dict[str, Any]) -> None:
    assert pair(json.dumps(plan).encode()) is None


def test_a_newer_use_takes_the_place_of_the_older() -> None:
    old = [{"name": "table.json", "version": 1}, {"name": "table_1.json", "version": 4}]
    assert joined(old, [{"name": "table.json", "version": 2}]) == [{"name": "table.json", "version": 2}, old[1]]


def test_a_build_needs_no_dataset(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    with store.database.write() as session:
        spec = {"threads": 2, "batch": 4, "image_size": 32, "model_id": store.inputs["model_id"]}
        row = Jobs(session).add(
            name="", spec=spec, model_id=store.inputs["model_id"], dataset_id=None, device_id="local", kind="lut_build"
        )
    view = store.begin(journal, row)
    assert view.kind == "lut_build" and set(view.inputs) == {"model"}
    assert view.spec["dataset"] == {"image_size": 32} and view.spec["job"]["patterns"] == "none"
    journal.succeed(view, None)
    assert (store.job(row.id).status, store.job(row.id).outcome) == ("succeeded", None)


def test_a_device_elsewhere_is_read_in_its_published_version(store: Store) -> None:
    journal = store.add_worker("a/0:1")
    with store.database.write() as session:
        Devices(session).add("phone", name="p", hardware="x", runtime="y", runtime_version="z")
        for content in "ab":
            lut = Luts(session).save(
                device_id="phone", fingerprint="f", blob_sha256=content * 64, **table({1: 1.0}).figures()
            )
        row = Luts(session).get(lut.id, lock=True)
        assert row is not None
        Luts(session).publish(row, 1)
    view = store.begin(journal, store.add_job(also=[{"device": "phone", "threads": 2, "batch": 4}]))
    assert view.inputs["known_table_1.json"] == "a" * 64
    assert view.tables == ({"name": "table_1.json", "lut_id": lut.id, "version": 1},)
