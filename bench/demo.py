"""The main job over HTTP, for real: start the service, submit, wait, print the table, leave the artifacts in `demo-out/`.

Without arguments it uses what a fresh machine has: scikit-learn's handwritten digits and a CIFAR-style ResNet-20 trained here.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

OUT = Path("demo-out")
IMAGE_SIZE = 32
TEST_SHARE = 5
"""Every fifth digit goes into `test/`."""
TRAINING_S = 60.0
MAX_EPOCHS = 24
ARCH = "cifar/resnet20"


def main(argv: Sequence[str]) -> int:
    """Run the demo and return the exit code of `secateur prune` (0 met, 3 missed, 4 infeasible)."""
    args, more = _parser().parse_known_args(argv)
    OUT.mkdir(exist_ok=True)
    if args.data is None:
        images, labels = digits()
        args.data = write_zip(images, labels, OUT / "digits.zip")
        args.weights = train(images, labels, OUT / "resnet20-digits.safetensors")
        args.arch, args.classes, more = ARCH, args.classes or "3,5,8", ["--minutes", "1.5", *more]
        normalize = ["--normalize", "half"]
    else:
        if not args.weights or not args.classes:
            raise SystemExit("DATA= wants WEIGHTS= and CLASSES= too, and ARCH= unless the weights are an .onnx file")
        normalize = [] if {"--normalize", "--mean"} & set(more) else ["--normalize", "imagenet"]
    command = ["prune", str(args.weights), "--data", str(args.data), "--classes", args.classes, "--budget", args.budget]
    command += ["--arch", args.arch] if args.arch else []
    command += ["--out", str(OUT), *(["--json"] if args.json else []), *normalize, *more]
    server, url = serve(OUT / "home")
    try:
        return subprocess.run([sys.executable, "-m", "secateur", *command, "--server", url], check=False).returncode
    finally:
        server.terminate()
        server.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="ImageFolder zip; left out: handwritten digits")
    parser.add_argument("--arch", help="torchvision/<name>, timm/<name>, cifar/resnet<depth>")
    parser.add_argument("--weights", type=Path, help="safetensors or .onnx")
    parser.add_argument("--classes", help="cat,dog,horse")
    parser.add_argument("--budget", default="0.5x", help="5ms, or 0.5x for half of the dense latency")
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout, nothing else")
    return parser


def say(text: str) -> None:
    """Tell on stderr, so that stdout stays the job's."""
    print(text, file=sys.stderr, flush=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 digits as uint8 [n, 32, 32, 3], smoothly enlarged, and their labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bundle = load_digits()
    small = [Image.fromarray((image / 16 * 255).astype(np.uint8)).convert("RGB") for image in bundle.images]
    big = [np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)) for image in small]
    return np.stack(big), bundle.target


def write_zip(images: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Write an ImageFolder zip with `train/` and `test/`."""
    from PIL import Image

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            split = "test" if number % TEST_SHARE == 0 else "train"
            archive.writestr(f"{split}/{label}/{number:04d}.png", buffer.getvalue())
    return path


def train(images: np.ndarray, labels: np.ndarray, path: Path, max_epochs: int = MAX_EPOCHS) -> Path:
    """Train ResNet-20 on the training digits, for a minute at most, and save its weights."""
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional

    from pruning.architectures import build

    torch.manual_seed(0)
    train_rows = np.flatnonzero(np.arange(len(labels)) % TEST_SHARE)
    x = torch.from_numpy(images[train_rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.from_numpy(labels[train_rows])
    model = build(ARCH, 10).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max_epochs)
    start = time.monotonic()
    for epoch in range(max_epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(x)), 64):
            batch = functional.pad(x[rows], (2, 2, 2, 2), value=-1.0)
            top, left = np.random.default_rng(int(rows[0]) + epoch).integers(0, 5, 2)
            batch = batch[:, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(batch.to(memory_format=torch.channels_last)), y[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        schedule.step()
        say(f"training ResNet-20 on digits: epoch {epoch + 1}/{max_epochs}, loss {total / len(x):.3f}")
        if time.monotonic() - start > TRAINING_S:
            break
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def serve(home: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start the service on a free port with an empty home; return its process and URL."""
    shutil.rmtree(home, ignore_errors=True)
    log = (OUT / "serve.log").open("w")
    command = [sys.executable, "-m", "secateur", "serve", "--port", "0", "--home", str(home), "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ.copy())
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit(f"the service did not start: {(OUT / 'serve.log').read_text()[-2000:]}")
    url = json.loads(line)["url"]
    say(f"the service is at {url}")
    return server, url
