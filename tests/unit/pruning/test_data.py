import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.augment import shuffled
from pruning.data import DataError, Limits, inspect_zip, load
from tests.unit.pruning.pictures import colourful, encoded, folder_of, zip_of

PHOTO = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "image_size": 8}


def code_of(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(DataError) as refusal:
        inspect_zip(path, limits)
    return refusal.value.code


def test_a_good_zip_is_counted_by_split(tmp_path: Path) -> None:
    summary = inspect_zip(folder_of(tmp_path / "a.zip", {"cat": 3, "dog": 2}, ("train", "val")))
    assert summary.classes == ("cat", "dog")
    assert summary.num_images == {"train": 5, "val": 5}
    assert summary.skipped == ()


def test_one_top_folder_and_what_file_managers_add_are_passed_over(tmp_path: Path) -> None:
    files = {f"pets/train/cat/{i}.png": colourful(i) for i in range(2)}
    files |= {
        "__MACOSX/pets/train/cat/._0.png": b"junk",
        "pets/.DS_Store": b"junk",
        "pets/train/cat/Thumbs.db": b"junk",
    }
    summary = inspect_zip(zip_of(tmp_path / "a.zip", files))
    assert summary.num_images == {"train": 2}
    assert summary.skipped == ()


def test_images_that_do_not_decode_are_listed_and_not_fatal(tmp_path: Path) -> None:
    cut = colourful(1)[:60]
    files = {"train/a/0.png": colourful(0), "train/a/1.png": cut, "train/a/2.png": b"no image", "notes.txt": b"hello"}
    summary = inspect_zip(zip_of(tmp_path / "a.zip", files))
    assert summary.num_images == {"train": 1}
    assert {path for path, _ in summary.skipped} == {"train/a/1.png", "train/a/2.png", "notes.txt"}
    assert all(reason for _, reason in summary.skipped)


def test_a_class_left_without_images_is_refused(tmp_path: Path) -> None:
    assert code_of(zip_of(tmp_path / "a.zip", {"train/a/0.png": colourful(0), "train/b/0.png": b"no"})) == "empty_class"
    assert code_of(zip_of(tmp_path / "b.zip", {"train/a/0.png": colourful(0), "train/b/": b""})) == "empty_class"


def test_a_zip_without_training_images_is_refused(tmp_path: Path) -> None:
    assert code_of(folder_of(tmp_path / "a.zip", {"a": 2}, ("val",))) == "no_train_split"
    assert code_of(zip_of(tmp_path / "b.zip", {})) == "no_train_split"


@pytest.mark.parametrize(
    "name",
    ["../train/a/0.png", "train/../../a.png", "/train/a/0.png", "C:/train/a.png", "train\\a\\0.png", "train/a\n/0"],
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    assert code_of(zip_of(tmp_path / "a.zip", {"train/a/0.png": colourful(0), name: colourful(1)})) == "unsafe_path"


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("train/a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/a/0.png", colourful(0))
        archive.writestr(link, "/etc/passwd")
    assert code_of(path) == "unsafe_path"


def test_zip_bombs_are_refused_before_anything_is_inflated(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path / "a.zip", {"train/a/0.png": colourful(0), "train/a/1.png": bytes(8 << 20)})
    assert code_of(bomb) == "zip_bomb"
    assert code_of(bomb, Limits(max_ratio=1e9, max_file_bytes=1 << 20)) == "zip_bomb"
    assert code_of(bomb, Limits(max_ratio=1e9, max_total_bytes=1 << 20)) == "zip_bomb"
    assert code_of(folder_of(tmp_path / "b.zip", {"a": 9}), Limits(max_files=8)) == "too_many_files"


def test_an_image_of_too_many_pixels_is_skipped_without_decoding(tmp_path: Path) -> None:
    wide = encoded(np.zeros((40, 50, 3), dtype=np.uint8))
    path = zip_of(tmp_path / "a.zip", {"train/a/0.png": colourful(0), "train/a/1.png": wide})
    ((name, reason),) = inspect_zip(path, Limits(max_pixels=1000)).skipped
    assert name == "train/a/1.png"
    assert "pixels" in reason


def test_encrypted_broken_duplicate_and_foreign_files_are_refused(tmp_path: Path) -> None:
    good = folder_of(tmp_path / "good.zip", {"a": 2})
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    encrypted = tmp_path / "encrypted.zip"
    encrypted.write_bytes(content)
    assert code_of(encrypted) == "encrypted_zip"
    (tmp_path / "text.zip").write_text("not a zip")
    assert code_of(tmp_path / "text.zip") == "not_a_zip"
    content = bytearray(good.read_bytes())
    start = content.index(b"PK\1\2")
    content[start : start + 4] = b"XXXX"
    (tmp_path / "broken.zip").write_bytes(content)
    assert code_of(tmp_path / "broken.zip") == "broken_zip"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("train/a/0.png", colourful(0))
        archive.writestr("train/a/0.png", colourful(1))
    assert code_of(tmp_path / "twice.zip") == "duplicate_path"


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), length=st.integers(0, 2000))
def test_a_damaged_zip_is_refused_or_read_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, length: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(folder_of(folder / "a.zip", {"a": 2}).read_bytes())
    content[position % len(content)] = value
    (folder / "b.zip").write_bytes(content[: max(30, len(content) - length)])
    try:
        summary = inspect_zip(folder / "b.zip")
    except DataError as refusal:
        assert refusal.code and refusal.detail
    else:
        assert summary.classes


def test_a_file_whose_content_does_not_match_its_checksum_is_skipped(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "a.zip", {"a": 2})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\3\4") + 60] ^= 0xFF
    path.write_bytes(content)
    assert [name for name, _ in inspect_zip(path).skipped] == ["train/a/0.png"]


