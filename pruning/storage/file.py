"""The compact file: safetensors whose metadata says how each masked layer is packed. Loading runs no code of the file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lut.pattern import Pattern
from pruning.storage.pack import Header, pack_with_headers, unpack

FORMAT = "secateur-compact"
SCHEMA_VERSION = 1


def save_compact(
    path: Path, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> None:
    """Write a masked network, packed (see `pack_with_headers`); the file appears whole or not at all.

    The metadata holds `format`, `schema_version` and `layers`, JSON: by module, the id of its pattern (or `bitmap`)
    and the shape of its dense weight. Raises ValueError like `pack_with_headers`.
    """
    tensors, headers = pack_with_headers(state, masks, patterns)
    layers = {module: {"pattern": header.pattern, "shape": list(header.shape)} for module, header in headers.items()}
    metadata = {"format": FORMAT, "schema_version": str(SCHEMA_VERSION), "layers": json.dumps(layers)}
    data = save(tensors, metadata)
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def load_compact(path: Path) -> dict[str, Tensor]:
    """Return the dense state dict of a compact file, bit for bit what was packed.

    Raises ValueError, saying what is wrong, for a file that is damaged, of another schema or lies about itself;
    OSError when it cannot be read. What is allocated is bounded by the file's size (see `unpack`).
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            headers = _headers(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as wrong:
        raise ValueError(f"{path.name} is no safetensors file: {wrong}") from None
    return unpack(tensors, headers)


def _headers(metadata: Mapping[str, str]) -> dict[str, Header]:
    if metadata.get("format") != FORMAT:
        raise ValueError("not a compact file: its metadata names another format or none")
    if metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise ValueError(f"compact schema {metadata.get('schema_version')!r}: this version reads {SCHEMA_VERSION}")
    try:
        layers = json.loads(metadata.get("layers", ""))
    except (ValueError, RecursionError):
        raise ValueError("the metadata's layers are not JSON") from None
    if not isinstance(layers, dict):
        raise ValueError("the metadata's layers are a JSON object by module")
    return {module: _header(module, layer) for module, layer in layers.items()}


def _header(module: str, layer: object) -> Header:
    if not isinstance(layer, dict) or layer.keys() != {"pattern", "shape"}:
        raise ValueError(f"{module}: a layer has a pattern and a shape")
    pattern, shape = layer["pattern"], layer["shape"]
    if not isinstance(pattern, str) or not isinstance(shape, list) or any(type(n) is not int for n in shape):
        raise ValueError(f"{module}: the pattern is an id, the shape a list of whole numbers")
    return Header(pattern=pattern, shape=tuple(shape))
