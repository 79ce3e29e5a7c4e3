"""Command: train again on what is new, and propose the result as a merge request.

    python -m delivery.retrain                                   what ci/ingest.txt says first
    python -m delivery.retrain --ingest folder --path incoming   ingest these first

The branch `retrain` is the proposal: while it exists on origin, one is open, and this does nothing.
Its merge request is opened by push options, so that Git is all it takes; the pipeline of that merge
request then finds the model trained, posts the report and judges it like any other.
"""

import shlex
import subprocess
import sys
from argparse import REMAINDER, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from delivery.dvc import dvc, require_own_remote, stale
from delivery.errors import ToolError, TrainingFailed, command
from delivery.experiment import bring
from delivery.git import Repository
from delivery.notify import notify

BRANCH = "retrain"
TITLE = "Retrain the model"
LABEL = "retrain"
INGEST = Path("ci/ingest.txt")
FILES = ("data.dvc", "dvc.lock", "reports")


@command
def main() -> None:
    """Ingest, train, propose."""
    parser = ArgumentParser(
        prog="python -m delivery.retrain",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", default="main", help="branch to merge into (default: main)")
    parser.add_argument(
        "--ingest", nargs=REMAINDER, metavar="WORD", help="words of pipeline.ingest, to the end"
    )
    options = parser.parse_args()
    words = read_ingest() if options.ingest is None else options.ingest
    print(f"retrain: {retrain(Repository(), options.target, words)}")


def read_ingest(path: Path = INGEST) -> list[str]:
    """The words of pipeline.ingest that a merge request has put there; none without the file.

    A file and not a variable: what triggers a pipeline may set those.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in shlex.split(line)]


def retrain(repository: Repository, target: str, ingest: Sequence[str]) -> str:
    """Do it; returns a sentence.

    Raises:
        TrainingFailed: ingest or a stage failed.
    """
    if is_open(repository):
        return f"one is open, {BRANCH} on origin: merge it, or close it and delete its branch"
    require_own_remote()
    repository.git("switch", "--quiet", "--force-create", BRANCH)
    bring()
    if ingest:
        _run("ingest", [sys.executable, "-m", "pipeline.ingest", *ingest])
    if not stale():
        return "nothing is new: the model of this data, code and parameters is the one of main"
    _run("dvc repro", ["dvc", "repro"])
    dvc("push", "--quiet", "--run-cache")
    repository.commit_files(FILES, TITLE)
    repository.propose(BRANCH, target, TITLE, LABEL)
    print(notify("retrained"))
    return f"the branch {BRANCH} is pushed, with a merge request into {target}"


def is_open(repository: Repository) -> bool:
    """Whether a proposal waits for its merge."""
    return bool(repository.git("ls-remote", "--heads", "origin", f"refs/heads/{BRANCH}"))


def _run(name: str, line: Sequence[str]) -> None:
    try:
        code = subprocess.run(line, check=False).returncode
    except OSError as error:
        raise ToolError(f"{line[0]} can not be started: {error.strerror}") from None
    if code != 0:
        raise TrainingFailed(f"{name} ended with {code}: see above")


if __name__ == "__main__":
    main()
