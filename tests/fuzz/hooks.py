"""What Schemathesis cannot know: files that are one, ids that are there, and what would end the run itself."""

import json
import os
import random
from typing import Any

import schemathesis
from schemathesis import GenerationMode

from tests.integration.api_service import images, weights

KNOWN: dict[str, str] = json.loads(os.environ["FUZZ_KNOWN"])
"""Ids of things that are there."""
OWN: dict[str, str] = json.loads(os.environ["FUZZ_OWN"])
"""Ids that may not be changed, because the run hangs on them, by the name of the parameter."""
TABLE = os.environ["FUZZ_TABLE"].encode()
SHARE_SOUND = 0.6
"""Of the requests that the schema allows, how many are made to be about things that are there."""
_random = random.Random(int(os.environ["FUZZ_SEED"]))
_FORM = {"image_size": "32", "mean": "[0.5, 0.5, 0.5]", "std": "[0.2, 0.2, 0.2]"}
_IDS = {name: KNOWN[name] for name in ("model_id", "dataset_id")}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Keep the run's own key and project, ask streams for pages, which end, and make some requests sound."""
    for name, own in OWN.items():
        if case.method != "GET" and (case.path_parameters or {}).get(name) == own:
            case.path_parameters[name] = "none"
    if case.operation.path.endswith("/events"):
        case.headers["Accept"] = "application/json"
    body = case.body
    if not isinstance(body, dict):
        return
    if case.operation.path.endswith("/lease") and body.get("wait_s", 25.0) != 0:
        body["wait_s"] = 0.01
    positive = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if positive and case.method == "POST" and _random.random() < SHARE_SOUND:
        _make_sound(case.operation.path, case.media_type, body)


def _make_sound(path: str, media_type: str, body: dict[str, Any]) -> None:
    if path in ("/v1/models", "/v1/datasets", "/v1/luts") and media_type == "multipart/form-data":
        name = _random.choice(("net", "\u2603", "x" * 200))
        fields = {
            "/v1/models": {"name": name, "arch": "cifar/resnet20", "file": weights()},
            "/v1/datasets": {"name": name, **_FORM, "file": images()},
            "/v1/luts": {"device": KNOWN["device_id"], "file": TABLE},
        }
        body.clear()
        body.update(fields[path])
    elif path.startswith("/v1/prune-jobs"):
        body.update(
            _IDS, classes=["cat"], device="local", after=[], also=[], budget_ms=1.0, budgets=[], solver="secateur"
        )
        body["name"] = _random.choice(("good", "bad"))
        body.pop("budget_ratio", None)
    elif path == "/v1/lut-builds":
        body.update(_IDS, image_size=32, device="local", after=[], name="")


@schemathesis.serializer("application/offset+octet-stream")
def piece(context: Any, value: Any) -> Any:
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
