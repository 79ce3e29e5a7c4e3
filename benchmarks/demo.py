"""How long a new user waits: `make demo` in a fresh clone, with the environment in place.

    python -m benchmarks.demo

Clones the repository's last commit into a temporary folder, links `.venv` into it, runs
`make train-sample`, which is `make demo` up to the serving, then `dvc repro` again, which must run
nothing.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine


def main() -> None:
    """Print both times."""
    root = Path.cwd()
    print(machine.line())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        (clone / ".venv").symlink_to(root / ".venv")
        seconds, _ = timed(clone, "make", "train-sample")
        print(f"make train-sample in a fresh clone: {seconds:.1f} s", flush=True)
        seconds, output = timed(clone, "make", "repro")
        ran = output.count("Running stage")
        print(f"dvc repro again: {seconds:.1f} s, {ran} stages run")


def timed(folder: Path, *command: str) -> tuple[float, str]:
    """Run a command in a folder; return seconds and output."""
    started = time.perf_counter()
    # The package is the clone's: the environment was installed from another folder.
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return time.perf_counter() - started, result.stdout


if __name__ == "__main__":
    main()
