"""Whether a zip's directory can be trusted, before anything is inflated."""

import re
import stat
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIN_RATIO_BYTES = 1 << 20
"""Below this size a high compression ratio harms nobody (a few flat bitmaps)."""
CENTRAL_RECORD_BYTES = 256
"""Generous mean size of one entry of the central directory; bounds what opening the zip may cost."""
MAX_NAME = 1024
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_END_BYTES = 22
_LOCAL_HEADER_BYTES = 30


class DataError(ValueError):
    """The data set cannot be used; `code` is stable, `detail` says what is wrong and where."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one zip may cost; beyond a limit it is refused (an image over `max_pixels` is skipped and listed)."""

    max_files: int = 500_000
    max_total_bytes: int = 40 << 30
    max_file_bytes: int = 64 << 20
    max_ratio: float = 100.0
    """Uncompressed over compressed bytes, for the whole zip and for each large file."""
    max_pixels: int = 50_000_000


def opened(path: Path, limits: Limits) -> zipfile.ZipFile:
    """Return the open zip once its whole directory has passed the checks; raises DataError."""
    _check_directory_size(path, limits)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError, OSError) as error:
        raise DataError("broken_zip", f"the zip's directory cannot be read: {error}") from error
    try:
        _check_entries(archive, path.stat().st_size, limits)
        _check_places(archive)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_directory_size(path: Path, limits: Limits) -> None:
    """Refuse a central directory too big to parse: opening a zip builds an object for each of its entries."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise DataError("not_a_zip", "the file is not a zip archive")
        file.seek(max(0, size_bytes - 65_557))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end + _END_BYTES + int.from_bytes(tail[end + 20 : end + 22], "little") != len(tail):
        raise DataError("broken_zip", "bytes lie behind the zip's end")
    directory_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    end64 = tail.rfind(b"PK\6\6")
    if end64 >= 0:
        directory_bytes = max(directory_bytes % 0xFFFFFFFF, int.from_bytes(tail[end64 + 40 : end64 + 48], "little"))
    if directory_bytes > limits.max_files * CENTRAL_RECORD_BYTES:
        raise DataError(
            "too_many_files", f"the zip's directory is {directory_bytes} bytes: more than {limits.max_files} files"
        )


def _check_entries(archive: zipfile.ZipFile, size_bytes: int, limits: Limits) -> None:
    entries = archive.infolist()
    if len(entries) > limits.max_files:
        raise DataError("too_many_files", f"{len(entries)} files in the zip, at most {limits.max_files} are taken")
    total_bytes = sum(entry.file_size for entry in entries)
    if total_bytes > limits.max_total_bytes:
        raise DataError(
            "zip_bomb", f"the zip unpacks to {total_bytes} bytes, at most {limits.max_total_bytes} are taken"
        )
    if total_bytes > max(MIN_RATIO_BYTES, limits.max_ratio * size_bytes):
        raise DataError(
            "zip_bomb",
            f"the zip unpacks to {total_bytes / size_bytes:.0f} times its size, at most {limits.max_ratio:g}",
        )
    seen: set[str] = set()
    for entry in entries:
        _check_name(entry)
        if entry.filename in seen:
            raise DataError("duplicate_path", f"{entry.filename!r} is in the zip twice")
        seen.add(entry.filename)
        _check_entry(entry, limits)
    _check_spelling(entries)


def _check_name(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    unsafe = name.startswith("/") or "\\" in name or any(ord(letter) < 32 for letter in name) or name[1:2] == ":"
    parts = name.split("/")
    if unsafe or ".." in parts or len(name) > MAX_NAME or any(_DEVICE.fullmatch(part) for part in parts):
        raise DataError("unsafe_path", f"{name[:200]!r} leaves the archive's folder or is not a plain relative path")
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError("unsafe_path", f"{name[:200]!r} is a link or a device, not a file")


def _check_entry(entry: zipfile.ZipInfo, limits: Limits) -> None:
    if entry.flag_bits & 0x41:
        raise DataError("encrypted_zip", f"{entry.filename!r} is encrypted; send the zip without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError("unsupported_compression", f"{entry.filename!r} is neither stored nor deflated")
    if entry.file_size > limits.max_file_bytes:
        raise DataError(
            "zip_bomb", f"{entry.filename!r} unpacks to {entry.file_size} bytes, at most {limits.max_file_bytes}"
        )
    if entry.file_size > max(MIN_RATIO_BYTES, limits.max_ratio * entry.compress_size):
        raise DataError("zip_bomb", f"{entry.filename!r} unpacks to more than {limits.max_ratio:g} times its size")


def _check_places(archive: zipfile.ZipFile) -> None:
    """Refuse entries that share bytes (with each other or the directory), and bytes in front that no entry owns."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    for entry, end in zip(entries, ends, strict=False):
        if entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size > end:
            raise DataError("zip_bomb", f"{entry.filename[:200]!r} shares its bytes with another entry")
    if entries and entries[0].header_offset:
        raise DataError("broken_zip", f"{entries[0].header_offset} bytes lie in front of the zip's first entry")


def _check_spelling(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse names that are one name where case or the form of an accent does not count."""
    spelled: dict[str, str] = {}
    for entry in entries:
        parts = entry.filename.rstrip("/").split("/")
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length])
            other = spelled.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                raise DataError("duplicate_path", f"{name[:200]!r} and {other[:200]!r} differ in case or form alone")
