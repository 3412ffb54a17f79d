"""Ticks, with a checkpoint after each tick, and misbehaves as the job asks."""

import ctypes
import json
import logging
import os
import signal
import subprocess
import time
from typing import Any

from toy_steps import ledger
from workers.context import StepContext, StepProblem


def run(context: StepContext) -> dict[str, Any]:
    """Tick `ticks` times, `tick_s` apart."""
    toy = ledger.toy(context.spec["job"])
    checkpoint = context.path("state/checkpoint.json")
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"done": 0, "sum": 0}
    done = state["done"]
    ledger.write(context.spec["job"], "work", "from", done)
    misbehave(context, toy.get("act", ""))
    for tick in range(done, toy["ticks"]):
        hold(context, tick)
        time.sleep(toy["tick_s"])
        ledger.write(context.spec["job"], "tick", tick)
        checkpoint.parent.mkdir(exist_ok=True)
        state = {"done": tick + 1, "sum": added(state["sum"], tick)}
        checkpoint.write_text(json.dumps(state))
        context.checkpoint(checkpoint, tick=tick, loss=float("nan"))
        context.progress((tick + 1) / toy["ticks"])
    hold(context, toy["ticks"])
    context.path("work.json").write_text(json.dumps({"ticks": toy["ticks"], "sum": state["sum"]}))
    ledger.write(context.spec["job"], "worked")
    return {"ticks": toy["ticks"], "summary": {"measured_ms": 1.25}}


def added(total: int, tick: int) -> int:
    """Return the sum with one tick more; it tells a tick that is missing, was made twice or out of turn."""
    return (total * 31 + tick + 1) % 1_000_000_007


def hold(context: StepContext, tick: int) -> None:
    """The first run that comes to the tick `hold` stays there: to be killed, or with the act `gate` until it may go on."""
    job, deadline = context.spec["job"], time.monotonic() + 60
    toy = ledger.toy(job)
    if tick != toy["hold"] or ledger.has(job, "held"):
        return
    ledger.write(job, "held")
    while time.monotonic() < deadline and not (toy.get("act") == "gate" and ledger.has(job, "go")):
        time.sleep(0.05)


def misbehave(context: StepContext, act: str) -> None:
    """Fail in the way the job asks for."""
    match act:
        case "problem":
            raise StepProblem("bad_labels", "Label 7 is not a class.", [{"pointer": "/classes", "detail": "7"}])
        case "raise":
            print("to be or not to be")
            raise ZeroDivisionError("the last words")
        case "talk":
            logging.getLogger("toy").warning("a record of a %s", "library")
            print("a line on stdout")
        case "segfault":
            ctypes.string_at(0)
        case "stall":
            time.sleep(60)
        case "kill_worker":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case "grandchild":
            child = subprocess.Popen(["sleep", "60"])
            ledger.write(context.spec["job"], "grandchild", child.pid)
        case "environment":
            names = [name for name in os.environ if "SECATEUR" in name or "SECRET" in name or "DATABASE" in name]
            ledger.write(context.spec["job"], "environment", *names)
