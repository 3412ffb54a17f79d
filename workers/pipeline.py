"""The prune job, read from top to bottom."""

from workers.files import COMPACT, KNOWN_TABLES, PICTURES, TABLES
from workers.step import Output, Pipeline, Results, Step

JSON = "application/json"


def feasible(results: Results) -> bool:
    """Return True when the plan step found a network within the budget."""
    return bool(results["plan"]["feasible"])


def gradual(results: Results) -> bool:
    """Return True when the job gets to its plan in steps."""
    return bool(results["score"].get("gradual"))


PRUNE = Pipeline(
    steps=(
        Step(
            name="prepare",
            phase="validating",
            weight=1,
            inputs=("model", "dataset.zip"),
            outputs=(Output(name="dense.onnx"),),
            exclusive=True,
        ),
        Step(
            name="profile",
            phase="profiling",
            weight=3,
            inputs=("model", "dense.onnx"),
            optional_inputs=KNOWN_TABLES,
            outputs=(
                Output(name="table.json", public=True, media_type=JSON),
                *(Output(name=name, public=True, media_type=JSON, optional=True) for name in TABLES[1:]),
                *(Output(name=name, optional=True) for name in PICTURES),
            ),
            exclusive=True,
        ),
        Step(
            name="score",
            phase="scoring",
            weight=1,
            inputs=("model", "dataset.zip"),
            outputs=(Output(name="saliency.npz"),),
            exclusive=True,
        ),
        Step(
            name="gradual",
            phase="scoring",
            weight=4,
            inputs=("model", "dataset.zip", "dense.onnx", "table.json", "saliency.npz"),
            optional_inputs=TABLES[1:],
            outputs=(Output(name="gradual.safetensors"), Output(name="gradual.npz")),
            exclusive=True,
            when=gradual,
        ),
        Step(
            name="plan",
            phase="solving",
            weight=2,
            inputs=("model", "dense.onnx", "table.json", "saliency.npz"),
            optional_inputs=(*TABLES[1:], "gradual.safetensors", "gradual.npz"),
            outputs=(
                Output(name="plan.json", public=True, media_type=JSON),
                Output(name="masks.safetensors"),
                Output(name="carried.safetensors", optional=True),
            ),
            exclusive=True,
        ),
        Step(
            name="reconstruct",
            phase="slimming",
            weight=1,
            inputs=("model", "dataset.zip", "plan.json", "masks.safetensors"),
            optional_inputs=("carried.safetensors",),
            outputs=(Output(name="repaired.safetensors"),),
            exclusive=True,
            when=feasible,
        ),
        Step(
            name="finetune",
            phase="finetuning",
            weight=8,
            inputs=("model", "dataset.zip", "plan.json", "masks.safetensors", "repaired.safetensors"),
            outputs=(Output(name="model.safetensors", public=True),),
            exclusive=True,
            when=feasible,
        ),
        Step(
            name="export",
            phase="exporting",
            weight=1,
            inputs=("model", "dataset.zip", "dense.onnx", "plan.json", "masks.safetensors", "model.safetensors"),
            outputs=(Output(name="model.onnx", public=True), Output(name=COMPACT, public=True, optional=True)),
            exclusive=True,
            when=feasible,
        ),
        Step(
            name="report",
            phase="exporting",
            weight=0.1,
            inputs=("plan.json",),
            optional_inputs=PICTURES,
            outputs=(
                Output(name="report.json", public=True, media_type=JSON),
                Output(name="report.html", public=True, media_type="text/html"),
            ),
        ),
    )
)

BUILD = Pipeline(
    steps=(
        Step(
            name="build_table",
            phase="profiling",
            weight=1,
            inputs=("model",),
            optional_inputs=KNOWN_TABLES[:1],
            outputs=(Output(name=TABLES[0], media_type=JSON),),
            exclusive=True,
        ),
    )
)
"""A latency table of everything a network needs, measured without pruning anything."""
