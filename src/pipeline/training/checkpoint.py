"""Checkpoints: a training run that is killed goes on where it was.

They lie in `artifacts/checkpoints/<fingerprint>/`, outside of every stage output, so that DVC does
not delete them. The fingerprint covers parameters, data and code version: a run of anything else
looks in another folder. Two are kept, so that one damaged file costs one epoch and not the run.
"""

import hashlib
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline import paths

KEPT = 2
State = dict[str, Any]


def fingerprint(**facts: Any) -> str:
    """Name what a run depends on, in 16 hexadecimal digits."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest() -> str:
    """Digest of the modules that decide what a step of training does."""
    package = Path(__file__).parent.parent
    modules = [*sorted((package / "training").glob("*.py")), package / "train.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest()


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: str, root: Path = paths.CHECKPOINTS) -> None:
        self._run = run
        self._folder = root / run

    def save(self, epoch: int, state: State) -> None:
        """Write the state after `epoch`, in one step, and forget all but the newest ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"epoch-{epoch:05d}.pt"
        fresh = target.with_suffix(".new")
        with fresh.open("wb") as file:
            torch.save({"run": self._run, "epoch": epoch, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        for old in self._files()[:-KEPT]:
            old.unlink()

    def load(self) -> State | None:
        """Read the newest checkpoint that is whole, or None."""
        for path in reversed(self._files()):
            try:
                # weights_only: a checkpoint can hold tensors and numbers, never code.
                state: State = torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
                reason = str(error).partition("\n")[0]
                print(
                    f"train: {path} is damaged ({reason}); trying the one before", file=sys.stderr
                )
                continue
            if state.get("run") == self._run:
                return state
        return None

    def clear(self) -> None:
        """Delete them: the run is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("epoch-*.pt"))
