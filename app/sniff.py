"""What kind of file the first bytes belong to. A pickle is recognised so that it can be refused with advice."""

import pickletools
import struct
from typing import Literal

from app.errors import ApiProblem

HEAD_BYTES = 512
"""As much of a file as is looked at."""

FileKind = Literal["safetensors", "onnx", "zip", "pickle", "other"]

_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the format's own limit
_ADVICE = (
    "Pickled files can run code when they are read and are refused. Convert the weights with "
    "`safetensors.torch.save_file(model.state_dict(), 'model.safetensors')`, or export the model to ONNX."
)


def file_kind(head: bytes) -> FileKind:
    """Name the format of a file from its first `HEAD_BYTES` bytes (fewer when it is shorter)."""
    if head[:4] == b"PK\x03\x04":
        return "pickle" if _first_zip_entry(head).endswith((b".pkl", b".pickle", b"/version")) else "zip"
    if head[:4] == b"PK\x05\x06":  # an empty zip
        return "zip"
    if _is_safetensors(head):
        return "safetensors"
    if _is_pickle(head):
        return "pickle"
    # An ONNX ModelProto begins with field 1, ir_version, a small number.
    if len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 64:
        return "onnx"
    return "other"


def check_model_head(head: bytes) -> None:
    """Raise 415 unless the file can be safetensors or ONNX."""
    kind = file_kind(head)
    if kind in ("safetensors", "onnx"):
        return
    if kind in ("pickle", "zip"):  # torch.save, torch.jit.save and torch.export.save all write zips of pickles
        raise ApiProblem("pickle_refused", _ADVICE)
    raise ApiProblem("unsupported_format", "The file is neither safetensors nor ONNX. Models come as one of the two.")


def check_dataset_head(head: bytes) -> None:
    """Raise 415 unless the file can be a zip of images."""
    kind = file_kind(head)
    if kind == "zip":
        return
    if kind == "pickle":
        raise ApiProblem(
            "pickle_refused",
            "Pickled files can run code when they are read and are refused. "
            "Datasets come as a zip of an ImageFolder: train/<class>/<image>.",
        )
    raise ApiProblem("unsupported_format", "The file is no zip. Datasets come as a zip of an ImageFolder.")


def check_table_head(head: bytes) -> None:
    """Raise 415 unless the file can be text: JSON or CSV. Which columns or fields it has, a worker finds out."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or b"\0" in head or not (text[:1] == b"{" or text[:1].isalnum() or text[:1] == b'"'):
        raise ApiProblem("unsupported_format", "Latency tables come as JSON (as the service exports them) or as CSV.")


def is_json(head: bytes) -> bool:
    """True for a text that begins as a JSON object does."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def _is_safetensors(head: bytes) -> bool:
    if len(head) < 10:
        return False
    (num_header_bytes,) = struct.unpack("<Q", head[:8])
    return 2 <= num_header_bytes <= _MAX_SAFETENSORS_HEADER_BYTES and head[8:9] == b"{"


def _first_zip_entry(head: bytes) -> bytes:
    """File name in the zip's first local header, cut off where the head ends."""
    if len(head) < 30:
        return b""
    (num_name_bytes,) = struct.unpack("<H", head[26:28])
    return head[30 : 30 + num_name_bytes]


def _is_pickle(head: bytes) -> bool:
    """True when the bytes read as pickle opcodes, to the end or for long enough that it is no accident."""
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return True
    num_opcodes = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            num_opcodes += 1
            if opcode.name == "STOP":
                return num_opcodes > 1
    except (ValueError, IndexError, UnicodeDecodeError):
        return num_opcodes >= 8
    return num_opcodes >= 8
