"""Scratch folders keep what is inside inside."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from workers.scratch import COPY_BELOW_BYTES, Scratch, found, inside, place, restore

parts = st.sampled_from(["..", ".", "a", "b.json", "", "/", "..a"])


@given(st.lists(parts, max_size=5).map("/".join))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    folder = Path("/scratch/job")
    try:
        path = inside(folder, name)
    except ValueError:
        return
    assert path.is_relative_to(folder) and ".." not in path.parts


def test_a_placed_file_is_a_read_only_copy(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"stored")
    place(blob, tmp_path / "work", "model")
    placed = tmp_path / "work" / "model"
    assert placed.read_bytes() == b"stored" and placed.stat().st_mode & 0o222 == 0
    assert placed.stat().st_ino != blob.stat().st_ino


def test_a_large_file_is_linked_not_copied(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    with blob.open("wb") as file:
        file.truncate(COPY_BELOW_BYTES)
    place(blob, tmp_path, "model")
    assert (tmp_path / "model").stat().st_ino == blob.stat().st_ino


def test_a_restored_checkpoint_is_the_steps_own(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"state")
    blob.chmod(0o444)
    restore(blob, tmp_path, "state/epoch.pt")
    (tmp_path / "state" / "epoch.pt").write_bytes(b"next")
    assert blob.read_bytes() == b"state"


def test_a_link_is_no_output(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(secret)
    (folder / "sub").symlink_to(tmp_path)
    assert found(folder, "model.onnx") is None and found(folder, "sub/secret") is None and found(folder, "no") is None


def test_a_new_boot_sweeps_what_older_boots_of_its_slot_left(tmp_path: Path) -> None:
    old, other = Scratch(tmp_path, "host/0", "one"), Scratch(tmp_path, "host/1", "one")
    left, kept = old.make("job"), other.make("job")
    (left / "big").write_bytes(b"x")
    new = Scratch(tmp_path, "host/0", "two")
    mine = new.make("job")
    new.sweep()
    assert not left.exists() and kept.exists() and mine.exists()
    new.remove(mine)
    new.close()
    assert not mine.exists() and kept.exists()
