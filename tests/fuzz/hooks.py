"""What Schemathesis cannot know: files that are one, ids that are there, and what would end the run itself."""

import atexit
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import GenerationMode

from tests.integration.api_service import images, weights

KNOWN: dict[str, str] = json.loads(os.environ["FUZZ_KNOWN"])
"""Ids of things that are there, and may not be deleted, by the name of the parameter."""
OWN: dict[str, list[str]] = json.loads(os.environ["FUZZ_OWN"])
"""Ids of things that may not be changed, because the run hangs on them."""
TABLE = os.environ["FUZZ_TABLE"].encode()
SHARE_SOUND = 0.6
"""Of the requests that the schema allows, how many are made to be about things that are there."""
_num_requests: Counter[str] = Counter()
"""By phase; written down when the run ends."""
atexit.register(lambda: Path(os.environ["FUZZ_COUNTS"]).write_text(json.dumps(_num_requests)))
_random = random.Random(int(os.environ["FUZZ_SEED"]))
_FORM = {"image_size": "32", "mean": "[0.5, 0.5, 0.5]", "std": "[0.2, 0.2, 0.2]"}
_IDS = {name: KNOWN[name] for name in ("model_id", "dataset_id")}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Keep the run's own key and project, ask streams for pages, which end, and make some requests sound.

    What is wrong with a request on purpose stays wrong: only those that the schema allows are changed, in copies.
    """
    _num_requests[case.meta.phase.name.value if case.meta else "other"] += 1
    for name, value in list(case.path_parameters.items()):
        changed = case.method != "GET" and value in OWN.get(name, ())
        if changed or (case.method == "DELETE" and value == KNOWN.get(name)):
            case.path_parameters = {**case.path_parameters, name: "none"}
    if case.operation.path.endswith("/events"):
        kwargs["auth"] = _for_a_page
    allowed = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if not allowed or case.method != "POST" or not isinstance(case.body, dict):
        return
    if case.operation.path.endswith("/lease"):
        case.body = {**case.body, "wait_s": 0.01}
    elif _random.random() < SHARE_SOUND:
        _make_sound(case, kwargs)


def _for_a_page(request: Any) -> Any:
    """Ask for JSON once the case has become a request: a change of its own headers would make one that lacks its key whole."""
    request.headers["Accept"] = "application/json"
    return request


def _make_sound(case: Any, kwargs: dict[str, Any]) -> None:
    path = case.operation.path
    if path in ("/v1/models", "/v1/datasets", "/v1/luts") and case.media_type == "multipart/form-data":
        name = _random.choice(("net", "\u2603", "x" * 200))
        fields, file = {
            "/v1/models": ({"name": name, "arch": "cifar/resnet20"}, weights()),
            "/v1/datasets": ({"name": name, **_FORM}, images()),
            "/v1/luts": ({"device": KNOWN["device_id"]}, TABLE),
        }[path]
        kwargs.update(data=fields, files={"file": ("file", file)})
    elif path.startswith("/v1/prune-jobs"):
        body = {name: value for name, value in case.body.items() if name != "budget_ratio"}
        name = _random.choice(("good", "bad"))
        whole = {"after": [], "also": [], "budget_ms": 1.0, "budgets": [], "solver": "secateur"}
        case.body = {**body, **_IDS, **whole, "classes": ["cat"], "device": "local", "name": name}
    elif path == "/v1/lut-builds":
        case.body = {**case.body, **_IDS, "image_size": 32, "device": "local", "after": [], "name": ""}


@schemathesis.serializer("application/offset+octet-stream")
def piece(context: Any, value: Any) -> Any:
    """Bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
