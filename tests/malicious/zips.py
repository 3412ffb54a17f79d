"""Zips made to do harm."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

from PIL import Image

from tests.malicious.upload import Build, Malicious


def png(width: int = 8, height: int = 8) -> bytes:
    """A good image."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


GOOD = {"train/cat/1.png": png(), "train/dog/1.png": png()}


def with_entry(name: str, mode: int = 0) -> bytes:
    """A good dataset with one entry more."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for good, content in GOOD.items():
            archive.writestr(good, content)
        info = zipfile.ZipInfo("x" * len(name))
        info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
    # zipfile itself mends names; the bytes are what counts.
    return buffer.getvalue().replace(b"x" * len(name), name.encode())


def overlapping() -> bytes:
    """Entries that all share the bytes of the first (D. Fifield, "A better zip bomb")."""
    first = zipped({"train/cat/0.png": bytes(20_000)}, zipfile.ZIP_DEFLATED)
    end = first.rfind(b"PK\5\6")
    start = int.from_bytes(first[end + 16 : end + 20], "little")
    record = first[start:end]
    many = b"".join(record.replace(b"0.png", f"{n}.png".encode()) for n in range(10))
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(many), start, 0)
    return first[:start] + many + tail


def quine() -> bytes:
    """An entry whose stored bytes are the archive with its own directory."""
    content = zipped({"train/cat/1.png": png(), "train/dog/1.png": png()})
    end = content.rfind(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    record = bytearray(content[start:end])
    struct.pack_into("<LL", record, 20, len(content) - 45, len(content) - 45)
    return content[:start] + bytes(record) + content[end:]


def lying(delta: int) -> bytes:
    """Entries that say another size than they unpack to, in both places."""
    content = bytearray(zipped({"train/cat/1.png": png(64, 64) + bytes(1000)}, zipfile.ZIP_DEFLATED))
    central = content.rfind(b"PK\1\2")
    (size,) = struct.unpack_from("<L", content, 22)
    struct.pack_into("<L", content, 22, size + delta)
    struct.pack_into("<L", content, central + 24, size + delta)
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zipped(GOOD))
    content[6] |= 1
    content[content.rfind(b"PK\1\2") + 8] |= 1
    return bytes(content)


def zip64_lie() -> bytes:
    content = bytearray(zipped(GOOD))
    end = content.rfind(b"PK\5\6")
    struct.pack_into("<HHLL", content, end + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return bytes(content)


def _zip(name: str, build: Build, code: str, **limits: float) -> Malicious:
    return Malicious(name=f"zip: {name}", purpose="dataset", build=build, code=code, limits=limits)


def zips() -> list[Malicious]:
    flat = bytes(3 << 20)
    return [
        _zip("ratio", lambda: zipped({"train/cat/1.bmp": flat}, zipfile.ZIP_DEFLATED), "zip_bomb"),
        _zip("total size", lambda: zipped(GOOD | {"train/cat/2.png": flat}), "zip_bomb", max_zip_bytes=1 << 20),
        _zip("nested", lambda: zipped({"train/cat/1.zip": zipped({"a": flat}, zipfile.ZIP_DEFLATED)}), "empty_class"),
        _zip("overlapping entries", overlapping, "zip_bomb"),
        _zip("quine-like", quine, "zip_bomb"),
        _zip("traversal", lambda: with_entry("train/../../../etc/cron.d/x"), "unsafe_path"),
        _zip("traversal at the end", lambda: with_entry("train/cat/.."), "unsafe_path"),
        _zip("absolute path", lambda: with_entry("/etc/cron.d/evil"), "unsafe_path"),
        _zip("drive letter", lambda: with_entry("C:/Windows/evil.png"), "unsafe_path"),
        _zip("backslashes", lambda: with_entry("train\\..\\..\\evil.png"), "unsafe_path"),
        _zip("symlink", lambda: with_entry("train/cat/link.png", 0o120777), "unsafe_path"),
        _zip("character device", lambda: with_entry("train/cat/dev.png", 0o020666), "unsafe_path"),
        _zip("device name", lambda: with_entry("train/cat/NUL.png"), "unsafe_path"),
        _zip("device name as a folder", lambda: with_entry("train/com1/1.png"), "unsafe_path"),
        _zip("case collision", lambda: zipped(GOOD | {"train/CAT/1.PNG": png()}), "duplicate_path"),
        _zip(
            "unicode collision",
            lambda: zipped(GOOD | {"train/caf\u00e9/1": png(), "train/cafe\u0301/1": png()}),
            "duplicate_path",
        ),
        _zip("the same name twice", lambda: with_entry("train/cat/1.png"), "duplicate_path"),
        _zip("NUL in a name", lambda: with_entry("train/cat/1.png\0.exe"), "unsafe_path"),
        _zip("newline in a name", lambda: with_entry("train/cat/\n.png"), "unsafe_path"),
        _zip("huge name", lambda: with_entry("train/cat/" + "y" * 60_000), "unsafe_path"),
        _zip("a thousand folders deep", lambda: with_entry("train/cat/" + "d/" * 1000 + "1"), "unsafe_path"),
        _zip(
            "too many entries",
            lambda: zipped({f"train/cat/{n}": b"" for n in range(2000)}),
            "too_many_files",
            max_zip_entries=1000,
        ),
        _zip("says less than it is", lambda: lying(-100), "empty_class"),
        _zip("says more than it is", lambda: lying(1 << 20), "zip_bomb"),
        _zip("encrypted", encrypted, "encrypted_zip"),
        _zip("truncated", lambda: zipped(GOOD)[:-30], "not_a_zip"),
        _zip("cut in front", lambda: b"PK\3\4" + zipped(GOOD)[100:], "broken_zip"),
        _zip("data behind it", lambda: zipped(GOOD) + b"<script>", "broken_zip"),
        _zip("much data behind it", lambda: zipped(GOOD) + bytes(100_000), "not_a_zip"),
        _zip("data before it", lambda: b"PK\3\4" + bytes(100) + zipped(GOOD), "broken_zip"),
        _zip("zip64 without a record", zip64_lie, "too_many_files"),
        _zip("lzma", lambda: zipped(GOOD, zipfile.ZIP_LZMA), "unsupported_compression"),
        _zip("empty", lambda: b"PK\5\6" + bytes(18), "no_train_split"),
        _zip("pickle and zip at once", lambda: pickle.dumps([1] * 99) + zipped(GOOD), "pickle_refused"),
        _zip("a torch archive", lambda: zipped({"archive/data.pkl": b"\x80\x02."} | GOOD), "pickle_refused"),
        _zip("png and html at once", lambda: png() + b"<html><script>alert(1)</script>", "unsupported_format"),
    ]
