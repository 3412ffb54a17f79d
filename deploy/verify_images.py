"""`sudo make images`: build the image and run docker-compose.yml for real, on Debian without a docker engine.

    deploy/verify_images.py [packages] [base] [image] [standins] [run] [--torch cpu] [--base IMAGE] [--build-option OPTION]

* `packages` installs buildah, podman and what they need, where they are missing.
* `base` makes what the Dockerfile builds on (mmdebstrap), for machines that reach Debian and no image registry.
* `image` builds the Dockerfile, HEALTHCHECK included (`--format docker`).
* `standins` makes images under the names that docker-compose.yml has for Postgres, the file store and Prometheus, of Debian's
  packages and moto. Leave it out where the real images can be pulled. Grafana has none and is not started.
* `run` starts the services, holds them to what they promise, and removes them with their volumes.
"""

import argparse
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from secateur import Client
from tests.toy_job import CLASSES, SIZE, write_inputs

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("packages", "base", "image", "standins", "run")
PACKAGES = [
    "buildah",
    "podman",
    "podman-compose",
    "runc",
    "mmdebstrap",
    "catatonit",
    "netavark",
    "aardvark-dns",
    "iptables",
]
BASE = "localhost/secateur-base"
STANDINS = ("postgres", "store", "prometheus")
STARTED = ("postgres", "store", "migrate", "api", "worker-0", "worker-1", "prometheus")
PROJECT, URL = "secateur-verify", "http://127.0.0.1:8117"


def main(arguments: Sequence[str]) -> int:
    """Go through the phases and return 0; the first thing that is not as promised ends it with a traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", nargs="*", help=f"some of {', '.join(PHASES)}; all by default")
    parser.add_argument("--torch", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--base", default=BASE, help="image that the Dockerfile and the stand-ins build on")
    parser.add_argument("--suite", default="bookworm", help="Debian release of the base; its Python is the image's")
    parser.add_argument("--build-option", action="append", default=[], help="handed to every buildah build")
    options = parser.parse_args(arguments)
    if unknown := set(options.phase) - set(PHASES):
        parser.error(f"there is no phase {', '.join(unknown)}")
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    build = ["buildah", "build", "--isolation", "chroot", "--format", "docker", "--layers", *options.build_option]
    build += ["--build-arg", f"BASE={options.base}"]
    for phase in options.phase or PHASES:
        say(phase)
        if phase == "packages":
            install()
        elif phase == "base":
            make_base(options.suite, options.base)
        elif phase == "image":
            do([*build, "--build-arg", f"TORCH={options.torch}", "--tag", compose["api"]["image"], "."])
        elif phase == "standins":
            for name in STANDINS:
                file = f"deploy/standins/{name}.Dockerfile"
                do([*build, "--file", file, "--tag", compose[name]["image"], "deploy/standins"])
        else:
            run(compose)
    return 0


def install() -> None:
    """Install Debian's packages that are missing."""
    missing = [
        name for name in PACKAGES if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode
    ]
    if missing:
        do(["apt-get", "update", "--quiet"])
        do(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing])


def make_base(suite: str, name: str) -> None:
    """Make an image of a minimal Debian with Python."""
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/base.tar"
        do(["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", suite, archive])
        container = read(["buildah", "from", "scratch"])
        do(["buildah", "add", "--quiet", container, archive, "/"])
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        do(["buildah", "config", "--env", path, container])
        do(["buildah", "commit", "--quiet", "--rm", container, name])


def run(compose: dict[str, Any]) -> None:
    """Start the services and hold them to what they promise."""
    names = ("POSTGRES_PASSWORD", "STORE_SECRET", "GRAFANA_PASSWORD")
    environ = {**os.environ, **{name: secrets.token_hex(24) for name in names}}
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        # As root podman asks for more than a sandbox may have, itself in a container.
        file.write(
            f'[containers]\ndefault_ulimits = ["nofile={resource.getrlimit(resource.RLIMIT_NOFILE)[1]}", "nproc=4096"]\n'
        )
        file.flush()
        os.environ["CONTAINERS_CONF"] = environ["CONTAINERS_CONF"] = file.name
        started(compose, environ)


def started(compose: dict[str, Any], environ: dict[str, str]) -> None:
    """Start the services, hold them to their promises, and remove them."""

    def podman_compose(*arguments: str) -> None:
        do(["podman-compose", "--project-name", PROJECT, "--file", "docker-compose.yml", *arguments], environ)

    try:
        podman_compose("up", "--detach", "--no-build", *STARTED)
        for name in STARTED:
            if "test" in compose[name]["healthcheck"]:
                wait(f"{name} is healthy", lambda name=name: healthy(name, compose))
        holds("the database is up to date", read(["podman", "wait", container("migrate")]) == "0")
        for name in ("api", "worker-0", "worker-1"):
            hold_confined(name)
        key = administrators_key()
        image = read(["podman", "image", "inspect", "--format", "{{.HealthCheck.Test}}", compose["api"]["image"]])
        holds("the image has a health check of its own", "readyz" in image)
        holds("nobody is let in without a key", status(f"{URL}/v1/prune-jobs") == 401)
        ready = json.loads(fetch(f"{URL}/readyz"))
        holds("both workers are live", ready["num_live_workers"] == 2)
        hold_job(key)
        hold_metrics()
        hold_backup(environ["POSTGRES_PASSWORD"])
        environ["AGENT_KEY"] = inside("api", "secateur", "keys", "create", "agent", "--scope", "agent", key=key)
        podman_compose("up", "--detach", "--no-build", "agent")
        wait("agent is healthy", lambda: healthy("agent", compose))
        hold_stop()
    except (Exception, SystemExit):
        for name in STARTED:
            say(f"the end of {name}'s log:")
            subprocess.run(["podman", "logs", "--tail", "20", container(name)], check=False)
        raise
    finally:
        podman_compose("down", "--volumes")


