"""`secateur prune`: upload, submit, follow, show, save, in one command."""

from pathlib import Path

import typer

from secateur.cli import flags
from secateur.cli.common import SERVER, ExitCode, Json, Server, connect, exit_code, say, say_json, show_table, table
from secateur.cli.flags import JOB, STEPWISE, TRAINING
from secateur.cli.inputs import Inputs
from secateur.cli.options import (
    parse_also,
    parse_budget,
    parse_frontier,
    parse_size,
    parse_widths,
    read_json,
    resolve_classes,
    split_classes,
    split_names,
)
from secateur.cli.result import print_result
from secateur.cli.watching import watch_job
from secateur.client import Client
from secateur.errors import UsageError
from secateur.jobs import job_spec
from secateur.schemas import Preflight, PruneJobCreate


def prune(
    model: flags.ModelFile,
    data: flags.Data,
    classes: flags.Classes,
    budget: flags.Budget,
    arch: flags.Arch = None,
    image_size: flags.ImageSize = None,
    normalize: flags.Normalize = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    class_map: flags.ClassMap = None,
    class_names: flags.ClassNames = None,
    device: flags.Device = JOB["device"],
    runtime: flags.Runtime = None,
    threads: flags.Threads = JOB["threads"],
    batch: flags.Batch = JOB["batch"],
    also: flags.Also = None,
    frontier: flags.Frontier = None,
    sweep: flags.Sweep = JOB["sweep"],
    max_weights: flags.MaxWeights = None,
    min_width: flags.MinWidth = None,
    keep_dense: flags.KeepDense = None,
    remove_stages: flags.RemoveStages = JOB["remove_stages"],
    patterns: flags.Patterns = JOB["patterns"],
    pattern_choices: flags.PatternChoices = None,
    solver: flags.SolverName = JOB["solver"],
    saliency: flags.SaliencyName = JOB["saliency"],
    schedule: flags.Schedule = STEPWISE["mode"],
    schedule_steps: flags.ScheduleSteps = STEPWISE["steps"],
    schedule_batches: flags.ScheduleBatches = STEPWISE["batches"],
    mode: flags.Mode = TRAINING["mode"],
    epochs: flags.Epochs = TRAINING["max_epochs"],
    minutes: flags.Minutes = TRAINING["max_minutes"],
    train_batch: flags.TrainBatch = TRAINING["batch_size"],
    head: flags.Head = JOB["head"],
    baselines: flags.Baselines = JOB["baselines"],
    seed: flags.Seed = JOB["seed"],
    name: flags.JobName = "",
    priority: flags.Priority = JOB["priority"],
    timeout_minutes: flags.TimeoutMinutes = None,
    after: flags.After = None,
    out: flags.Out = None,
    detach: flags.Detach = False,
    check: flags.Check = False,
    server: Server = SERVER,
    json: Json = False,
) -> None:
    """Prune a network to a latency budget for some classes, and wait for the result.

    secateur prune resnet50.safetensors --arch torchvision/resnet50 --data pets.zip --classes cat,dog --budget 0.5x
    """
    if out is not None and (detach or check):
        raise UsageError("--out saves a result, and --detach and --check leave before there is one")
    training = {"mode": mode, "max_epochs": epochs, "max_minutes": minutes, "batch_size": train_batch}
    target = parse_budget(budget)
    fields = {
        "name": name,
        "model_id": "-",  # known after the uploads; everything else is checked before them
        "dataset_id": "-",
        "classes": split_classes(classes),
        "device": device,
        "runtime": runtime,
        "threads": threads,
        "batch": batch,
        "also": parse_also(also),
        "budgets": parse_frontier(frontier, target),
        "sweep": sweep,
        "max_weight_bytes": parse_size(max_weights),
        "min_widths": parse_widths(min_width),
        "keep_dense": split_names(keep_dense),
        "remove_stages": remove_stages,
        "patterns": patterns,
        **({"pattern_choices": split_names(pattern_choices)} if pattern_choices else {}),
        "solver": solver,
        "saliency": saliency,
        "schedule": {"mode": schedule, "steps": schedule_steps, "batches": schedule_batches},
        "head": head,
        "baselines": baselines,
        "seed": seed,
        "finetune": training,
        "priority": priority,
        "timeout_minutes": timeout_minutes,
        "after": split_names(after),
    }
    spec = job_spec(None, fields | target)
    inputs = Inputs(
        model=model,
        arch=arch,
        class_names=read_json("--class-names", class_names, list),
        data=data,
        image_size=image_size,
        normalize=normalize,
        mean=mean,
        std=std,
        class_map=read_json("--class-map", class_map, dict),
    )
    inputs.check()
    with connect(server) as client:
        stored, images = inputs.store(client, quiet=json)
        kept = resolve_classes(split_classes(classes), images.classes)
        spec = spec.model_copy(update={"model_id": stored.id, "dataset_id": images.id, "classes": kept})
        code = _check(client, spec, json=json) if check else _run(client, spec, out=out, detach=detach, json=json)
    raise typer.Exit(code)


def _run(client: Client, spec: PruneJobCreate, *, out: Path | None, detach: bool, json: bool) -> ExitCode:
    """Submit the job and, unless detached, stay with it to its end."""
    job = client.submit(spec)
    if detach:
        if json:
            say_json(job.state)
        else:
            typer.echo(job.id)
            say(f"follow it with: secateur watch {job.id}")
        return ExitCode.MET
    if json:
        say_json({"kind": "submitted", "job": job.state}, line=True)
    else:
        say(f"job {job.id}")
    job.state = watch_job(client, job.id, json=json)
    code = exit_code(job.state)
    saved = (
        job.download(out) if out is not None and code in (ExitCode.MET, ExitCode.MISSED, ExitCode.INFEASIBLE) else []
    )
    if json:
        say_json({"kind": "result", "job": job.state, "files": [str(path) for path in saved]}, line=True)
        return code
    print_result(job)
    if saved:
        say(f"saved in {out}: {', '.join(path.name for path in saved)}")
    elif code in (ExitCode.MET, ExitCode.MISSED):
        say(f"save the network and its report with: secateur download {job.id}")
    return code


def _check(client: Client, spec: PruneJobCreate, *, json: bool) -> ExitCode:
    """Print what the job would meet."""
    preflight = client.validate(spec)
    if json:
        say_json(preflight)
    else:
        _print_preflight(preflight)
    return ExitCode.MET if preflight.ok else ExitCode.FAILED


def _print_preflight(preflight: Preflight) -> None:
    share = 100 * preflight.prunable_latency_share
    typer.echo(f"{preflight.num_coupling_groups} coupling groups hold {share:.0f} % of the latency.")
    if preflight.dense_ms is not None:
        typer.echo(f"The dense network takes {preflight.dense_ms:.3f} ms.")
    if preflight.min_achievable_ms is not None:
        typer.echo(f"The least that can be reached is {preflight.min_achievable_ms:.3f} ms.")
    rows = (
        [
            found.severity,
            found.layer or "",
            "" if found.latency_share is None else f"{100 * found.latency_share:.1f} %",
            found.detail,
        ]
        for found in preflight.blockers
    )
    if preflight.blockers:
        show_table(table(["", "LAYER", "SHARE", "WHAT"], rows, right=["SHARE"]))
    typer.echo("The job can run." if preflight.ok else "The job cannot run as it is.")
