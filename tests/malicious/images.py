"""Images made to do harm."""

import io
import struct
import zlib

from PIL import Image

from tests.malicious.upload import Build, Malicious
from tests.malicious.zips import zipped


def png_chunks(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data)))
    return b"".join(parts)


def one_bit(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def gif(width: int) -> bytes:
    """A GIF whose only frame lies far outside its screen."""
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    struct.pack_into("<HH", content, 6, width, width)
    return bytes(content)


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF whose directory has these (tag, type, count, value) and itself as the next one."""
    fields = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(entries)) + fields + struct.pack("<L", 8)


def _image(name: str, build: Build) -> Malicious:
    # An image that does not decode is skipped and listed; a class of which nothing is left refuses the upload.
    def dataset() -> bytes:
        return zipped({"train/cat/1.png": build()})

    return Malicious(name=f"image: {name}", purpose="dataset", build=dataset, code="empty_class")


def images() -> list[Malicious]:
    bomb = zlib.compress(bytes(50 << 20), 9)
    small = zlib.compress(bytes(25 * 8))
    huge = [(256, 4, 1, 0x7FFFFFFF), (257, 4, 1, 0x7FFFFFFF), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    cyclic = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0xFFFFFF0)]
    return [
        _image("says 60,000 x 60,000", lambda: png_chunks(60_000, 60_000, (b"IDAT", small))),
        _image("says 8 x 8 and has nothing", lambda: png_chunks(8, 8)),
        _image("a pixel bomb", lambda: one_bit(8_000)),
        _image("a size of zero", lambda: png_chunks(0, 8, (b"IDAT", small))),
        _image("ICC profile that inflates", lambda: png_chunks(8, 8, (b"iCCP", b"p\0\0" + bomb), (b"IDAT", small))),
        _image("text that inflates", lambda: png_chunks(8, 8, (b"zTXt", b"t\0\0" + bomb), (b"IDAT", small))),
        _image("animation on a huge screen", lambda: gif(65_535)),
        _image("svg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        _image("svg with entities", lambda: b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'),
        _image("postscript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n"),
        _image("tiff of 2^31 pixels a side", lambda: tiff(*huge)),
        _image("tiff that points at itself", lambda: tiff(*cyclic)),
        _image("jpeg cut after its header", lambda: b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"),
        _image("jpeg with broken exif", lambda: b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\xff\xff\xff\xff"),
        _image("portable pixmap of 10^9 x 10^9", lambda: b"P6 1000000000 1000000000 255\n"),
        _image("html", lambda: b"<html><script>alert(1)</script></html>"),
    ]
