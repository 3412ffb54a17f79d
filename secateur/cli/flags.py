"""The options of `secateur prune`, one name each; defaults are the wire's own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from secateur.schemas import FinetuneOptions, PruneJobCreate, Saliency, ScheduleOptions, Solver

JOB = {name: info.default for name, info in PruneJobCreate.model_fields.items()}
TRAINING = {name: info.default for name, info in FinetuneOptions.model_fields.items()}
STEPWISE = {name: info.default for name, info in ScheduleOptions.model_fields.items()}

_INPUT, _TARGET, _METHOD, _RESULT = "Network and images", "Target", "Method", "Job and result"

ModelFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Weights (.safetensors), an .onnx file, or the id of an uploaded model.",
        show_default=False,
    ),
]

# Network and images

Data = Annotated[
    str,
    typer.Option(
        help="Images: a zip or folder of train/<class>/<image>, or the id of an uploaded dataset.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="torchvision/<name>, timm/<name> or cifar/resnet<depth>[-a|-b]; an .onnx file needs none.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Side in pixels; left out: the network's usual.", rich_help_panel=_INPUT, show_default=False
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        help="imagenet, cifar10, half, none, or six numbers: means, then deviations. "
        "Left out: imagenet for torchvision and timm; others must say.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Means, one per channel; with --std, instead of --normalize.", rich_help_panel=_INPUT, show_default=False
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviations, one per channel.", rich_help_panel=_INPUT, show_default=False),
]
ClassMap = Annotated[
    Path | None,
    typer.Option(
        help="JSON file: class folder to output row of the network, where their order differs.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(help="JSON file: names of the output rows, in order.", rich_help_panel=_INPUT, show_default=False),
]

# Target

Classes = Annotated[
    list[str],
    typer.Option(help="Classes to keep, by name or index: cat,dog,7.", rich_help_panel=_TARGET, show_default=False),
]
Budget = Annotated[
    str,
    typer.Option(
        help="Latency of one batch: 5ms, or 0.5x for half of the dense network's.",
        rich_help_panel=_TARGET,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Device to measure on.", rich_help_panel=_TARGET)]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What runs the network: onnxruntime (left out), openvino, torch_eager, torch_compile, torch_cuda...",
        rich_help_panel=_TARGET,
        show_default=False,
    ),
]
Threads = Annotated[int, typer.Option(help="CPU threads of an inference.", rich_help_panel=_TARGET)]
Batch = Annotated[int, typer.Option(help="Images of an inference.", rich_help_panel=_TARGET)]

Also = Annotated[
    list[str] | None,
    typer.Option(
        help="One more device the same network must keep: BUDGET,runtime=openvino,threads=2,batch=8,device=pixel6 (or analytic/crisp, a model).",
        rich_help_panel=_TARGET,
        show_default=False,
    ),
]
Frontier = Annotated[
    list[str] | None,
    typer.Option(
        help="Further budgets to plan and measure for the report's frontier, in the unit of --budget: 0.4x,0.6x.",
        rich_help_panel=_TARGET,
        show_default=False,
    ),
]
Sweep = Annotated[
    int, typer.Option(help="The same for this many budgets, spread over all that can be had.", rich_help_panel=_TARGET)
]
MaxWeights = Annotated[
    str | None,
    typer.Option(help="Most bytes of weights: 800kB, 5MB.", rich_help_panel=_TARGET, show_default=False),
]
MinWidth = Annotated[
    list[str] | None,
    typer.Option(help="Least channels of a layer: layer1.0.conv1=32.", rich_help_panel=_TARGET, show_default=False),
]
KeepDense = Annotated[
    list[str] | None,
    typer.Option(help="Layers that keep all their channels.", rich_help_panel=_TARGET, show_default=False),
]

# Method

SolverName = Annotated[
    Solver, typer.Option(help="secateur is the optimal one; the others are for comparison.", rich_help_panel=_METHOD)
]
Patterns = Annotated[
    Literal["none", "auto", "only"],
    typer.Option(
        help="auto: narrow, masked and dense layers as the device pays; only: masks alone.", rich_help_panel=_METHOD
    ),
]
PatternChoices = Annotated[
    list[str] | None,
    typer.Option(
        help="Masks on offer, left out: a usual few. 64x1@1/4,2:4v+64x64@1/2",
        rich_help_panel=_METHOD,
        show_default=False,
    ),
]
RemoveStages = Annotated[
    bool, typer.Option(help="Let whole residual branches go where it pays.", rich_help_panel=_METHOD)
]

SaliencyName = Annotated[
    Saliency,
    typer.Option(
        help="What says which channels to keep. For comparison: other_classes (cass on the classes you do not name), random.",
        rich_help_panel=_METHOD,
    ),
]
Schedule = Annotated[
    Literal["one_shot", "gradual"],
    typer.Option(help="gradual: in steps, scored anew and trained a little in between.", rich_help_panel=_METHOD),
]
ScheduleSteps = Annotated[int, typer.Option(help="Steps of a gradual job.", rich_help_panel=_METHOD)]
ScheduleBatches = Annotated[
    int, typer.Option(help="Mini-batches of training between two steps.", rich_help_panel=_METHOD)
]
Mode = Annotated[
    Literal["full", "reconstruct", "none"],
    typer.Option(
        help="full: least squares, then training; reconstruct: least squares alone; none: as cut.",
        rich_help_panel=_METHOD,
    ),
]
Epochs = Annotated[int, typer.Option(help="Most epochs of training.", rich_help_panel=_METHOD)]
Minutes = Annotated[float, typer.Option(help="Most minutes of training.", rich_help_panel=_METHOD)]
TrainBatch = Annotated[int, typer.Option(help="Images of a training step.", rich_help_panel=_METHOD)]
Head = Annotated[
    Literal["slice", "mask", "full"],
    typer.Option(
        help="Outputs: slice leaves your classes' alone, mask silences the others, full keeps all.",
        rich_help_panel=_METHOD,
    ),
]
Baselines = Annotated[
    bool, typer.Option(help="Also plan with random saliency and with uniform widths.", rich_help_panel=_METHOD)
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=_METHOD)]

# Job and result

Priority = Annotated[
    int, typer.Option(min=-10, max=10, help="Jobs of a higher priority go first.", rich_help_panel=_RESULT)
]
TimeoutMinutes = Annotated[
    float | None,
    typer.Option(help="Fail the job when it has run for longer.", rich_help_panel=_RESULT, show_default=False),
]
After = Annotated[
    list[str] | None,
    typer.Option(help="Run after these jobs and table builds: ID,ID", rich_help_panel=_RESULT, show_default=False),
]
JobName = Annotated[str, typer.Option("--name", help="Name of the job.", rich_help_panel=_RESULT, show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Save the result in this folder.", rich_help_panel=_RESULT, show_default=False),
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Submit, print the job's id and leave.", rich_help_panel=_RESULT)
]
Check = Annotated[bool, typer.Option("--check", help="Upload and check, but start no job.", rich_help_panel=_RESULT)]
