"""Uploads made to do harm, each with the code that refuses it."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper
from PIL import Image

Build = Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Malicious:
    """One upload."""

    name: str
    purpose: str
    """`model` or `dataset`."""
    build: Build
    code: str
    arch: str = "cifar/resnet20"
    limits: Mapping[str, float] = field(default_factory=dict)


def listed() -> list[Malicious]:
    """All of them."""
    return [*_zips(), *_images(), *_safetensors(), *_pickles(), *_onnx()]


# Zips


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


def _zips() -> list[Malicious]:
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


# Images


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


def _images() -> list[Malicious]:
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


# safetensors


def tensors(header: Any, data: bytes = bytes(64), size: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - start) // 4], "data_offsets": [start, end]}


def _st(name: str, build: Build, code: str = "broken_model") -> Malicious:
    return Malicious(name=f"safetensors: {name}", purpose="model", build=build, code=code)


def _safetensors() -> list[Malicious]:
    twice = b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    nan = np.full(16, np.nan, np.float32).tobytes()
    return [
        _st("offsets beyond the file", lambda: tensors({"a": tensor(0, 1 << 40)})),
        _st("offsets beyond 64 bits", lambda: tensors({"a": tensor(0, 1 << 70)})),
        _st("overlap", lambda: tensors({"a": tensor(0, 64), "b": tensor(32, 64)})),
        _st("hole", lambda: tensors({"a": tensor(0, 16), "b": tensor(32, 64)})),
        _st("negative", lambda: tensors({"a": tensor(-64, 0)})),
        _st("backwards", lambda: tensors({"a": tensor(64, 0, [16])})),
        _st("the same name twice", lambda: tensors(twice)),
        _st("header longer than the file", lambda: tensors({}, size=90_000_000)),
        _st("header of 2^60 bytes", lambda: tensors({}, size=1 << 60), "unsupported_format"),
        _st("unknown type", lambda: tensors({"a": tensor(0, 64, dtype="PICKLE")})),
        _st("size of another type", lambda: tensors({"a": tensor(0, 64, [16], "F64")})),
        _st("shape that overflows", lambda: tensors({"a": tensor(0, 64, [1 << 33, 1 << 33])})),
        _st("deep JSON", lambda: tensors(deep)),
        _st("no JSON", lambda: tensors(b"{" + b"\xff" * 50)),
        _st("data behind it", lambda: tensors({"a": tensor(0, 16)}, bytes(64) + b"evil")),
        _st("metadata that is no text", lambda: tensors({"__metadata__": {"a": [1]}, "a": tensor(0, 64)})),
        _st("not a number", lambda: tensors({"a": tensor(0, 64)}, nan), "broken_weights"),
        _st("names that are paths", lambda: tensors({"../../etc/passwd": tensor(0, 64)}), "wrong_weights"),
    ]


# Pickles


class Evil:
    """Runs when it is read; the marker would tell."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a pickle was read')",))


def _pickle(name: str, build: Build, code: str = "pickle_refused", arch: str = "cifar/resnet20") -> Malicious:
    return Malicious(name=f"pickle: {name}", purpose="model", build=build, code=code, arch=arch)