def test_the_reported_split_is_test_and_val_selects(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "a.zip", {"a": 4, "b": 4}, ("train", "val", "test"))
    data = load(path, classes=("a", "b"), **PHOTO)
    assert (data.train.source, data.selection.source, data.reported.source) == ("train/", "val/", "test/")
    assert (len(data.train), len(data.selection), len(data.reported)) == (8, 8, 8)


def test_with_val_alone_a_tenth_of_train_selects(tmp_path: Path) -> None:
    data = load(folder_of(tmp_path / "a.zip", {"a": 20, "b": 5}, ("train", "val")), classes=("a", "b"), **PHOTO)
    assert data.reported.source == "val/"
    assert np.bincount(data.selection.labels).tolist() == [2, 1]
    assert np.bincount(data.train.labels).tolist() == [18, 4]


def test_with_train_alone_three_parts_share_no_image(tmp_path: Path) -> None:
    data = load(folder_of(tmp_path / "a.zip", {"a": 20, "b": 10}), classes=("a", "b"), **PHOTO)
    parts = [set(split.index.tolist()) for split in (data.train, data.selection, data.reported)]
    assert sum(map(len, parts)) == 30 == len(set.union(*parts))
    assert np.bincount(data.reported.labels).tolist() == [4, 2]
    again = load(tmp_path / "a.zip", classes=("a", "b"), **PHOTO)
    assert np.array_equal(again.train.index, data.train.index)


def test_too_few_images_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "a.zip", {"a": 2, "b": 9})
    with pytest.raises(DataError, match="class a has too few") as few:
        load(path, classes=("a", "b"), **PHOTO)
    assert few.value.code == "too_few_images"
    with pytest.raises(DataError, match="no class zebra") as unknown:
        load(path, classes=("b", "zebra"), **PHOTO)
    assert unknown.value.code == "unknown_class"


def test_labels_follow_the_order_of_the_classes_asked_for(tmp_path: Path) -> None:
    red, blue = (encoded(np.full((8, 8, 3), colour, dtype=np.uint8)) for colour in ([255, 0, 0], [0, 0, 255]))
    files = {f"train/{name}/{i}.png": content for name, content in (("r", red), ("b", blue)) for i in range(6)}
    data = load(zip_of(tmp_path / "a.zip", files), classes=("r", "b"), **PHOTO)
    images, labels = next(data.train.batches(64))
    assert ((images[:, 0] > images[:, 2]).all(dim=(1, 2)) == (labels == 0)).all()
    assert images[0, 0, 0, 0].item() in (pytest.approx((1 - 0.5) / 0.2), pytest.approx(-0.5 / 0.2))


def test_the_cache_gives_the_same_pixels_without_reading_images_again(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "a.zip", {"a": 6, "b": 6})
    seen: list[float] = []
    first = load(path, classes=("a", "b"), cache=tmp_path / "cache", progress=seen.append, **PHOTO)
    assert seen[-1] == 1.0
    seen.clear()
    second = load(path, classes=("a", "b"), cache=tmp_path / "cache", progress=seen.append, **PHOTO)
    assert not seen
    assert np.array_equal(first.train.raw(np.arange(3)), second.train.raw(np.arange(3)))
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_other_shapes_and_modes_become_square_images_of_the_asked_channels(tmp_path: Path) -> None:
    tall = encoded(np.zeros((30, 12), dtype=np.uint8), "JPEG")
    deep = encoded(np.full((9, 9), 256 * 200, dtype=np.uint16))
    files = {f"train/a/{i}.{kind}": image for i in range(3) for kind, image in (("jpg", tall), ("png", deep))}
    path = zip_of(tmp_path / "a.zip", files)
    data = load(path, classes=("a",), image_size=8, channels=1, mean=(0.0,), std=(1.0,))
    assert data.train.pixels.shape == (6, 1, 8, 8)
    assert sorted(set(data.train.pixels.reshape(6, -1).max(axis=1).tolist())) == [0, 200]


def test_photographs_are_mirrored_and_grey_images_are_not(tmp_path: Path) -> None:
    assert load(folder_of(tmp_path / "a.zip", {"a": 6}), classes=("a",), **PHOTO).flip
    grey = encoded(np.arange(64, dtype=np.uint8).reshape(8, 8))
    path = zip_of(tmp_path / "b.zip", {f"train/a/{i}.png": grey for i in range(6)})
    assert not load(path, classes=("a",), **PHOTO).flip


def test_an_epoch_is_a_function_of_seed_and_epoch_and_holds_every_image_once(tmp_path: Path) -> None:
    train = load(folder_of(tmp_path / "a.zip", {"a": 20, "b": 10}), classes=("a", "b"), **PHOTO).train
    one, two, other = (list(shuffled(train, 8, seed=3, epoch=epoch, flip=True)) for epoch in (1, 1, 2))
    assert all((a == c).all() and (b == d).all() for (a, b), (c, d) in zip(one, two, strict=True))
    assert not all((a == c).all() for (a, _), (c, _) in zip(one, other, strict=True))
    assert sorted(label for _, labels in one for label in labels.tolist()) == sorted(train.labels.tolist())


def test_a_taken_sample_is_even_over_the_classes(tmp_path: Path) -> None:
    train = load(folder_of(tmp_path / "a.zip", {"a": 30, "b": 9}), classes=("a", "b"), **PHOTO).train
    assert np.bincount(train.take(8).labels).tolist() == [4, 4]
    assert len(train.take(1000)) == len(train)
