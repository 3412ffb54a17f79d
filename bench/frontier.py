"""`python -m bench frontier --data ZIP --weights FILE --arch NAME --classes A,B [--methods NAME...] [--json]`: methods side by side.

Each method, budget and seed is one prune job on a service started here: measured on this machine, fine-tuned alike, judged on
images that chose nothing. All jobs share the service, so the latency table is measured once. A line per job, then means over seeds.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.demo import OUT, serve
from secateur import Client, Job
from secateur.cli.options import parse_normalization

METHODS: dict[str, dict[str, Any]] = {
    "auto": {"patterns": "auto"},
    "channels": {"patterns": "none"},
    "patterns": {"patterns": "only"},
    "halp": {"solver": "halp", "saliency": "bn_taylor"},
    "uniform": {"solver": "uniform"},
    "random": {"solver": "secateur", "saliency": "random"},
}
STAGES = {"as cut": "accuracy_cut", "after least squares": "accuracy_repaired"}
SHOWN = ("dense_ms", "measured_ms", "accuracy_dense", "accuracy_cut", "accuracy_repaired", "accuracy")


def main(arguments: Sequence[str]) -> int:
    """Run all jobs, one after another; return 1 when one failed or missed a budget it could meet, else 0."""
    options = _parser().parse_args(arguments)
    OUT.mkdir(exist_ok=True)
    server, url = serve(OUT / "frontier-home")
    rows = []
    try:
        with Client(url) as client:
            for row in _rows(client, options):
                rows.append(row)
                print(json.dumps(row) if options.json else _line(row), flush=True)
    finally:
        server.terminate()
        server.wait()
    if not options.json:
        print("", *summary(rows), sep="\n")
    return int(any(row["outcome"] not in ("budget_met", "infeasible") for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench frontier", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder zip")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors or .onnx")
    parser.add_argument("--arch", default="onnx", help="torchvision/<name>, timm/<name>, cifar/resnet<depth>")
    parser.add_argument("--classes", required=True, help="class folders, comma-separated")
    parser.add_argument("--class-map", type=Path, help="JSON: output row of each class folder")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--normalize", default="imagenet")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["auto", "channels", "patterns"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.33], help="shares of the dense latency")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0: least squares alone")
    parser.add_argument("--batch-size", type=int, default=64, help="of fine-tuning")
    parser.add_argument("--choices", nargs="+", help="patterns on offer, such as 64x1@1/4")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _rows(client: Client, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    model = client.upload_model(options.weights, arch=options.arch)
    normalization = parse_normalization(options.normalize, None, None, arch=options.arch)
    class_map = json.loads(options.class_map.read_text()) if options.class_map else None
    data = client.upload_dataset(
        options.data, image_size=options.image_size, mean=normalization.mean, std=normalization.std, class_map=class_map
    )
    training = {"mode": "full", "max_epochs": options.epochs, "max_minutes": 1e4, "batch_size": options.batch_size}
    common = {
        "model_id": model.id,
        "dataset_id": data.id,
        "classes": options.classes.split(","),
        "baselines": False,
        "finetune": training if options.epochs else {"mode": "reconstruct"},
        **({"pattern_choices": options.choices} if options.choices else {}),
    }
    for seed, budget, method in product(options.seeds, options.budgets, options.methods):
        start = time.monotonic()
        job = client.submit(**common, **METHODS[method], seed=seed, budget_ratio=budget)
        job.wait(check=False)
        found = job.report() if job.outcome else {}
        head = {
            "method": method,
            "arch": options.arch,
            "classes": len(common["classes"]),
            "budget": budget,
            "seed": seed,
        }
        yield head | {"epochs": options.epochs, **_figures(job, found), "seconds": time.monotonic() - start}


def _figures(job: Job, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report's headline figures; null, with a reason, where the job has none."""
    slim, dense = report.get("slim"), report.get("dense")
    if not slim or not dense:
        least = report.get("min_achievable_ms")
        reason = f"the least achievable is {least:.3g} ms" if least else "the job failed"
        return {"outcome": job.outcome, **dict.fromkeys(SHOWN), "per_class": None, "reason": reason}
    return {
        "outcome": job.outcome,
        "dense_ms": job.summary["dense_ms"],  # of the run in which the slimmed network was measured
        "measured_ms": job.summary["measured_ms"],
        "accuracy_dense": dense["accuracy"],
        **{STAGES[stage["name"]]: stage["accuracy"] for stage in report["stages"] if stage["name"] in STAGES},
        "accuracy": slim["accuracy"],
        "per_class": slim["per_class"],
        "macs": slim["num_macs"],
        "size_bytes": slim["size_bytes"],
        "patterns": report["patterns"],
    }


def _line(row: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{name} {row[name]:.4g}" for name in SHOWN if row.get(name) is not None)
    return f"{row['method']} at {row['budget']}, seed {row['seed']}: {row['outcome']} {figures or row['reason']}, {row['seconds']:.0f} s"


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table: of each method and budget the worst latency and the means over seeds."""
    lines = ["| method | budget | jobs | measured / dense | least squares | fine-tuned |", "|---|---|---|---|---|---|"]
    for method, budget in dict.fromkeys((row["method"], row["budget"]) for row in rows):
        own = [
            row for row in rows if (row["method"], row["budget"]) == (method, budget) and row["accuracy"] is not None
        ]
        if not own:
            lines.append(f"| {method} | {budget} | 0 | infeasible | - | - |")
            continue
        share = max(row["measured_ms"] / row["dense_ms"] for row in own)
        repaired, tuned = (_spread([row[name] for row in own]) for name in ("accuracy_repaired", "accuracy"))
        lines.append(f"| {method} | {budget} | {len(own)} | {share:.3f} | {repaired} | {tuned} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard error."""
    error = f" +- {stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{error}"
