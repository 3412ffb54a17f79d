"""Gather what the steps found into one report, as JSON and as a page."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lut.analytic import RUNTIME
from lut.measure.memory import TUNABLES, VARIABLE
from pruning.report import build_report, render_html
from secateur import __version__
from workers.context import StepContext
from workers.files import PICTURES
from workers.steps.planned import MAIN, plan_content

LIBRARIES = ("torch", "onnxruntime", "ortools")
SIDE = ("p50_ms", "p90_ms", "num_samples", "accuracy", "per_class", "num_macs", "num_parameters", "size_bytes")
SLIM_SIDE = (*SIDE, "weight_bytes")
STEP = ("step", "budget_ms", "predicted_ms", "num_units", "num_masked", "loss", "seconds")
BASELINE_NOTES = {
    MAIN: "This job's plan.",
    "random_saliency": "The same solver, with random saliency.",
    "uniform_widths": "The same share of every coupling group.",
    "channels_only": "The same solver and saliency, without patterns.",
    "first_plan": "The knapsack's first choice: worse on the selection split than this job's plan.",
    "patterns_at_half": "As the first plan; what patterns lose counts half.",
    "patterns_at_quarter": "As the first plan; what patterns lose counts a quarter.",
}


def run(context: StepContext) -> dict[str, Any]:
    """Leave `report.json` and `report.html`."""
    plan = plan_content(context)
    report = build_report(**fields(context.spec, plan))
    context.path("report.json").write_text(json.dumps(report, allow_nan=False, indent=1))
    pictures = [context.path(name) for name in PICTURES]
    shown = [path.read_bytes() for path in pictures if path.exists()]
    context.path("report.html").write_text(render_html(report, shown))
    return {"summary": {"verdict": report["verdict"]}}


def fields(spec: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the report; those of steps that did not run are left out."""
    results, job, profile = spec["results"], spec["job"], spec["profile"]
    prepared, main = results["prepare"], plan["plans"][MAIN]
    chosen, exported = main["chosen"], results.get("export")
    training = (results.get("finetune") or {}).get("training")
    return {
        "title": job.get("name")
        or f"{spec['model'].get('name', spec['model']['arch'])}: {', '.join(prepared['classes'][:8])}",
        "outcome": exported["outcome"] if exported else "infeasible",
        "budget_ms": exported["slim"]["budget_ms"] if exported else prepared["budget_ms"],
        "min_achievable_ms": plan["min_achievable_ms"],
        "model": {key: spec["model"].get(key) for key in ("name", "arch", "sha256")},
        "device": _device(profile),
        "classes": prepared["classes"],
        "class_map_source": prepared["class_map"]["source"],
        "reported_split": _split(prepared["splits"]["reported"]),
        "selection_split": _split(prepared["splits"]["selection"]),
        "dense": _dense(prepared["dense"], exported),
        "slim": {key: exported["slim"][key] for key in SLIM_SIDE} if exported else None,
        "stages": _stages(results),
        "attempts": [
            {key: attempt[key] for key in ("predicted_ms", "measured_ms", "p90_ms", "correction", "value", "chosen")}
            for attempt in main["attempts"]
        ],
        "widths": [
            {
                "group": name,
                "units": group["units"],
                "kept": chosen["widths"].get(name, group["units"]) if chosen else group["units"],
                "reason": group["frozen"],
            }
            for name, group in plan["groups"].items()
        ],
        "removed": list(chosen["removed"]) if chosen else [],
        "patterns": [
            {"layer": layer, "pattern": pattern} for layer, pattern in chosen["patterns"].items() if pattern != "dense"
        ]
        if chosen
        else [],
        "solver": {
            "name": main["solver"],
            **{key: chosen[key] for key in ("status", "value", "bound", "gap", "seconds")},
        }
        if chosen
        else None,
        "baselines": [_baseline(name, found, results) for name, found in plan["plans"].items()] if exported else [],
        "limits": [_limit(row, exported) for row in plan["budgets"]],
        "frontier": _frontier(plan),
        **{key: (exported or {}).get(key) for key in ("storage", "modelled")},
        "schedule": [{key: row.get(key) for key in STEP} for row in results.get("gradual", {}).get("history", ())],
        "training": _training(training) if training else None,
        "warnings": [warning for result in results.values() for warning in result.get("warnings", [])],
        "seconds": {
            "latency table": results["profile"]["seconds"],
            "solver": sum(attempt["seconds"] for attempt in main["attempts"]),
            "training": training["seconds"] if training else None,
        },
        "onnx_max_abs_error": exported["slim"]["onnx_max_abs_error"] if exported else None,
        "provenance": _provenance(spec),
    }