def hold_confined(name: str) -> None:
    """A container of ours runs as nobody in particular, cannot write its image, and a worker's network leads nowhere."""
    holds(f"{name} is not root", inside(name, "id", "-u") == "10001")
    holds(f"{name} cannot write its image", fails(["podman", "exec", container(name), "touch", "/opt/secateur/x"]))
    holds(f"{name} has no capability", "CapEff:\t0000000000000000" in inside(name, "cat", "/proc/self/status"))
    if name != "api":
        routes = inside(name, "cat", "/proc/net/route").splitlines()[1:]
        holds(f"{name} has no way out", all(line.split()[1] != "00000000" for line in routes))


def hold_job(key: str) -> None:
    """A job goes from upload to report."""
    with tempfile.TemporaryDirectory() as folder, Client(URL, key=key) as client:
        write_inputs(Path(folder))
        shutil.move(f"{folder}/model", f"{folder}/model.onnx")
        model = client.upload_model(f"{folder}/model.onnx", arch="onnx")
        images = client.upload_dataset(f"{folder}/dataset.zip", image_size=SIZE, mean=[0.5] * 3, std=[0.25] * 3)
        training = {"mode": "full", "max_epochs": 1, "max_minutes": 1}
        job = client.submit(
            model_id=model.id, dataset_id=images.id, classes=list(CLASSES[:3]), budget_ratio=0.8, baselines=False,
            finetune=training,
        )  # fmt: skip
        done = job.wait(timeout_s=900)
        holds(f"a job ends, {done.outcome}", done.status == "succeeded")
        job.download(f"{folder}/out")
        holds("its files come back", Path(f"{folder}/out/report.html").stat().st_size > 10_000)


def hold_metrics() -> None:
    """Prometheus finds the API, and knows its figures and our alerts."""
    asked = "http://127.0.0.1:9090/api/v1/"

    def ask(path: str) -> Any:
        return json.loads(inside("prometheus", "wget", "-q", "-O", "-", asked + path))["data"]

    wait("Prometheus reads the API", lambda: ask("query?query=up")["result"][0]["value"][1] == "1")
    wait("it knows of the job", lambda: bool(ask("query?query=secateur_jobs")["result"]))
    holds("it has the alerts", ask("rules")["groups"][0]["name"] == "secateur")


def hold_backup(password: str) -> None:
    """A backup is taken in the image and goes into another, empty database."""
    inside("api", "secateur", "backup", "/data/backup.tar")
    inside("postgres", "createdb", "--host=127.0.0.1", "--username=secateur", "copy", env={"PGPASSWORD": password})
    url = f"postgresql+psycopg://secateur:{password}@postgres:5432/copy"
    restored = inside(
        "api", "secateur", "restore", "/data/backup.tar", env={"SECATEUR_DATABASE_URL": url, "SECATEUR_HOME": "/tmp/copy"}
    )  # fmt: skip
    holds(f"a backup is restored: {restored.splitlines()[-1]}", "postgresql database and" in restored)


def hold_stop() -> None:
    """A worker that is told to stop ends by itself, and the others notice."""
    do(["podman", "stop", "--time", "60", container("worker-1")])
    code = read(["podman", "inspect", "--format", "{{.State.ExitCode}}", container("worker-1")])
    holds("a worker stops by itself", code == "0")
    wait("one worker is left", lambda: json.loads(fetch(f"{URL}/readyz"))["num_live_workers"] == 1)


def administrators_key() -> str:
    """Return the key that the API showed at its first start."""
    shown = subprocess.run(["podman", "logs", container("api")], capture_output=True, text=True, check=True)
    (line,) = (line for line in (shown.stdout + shown.stderr).splitlines() if "administrator's key" in line)
    return line.split()[-1]


def container(name: str) -> str:
    """Return the name of a service's container."""
    return f"{PROJECT}_{name}_1"


def healthy(name: str, compose: dict[str, Any]) -> bool:
    """Ask the health check that compose has for the service; podman asks by itself under systemd alone."""
    kind, *test = compose[name]["healthcheck"]["test"]
    return not fails(["podman", "exec", container(name), *(["sh", "-c"] if kind == "CMD-SHELL" else []), *test])


def inside(name: str, *command: str, key: str = "", env: dict[str, str] | None = None) -> str:
    """Return what a command in a container prints."""
    given = {**({"SECATEUR_API_KEY": key} if key else {}), **(env or {})}
    options = [part for one in given for part in ("--env", one)]
    return read(["podman", "exec", *options, container(name), *command], {**os.environ, **given})


def fetch(url: str) -> bytes:
    """Return what an address answers, as long as it is this machine's."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def status(url: str) -> int:
    """Return the status of an address."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait(what: str, true: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(2)
    holds(what, True)


def holds(what: str, true: bool) -> None:
    """Say that something is as promised, or end."""
    if not true:
        raise SystemExit(f"not so: {what}")
    say(f"  {what}")


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def do(command: Sequence[str], environ: dict[str, str] | None = None) -> None:
    """Run a command that must succeed, its output shown."""
    subprocess.run(command, cwd=ROOT, env=environ, check=True)


def read(command: Sequence[str], environ: dict[str, str] | None = None) -> str:
    """Run a command that must succeed and return what it prints."""
    done = subprocess.run(command, cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def fails(command: Sequence[str]) -> bool:
    """Run a command and return whether it failed."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
