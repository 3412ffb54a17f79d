"""Files of weights made to do harm."""

import io
import json
import pickle
import struct
from typing import Any

import numpy as np

from tests.malicious.upload import Build, Malicious
from tests.malicious.zips import png, zipped


def tensors(header: Any, data: bytes = bytes(64), size: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - start) // 4], "data_offsets": [start, end]}


def _st(name: str, build: Build, code: str = "broken_model") -> Malicious:
    return Malicious(name=f"safetensors: {name}", purpose="model", build=build, code=code)


def safetensors() -> list[Malicious]:
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


def pickles() -> list[Malicious]:
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