def _dense(dense: Mapping[str, Any], exported: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the dense network's figures; its latency is the one that was measured in turns with the slimmed network's."""
    figures = {key: dense[key] for key in SIDE}
    if exported:
        figures |= {"p50_ms": exported["slim"]["dense_p50_ms"], "p90_ms": exported["slim"]["dense_p90_ms"]}
    return figures


def _split(split: Mapping[str, Any]) -> str:
    return f"{split['source']}: {split['num_images']:,} images"


def _stages(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the accuracy at each point of the repair."""
    dense = results["prepare"]["dense"]
    stages = [{"name": "dense", "accuracy": dense["accuracy"], "per_class": dense["per_class"]}]
    if "reconstruct" in results:
        repaired = results["reconstruct"]["plans"][MAIN]
        stages.append({"name": "as cut", "accuracy": repaired["accuracy_cut"]})
        stages.append({"name": "after least squares", "accuracy": repaired["accuracy_repaired"]})
    if "export" in results:
        slim = results["export"]["slim"]
        stages.append({"name": "at the end", "accuracy": slim["accuracy"], "per_class": slim["per_class"]})
    return stages


def _baseline(name: str, found: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    figures = results["reconstruct"]["plans"].get(name, {})
    return {
        "name": name.replace("_", " "),
        "measured_ms": found["chosen"]["measured_ms"] if found["chosen"] else None,
        "accuracy_cut": figures.get("accuracy_cut"),
        "accuracy_reconstructed": figures.get("accuracy_repaired"),
        "note": BASELINE_NOTES[name] if found["chosen"] else "Found no network within the budget.",
    }


def _limit(row: Mapping[str, Any], exported: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a further budget, with what the finished network was measured to take where it was."""
    figures = {key: row.get(key) for key in ("limit", "min_achievable", "planned", "measured", "dense")}
    if "profile" not in row:
        measured = exported["slim"]["weight_bytes"] if exported else None
        return {"name": "weights", "unit": "bytes", **figures, "measured": measured}
    for one in (exported or {}).get("others", ()):
        if row["id"] == f"latency_ns:{one['index']}":
            figures |= {"measured": one["p50_ms"], "limit": one["budget_ms"], "dense": one["dense_p50_ms"]}
    profile = row["profile"]
    if profile["runtime"] == RUNTIME:
        return {"name": f"{row['device']}, a model, batch {profile['batch']}", "unit": "ms", **figures}
    threads = "1 thread" if profile["threads"] == 1 else f"{profile['threads']} threads"
    return {"name": f"{row['device']}, {threads}, batch {profile['batch']}", "unit": "ms", **figures}


def _device(profile: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("hardware", "runtime", "runtime_version", "threads", "batch", "dtype")
    memory = {"memory": f"huge pages: run the network with {VARIABLE}={TUNABLES}"} if profile["huge_pages"] else {}
    return {key: profile[key] for key in keys} | memory


def _frontier(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the frontier's points with the job's own plan among them, by budget; empty where none was asked for."""
    keys = ("budget_ms", "status", "predicted_ms", "measured_ms", "p90_ms", "value_share", "gap")
    points = [{key: point[key] for key in keys if key in point} for point in plan["frontier"]]
    chosen = plan["plans"][MAIN]["chosen"]
    if not points or chosen is None:
        return points
    own = {"budget_ms": plan["budget_ms"], "own": True, **{key: chosen[key] for key in keys if key in chosen}}
    return sorted([*points, own], key=lambda point: float(point["budget_ms"]))


def _training(training: Mapping[str, Any]) -> dict[str, Any]:
    epochs = [
        {key: row[key] for key in ("epoch", "accuracy", "loss", "train_loss", "seconds")} for row in training["history"]
    ]
    return {
        "epochs": epochs,
        **{key: training[key] for key in ("best_epoch", "learning_rate", "precision", "seconds", "diverged")},
    }


def _provenance(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed, the inputs' checksums and the versions that made the result."""
    checksums = {f"{name} sha256": spec[name].get("sha256") for name in ("model", "dataset")}
    versions = {library: version(library) for library in LIBRARIES}
    return {"seed": spec["job"]["seed"], **checksums, "secateur": __version__, **versions}