def _pickles() -> list[Malicious]:
    evil = {protocol: pickle.dumps({"w": Evil(), "more": [1.5] * 100}, protocol) for protocol in range(6)}
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + evil[2]
    stored = io.BytesIO()
    np.savez(stored, w=np.array([1]))
    return [
        *(_pickle(f"protocol {protocol}", lambda content=content: content) for protocol, content in evil.items()),  # type: ignore[misc]
        _pickle("named as ONNX", lambda: evil[4], arch="onnx"),
        _pickle("torch.save before 1.6", lambda: legacy),
        _pickle("torch.save", lambda: zipped({"archive/data.pkl": evil[2], "archive/version": b"3"})),
        _pickle("torch.export", lambda: zipped({"model/archive_format": b"pt2", "model/data/weights": evil[2]})),
        _pickle("behind an image in a zip", lambda: zipped({"a.png": png(), "data.pkl": evil[2]})),
        _pickle("numpy archive", stored.getvalue),
        _pickle("in gzip", lambda: b"\x1f\x8b\x08" + evil[4], "unsupported_format"),
        _pickle("numpy objects", lambda: b"\x93NUMPY\1\0v\0{'descr': '|O'}" + evil[4], "unsupported_format"),
        _pickle("hdf5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(600), "unsupported_format"),
    ]


# ONNX


def graph_of(
    nodes: list[Any], weights: list[TensorProto] | None = None, shape: tuple[Any, ...] = ("n", 3, 16, 16), **model: Any
) -> ModelProto:
    """A network from `x` to `y`."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [output], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **model)


def node(kind: str, inputs: list[str], output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)


def ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def claims(name: str, *dims: int) -> TensorProto:
    """A tensor that says it has this shape and holds nothing."""
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)


def external(location: str) -> TensorProto:
    made = claims("w", 4)
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return made


def in_attribute(location: str) -> bytes:
    return graph_of([node("Constant", [], "w", value=external(location)), node("Add", ["x", "w"])]).SerializeToString()


def in_branch(location: str) -> bytes:
    inner = helper.make_graph([node("Identity", ["w"], "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    inner.initializer.append(external(location))
    return graph_of([node("If", ["c"], then_branch=inner, else_branch=inner)], [_yes()]).SerializeToString()


def _yes() -> TensorProto:
    return helper.make_tensor("c", TensorProto.BOOL, [], [True])


def nested(depth: int) -> bytes:
    """Length-delimited fields inside each other: an If whose branch holds an If, and so on."""
    inner = b""
    for _ in range(depth):
        attribute = b"\x0a\x01b" + _field(6, inner)
        inner = _field(1, b"\x22\x02If" + _field(5, attribute))
    return b"\x08\x08" + _field(7, inner) + b"\x42\x02\x10\x11"


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + length + content


def recursive_functions() -> bytes:
    made = helper.make_function(
        "evil",
        "f",
        ["a"],
        ["b"],
        [helper.make_node("f", ["a"], ["b"], domain="evil")],
        [helper.make_opsetid("evil", 1)],
    )
    return graph_of([node("f", ["x"], domain="evil")], functions=[made]).SerializeToString()


def _on(name: str, build: Callable[[], bytes | ModelProto], code: str = "unsupported_onnx") -> Malicious:
    def content() -> bytes:
        made = build()
        return made if isinstance(made, bytes) else made.SerializeToString()

    return Malicious(name=f"onnx: {name}", purpose="model", build=content, code=code, arch="onnx")


def _onnx() -> list[Malicious]:
    span, power = [_one("a", 0), _one("b", 1 << 50), _one("d", 1)], [_one("a", 10), _one("b", 1 << 62)]
    good = graph_of([node("Relu", ["x"])]).SerializeToString()
    strings = helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"])
    short = TensorProto(name="w", data_type=1, dims=[1000, 1000], raw_data=b"abcd")
    body = helper.make_graph([node("Identity", ["i"], "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    sparse = graph_of([node("Add", ["x", "w"])])
    sparse.graph.sparse_initializer.add(dims=[1 << 40]).values.CopyFrom(claims("w", 1))
    odd = graph_of([node("Relu", ["x"])])
    odd.graph.node[0].attribute.append(AttributeProto(name="a", type=AttributeProto.UNDEFINED))
    return [
        _on("absolute external data", lambda: graph_of([node("Add", ["x", "w"])], [external("/etc/passwd")])),
        _on("relative external data", lambda: graph_of([node("Add", ["x", "w"])], [external("../../etc/passwd")])),
        _on("external data beside it", lambda: graph_of([node("Add", ["x", "w"])], [external("model")])),
        _on("external data over a proc link", lambda: graph_of([node("Add", ["x", "w"])], [external("/proc/self/fd/0")])),
        _on("external data in an attribute", lambda: in_attribute("/etc/passwd")),
        _on("external data in a branch", lambda: in_branch("/etc/passwd")),
        _on("a cycle", lambda: graph_of([node("Add", ["x", "b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"])])),
        _on("a node that reads itself", lambda: graph_of([node("Add", ["x", "y"])])),
        _on("an input of 2^40 pixels", lambda: graph_of([node("Relu", ["x"])], shape=("n", 3, 1 << 20, 1 << 20))),
        _on("a negative size", lambda: graph_of([node("Relu", ["x"])], shape=(1, 3, -16, 16))),
        _on("a shape of 2^60", lambda: graph_of([node("ConstantOfShape", ["w"], "z"), node("Add", ["x", "z"])], [ints("w", 1 << 60)])),
        _on("expansion", lambda: graph_of([node("Expand", ["x", "w"])], [ints("w", 1, 1 << 24, 3, 16, 16)])),
        _on("expansion step by step", lambda: doubling()),
        _on("a range of 2^50", lambda: graph_of([node("Range", ["a", "b", "d"], "z"), node("Add", ["x", "z"])], span)),
        _on("tiles", lambda: graph_of([node("Tile", ["x", "w"])], [ints("w", 1 << 20, 1 << 20, 1, 1)])),
        _on("padding of 2^40", lambda: graph_of([node("Pad", ["x", "w"])], [ints("w", 0, 0, 0, 0, 0, 0, 1 << 40, 0)])),
        _on("resizing by 10^6", lambda: graph_of([node("Resize", ["x", "", "s"])], [helper.make_tensor("s", 1, [4], [1, 1, 1e6, 1e6])])),
        _on("a constant power of ten billion digits", lambda: graph_of([node("Pow", ["a", "b"], "z"), node("Add", ["x", "z"])], power)),
        _on("nested 200 deep", lambda: nested(200)),
        _on("nested 20,000 deep", lambda: nested(20_000)),
        _on("an operator of its own", lambda: graph_of([node("Evil", ["x"], domain="evil.example")])),
        _on("a function that calls itself", recursive_functions),
        _on("weights that are only claimed", lambda: graph_of([node("Add", ["x", "w"])], [claims("w", 1 << 31)])),
        _on("weights of 2^62", lambda: graph_of([node("Add", ["x", "w"])], [claims("w", 1 << 31, 1 << 31)])),
        _on("fewer bytes than claimed", lambda: graph_of([node("Add", ["x", "w"])], [short])),
        _on("a million weights", lambda: good + _field(7, _field(5, b"\x08\x00\x10\x01") * 1_000_000)),
        _on("a million nodes", lambda: good + _field(7, _field(1, b"\x0a\x01y\x12\x01y\x22\x04Relu") * 1_000_000)),
        _on("a loop", lambda: graph_of([node("Loop", ["", "c"], body=body)], [_yes()])),
        _on("a branch", lambda: graph_of([node("If", ["c"], then_branch=body, else_branch=body)], [_yes()])),
        _on("text in tensors", lambda: graph_of([node("Add", ["x", "w"])], [strings])),
        _on("sparse weights", lambda: sparse),
        _on("an attribute without a type", lambda: odd),
        _on("no graph", lambda: b"\x08\x08\x42\x02\x10\x11"),
        _on("nonsense behind a good head", lambda: b"\x08\x08\x12\x07pytorch" + b"\xff" * 1000),
    ]  # fmt: skip


def _one(name: str, value: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [], [value])


def doubling() -> ModelProto:
    """Sixty concatenations of a map with itself."""
    nodes = [node("Concat", [f"v{n}" if n else "x"] * 2, f"v{n + 1}", axis=1) for n in range(60)]
    return graph_of([*nodes, node("Relu", ["v60"])])
