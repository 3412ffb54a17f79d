"""Formats by their first bytes; every pickle is told from what it pretends to be."""

import io
import json
import pickle
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiProblem
from app.sniff import HEAD_BYTES, check_dataset_head, check_model_head, file_kind


def safetensors_bytes() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0\0\0\0"


def zip_bytes(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


ONNX_HEAD = b"\x08\x0a\x12\x07pytorch"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (safetensors_bytes(), "safetensors"),
        (ONNX_HEAD, "onnx"),
        (zip_bytes("train/cat/1.png"), "zip"),
        (zip_bytes("archive/data.pkl"), "pickle"),
        (b"PK\x05\x06" + b"\0" * 18, "zip"),
        (b"\x89PNG\r\n\x1a\n", "other"),
        (b"", "other"),
        (b"hello world, this is text\n", "other"),
        (b"{}", "other"),
    ],
)
def test_formats_are_told_apart(head: bytes, kind: str) -> None:
    assert file_kind(head[:HEAD_BYTES]) == kind


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [{"conv.weight": [1.5] * 40}, [1, 2, 3], "text", {"a": (1, None, b"xy")}])
def test_pickles_of_every_protocol_are_refused_with_advice(protocol: int, value: object) -> None:
    with pytest.raises(ApiProblem, match="safetensors") as caught:
        check_model_head(pickle.dumps(value, protocol)[:HEAD_BYTES])
    assert (caught.value.problem.status, caught.value.problem.code) == (415, "pickle_refused")
    assert "ONNX" in caught.value.problem.detail


@pytest.mark.parametrize("name", ["archive/data.pkl", "model/version", "anything"])
def test_no_zip_is_a_model(name: str) -> None:
    with pytest.raises(ApiProblem) as caught:
        check_model_head(zip_bytes(name))
    assert caught.value.problem.code == "pickle_refused"


def test_a_torch_archive_is_no_dataset() -> None:
    with pytest.raises(ApiProblem) as caught:
        check_dataset_head(zip_bytes("archive/data.pkl"))
    assert caught.value.problem.code == "pickle_refused"
    with pytest.raises(ApiProblem) as caught:
        check_dataset_head(b"Rar!\x1a\x07\x00")
    assert caught.value.problem.code == "unsupported_format"
    check_dataset_head(zip_bytes("train/cat/1.png"))


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_get_a_verdict(head: bytes) -> None:
    assert file_kind(head) in ("safetensors", "onnx", "zip", "pickle", "other")


def test_good_models_pass() -> None:
    check_model_head(safetensors_bytes())
    check_model_head(ONNX_HEAD)
