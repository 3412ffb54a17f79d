"""Write the network for its device, prove the file equal to the network, and measure it for the verdict."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lut.measure.runtime import Program
from lut.pattern import Pattern
from pruning.evaluate import accuracy
from pruning.export import num_macs, num_parameters, onnx_error, to_onnx, weight_bytes
from pruning.lower.rewrite import lower
from pruning.modelled import modelled
from pruning.network import Network
from workers.context import StepContext, StepProblem
from workers.steps.compact import compact
from workers.steps.loading import dense_network, head_rows, job_images, weights
from workers.steps.planned import MAIN, chosen_plans, plan_masks, slimmed
from workers.steps.targets import Target, dense_program, targets

MAX_RELATIVE_ERROR = 1e-4
"""Largest difference of logits between PyTorch and the ONNX file, relative to the largest logit where that is above 1."""
VERDICT_SHARE = 2.0
"""Of the least time that a network of the search is run: the verdict is measured for longer."""
TRIES = 4
PAUSE_S = 5.0
DRIFT = 0.03
"""A dense network this much slower than at the job's start shows a machine that is busy with something else."""


def run(context: StepContext) -> dict[str, Any]:
    """Return the verdict and the slimmed network's figures; leave `model.onnx` and, where it has masks, its compact form."""
    prepared, job = context.spec["results"]["prepare"], context.spec["job"]
    dense = dense_network(context)
    masks, plan = plan_masks(context, MAIN), chosen_plans(context)[MAIN]
    patterns = {name: Pattern.parse(one) for name, one in plan["patterns"].items()}
    network, _ = slimmed(dense, plan, masks)
    network.module.load_state_dict(weights(context.path("model.safetensors")), strict=False)
    lowered = lower(network, masks)
    path = context.path("model.onnx")
    to_onnx(lowered, path, batch=job["batch"])
    # Against the masked network, not the lowered one: this holds the lowering as well as the file.
    error = onnx_error(network, path)
    if not error.relative <= MAX_RELATIVE_ERROR:
        detail = f"The ONNX file's logits differ from the network's by {error.max_abs:g}; the largest is {error.largest_logit:g}."
        raise StepProblem("export_differs", detail)
    storage = compact(context, network, masks, patterns)
    data = job_images(context, dense)
    score = accuracy(network, data.reported, head_rows(context))
    context.phase("measuring")
    measured, *others = verdicts(context, dense, lowered)
    num_bytes, limit = weight_bytes(path), job["max_weight_bytes"]
    met = all(one["p50_ms"] <= one["budget_ms"] for one in (measured, *others))
    outcome = "budget_met" if met and (limit is None or num_bytes <= limit) else "budget_missed"
    slim = {
        **measured,
        "accuracy": score.overall,
        "per_class": list(score.per_class),
        "num_macs": num_macs(lowered),
        "num_parameters": num_parameters(lowered),
        "weight_bytes": num_bytes,
        "size_bytes": path.stat().st_size,
        "onnx_max_abs_error": error.max_abs,
    }
    summary = {
        "budget_ms": measured["budget_ms"],
        "dense_ms": measured["dense_p50_ms"],
        "measured_ms": measured["p50_ms"],
        "accuracy": score.overall,
        "num_macs": slim["num_macs"],
        "num_macs_dense": prepared["dense"]["num_macs"],
        "per_class": dict(zip(prepared["classes"], score.per_class, strict=True)),
        "per_class_dense": dict(zip(prepared["classes"], prepared["dense"]["per_class"], strict=True)),
    }
    return {
        "outcome": outcome,
        "slim": slim,
        "others": others,
        "storage": storage,
        "modelled": asdict(modelled(dense, network, patterns, job["batch"])),
        "summary": summary,
    }


def verdicts(context: StepContext, dense: Network, network: Network) -> list[dict[str, Any]]:
    """Return the verdict on every device this worker can measure on, the job's own first."""
    found = []
    for target, before in zip(targets(context), context.spec["results"]["prepare"]["devices"], strict=True):
        if target.here:
            path = context.path("model.onnx")
            if target.index:
                path = context.path(f"model_{target.index}.onnx")
                to_onnx(network, path, batch=target.profile.batch)
            networks = [dense_program(context, dense, target), target.program(network, path)]
            found.append(verdict(context, target, networks, before["p50_ms"]))
    return found


def verdict(context: StepContext, target: Target, networks: Sequence[Program], dense_ms: float) -> dict[str, Any]:
    """Measure the slimmed network, interleaved with the dense one, and return its latency and the budget it is held against.

    A budget in ms is what it is; a budget that is a share of the dense latency is that share of the dense latency *in this run*, so
    that a machine that got slower since the job began treats both alike. A missed budget is measured again while the dense network
    shows that the machine is busy, or the miss is as small as the drift; every try is reported, and the last one counts.
    """
    tries: list[dict[str, float]] = []
    while True:
        dense, slim = target.meter.networks(networks, share=VERDICT_SHARE)
        budget_ms = target.limit_ms(dense.p50_ms)
        tries.append({"p50_ms": slim.p50_ms, "dense_p50_ms": dense.p50_ms, "budget_ms": budget_ms})
        context.metric(measured_ms=slim.p50_ms, dense_ms=dense.p50_ms, budget_ms=budget_ms)
        busy = dense.p50_ms > dense_ms * (1 + DRIFT) or slim.p50_ms <= budget_ms * (1 + DRIFT)
        if slim.p50_ms <= budget_ms or not busy or len(tries) == TRIES:
            break
        context.log(f"{slim.p50_ms:.4g} ms is over the budget, but the machine looks busy: measuring again.")
        time.sleep(PAUSE_S * len(tries))
    if slim.p50_ms > budget_ms and dense.p50_ms > dense_ms * (1 + DRIFT):
        context.warning(
            "machine_got_slower",
            f"The dense network now takes {dense.p50_ms:.4g} ms, it took {dense_ms:.4g} ms when the job began: "
            "the machine is busy with something else. Retry the job when it is not.",
        )
    return {
        "index": target.index,
        "p50_ms": slim.p50_ms,
        "p90_ms": slim.p90_ms,
        "num_samples": slim.num_samples,
        "budget_ms": budget_ms,
        "dense_p50_ms": dense.p50_ms,
        "dense_p90_ms": dense.p90_ms,
        "tries": tries,
    }
