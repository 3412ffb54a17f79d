"""Whether the locked packages have known vulnerabilities: `python deploy/audit.py [--tolerate-unknown]`.

pip-audit skips a package that its service does not know and still says that all is well, so what it skipped is counted here.
Exits 0 when every package was looked up and none is vulnerable, 1 when one is, 3 (with `--tolerate-unknown`: 0) when the service
could not tell of all of them.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3


def main(arguments: Sequence[str]) -> int:
    """Print the verdict on `requirements.lock` and return it as an exit code."""
    tolerated = UNKNOWN if "--tolerate-unknown" in arguments else None
    command = [sys.executable, "-m", "pip_audit", "--requirement", "requirements.lock"]
    command += ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        code, sentences = UNKNOWN, [f"pip-audit gave no answer, nothing was audited: {done.stderr.strip()[-500:]}"]
    else:
        code, sentences = verdict(json.loads(done.stdout)["dependencies"])
    print(*(f"audit: {sentence}" for sentence in sentences), sep="\n")
    return CLEAN if code == tolerated else code


def verdict(packages: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code and what to say of pip-audit's `dependencies`."""
    vulnerable = [one for one in packages if one.get("vulns")]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    sentences = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in vulnerable
        for flaw in one["vulns"]
    ]
    if skipped or not packages:
        sentences.append(f"{len(skipped)} of {len(packages)} packages are unknown to the service and were not audited")
    elif not vulnerable:
        sentences.append(f"{len(packages)} packages, no known vulnerability")
    return VULNERABLE if vulnerable else UNKNOWN if skipped or not packages else CLEAN, sentences


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
