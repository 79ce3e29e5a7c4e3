"""Command: train again on what is new, and propose the result as a merge request.

    python -m delivery.retrain                                   what ci/ingest.txt says first
    python -m delivery.retrain --ingest folder --path incoming   ingest these first

Started by a trigger it answers an alert: what came with the trigger is read
(delivery/retrain/alert.py) and goes along as reports/drift.json; for the hours of --cool-down
after a retraining began, alerts start no other (delivery/retrain/cooldown.py). A schedule or a
person need not wait.

The branch `retrain` is the proposal: while it exists on origin, one is open, and this does nothing.
Its merge request is opened by push options, so that Git is all it takes; the pipeline of that merge
request then finds the model trained, posts the report and judges it like any other. A model that is
worse is proposed as a draft: it is to be looked at, not to be merged.
"""

import os
import re
import shlex
import subprocess
import sys
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.reports import CHALLENGE, DRIFT
from delivery import training_metrics
from delivery.dvc import dvc, require_own_remote, stale
from delivery.errors import DeliveryError, GitError, ToolError, TrainingFailed, command
from delivery.experiment.__main__ import bring
from delivery.git import ORIGIN, Repository
from delivery.notify import notify
from delivery.retrain import cooldown
from delivery.retrain.alert import VARIABLE, Evidence, read_evidence, read_payload
from delivery.retrain.proposal import Proposal, read_challenge

BRANCH = "retrain"
LABEL = "retrain"
INGEST = Path("ci/ingest.txt")
FILES = ("data.dvc", "dvc.lock", "reports")
KEPT = Path("artifacts/retrain")
"""What came with the trigger, kept with the pipeline."""


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
        "--cool-down",
        type=_hours,
        default=cooldown.HOURS,
        metavar="HOURS",
        help="between two retrainings that alerts ask for (default: %(default)g)",
    )
    parser.add_argument(
        "--ingest", nargs=REMAINDER, metavar="WORD", help="words of pipeline.ingest, to the end"
    )
    options = parser.parse_args()
    words = read_ingest() if options.ingest is None else options.ingest
    repository = Repository()
    # The source alone does not tell: who triggers may set variables, where GitLab lets them.
    if os.environ.get("CI_PIPELINE_SOURCE") == "trigger" or os.environ.get(VARIABLE):
        done = answer(repository, options.target, words, options.cool_down)
    else:
        done = retrain(repository, options.target, words)
    print(f"retrain: {done}")


def read_ingest(path: Path = INGEST) -> list[str]:
    """The words of pipeline.ingest that a merge request has put there; none without the file.

    A file and not a variable: what triggers a pipeline may set those.

    Raises:
        ToolError: a line can not be read.
    """
    if not path.exists():
        return []
    words: list[str] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            words += shlex.split(line.decode("utf-8"), comments=True)
        except ValueError as error:  # also a letter that is no UTF-8
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).lower()
            raise ToolError(f"{path} line {number}: {why}: mend it, and merge that") from None
    return words


def answer(repository: Repository, target: str, ingest: Sequence[str], hours: float) -> str:
    """Retrain because of a trigger, unless there is no reason or it is too early.

    Raises:
        EvidenceError: what came with the trigger can not be read; nothing is done then.
        TrainingFailed: ingest or a stage failed.
    """
    evidence = arrived()
    if evidence and not evidence.asks:
        return "no alert that fires asks for a retraining: nothing to do"
    wait = cooldown.remaining(repository, hours, _now(), _pipeline())
    if (left := wait / timedelta(hours=1)) > 0:
        return (
            f"one began less than {hours:g} hours ago, alerts wait {left:.1f} more; "
            "the schedule and `make retrain` need not"
        )
    return retrain(repository, target, ingest, evidence)


def arrived() -> Evidence | None:
    """What came with the trigger, kept in artifacts/retrain/; None when nothing did.

    Raises:
        EvidenceError: it can not be read.
    """
    name = os.environ.get(VARIABLE, "")
    payload = read_payload(Path(name)) if name else b"{}"
    evidence = read_evidence(payload)
    if evidence is None:
        print("retrain: the trigger brought no evidence")
        return None
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "payload.json").write_bytes(payload)
    _write(KEPT / "evidence.json", evidence)
    print(f"retrain: {evidence.drift}, {len(evidence.alerts)} alerts: kept in {KEPT}/")
    return evidence


def retrain(
    repository: Repository, target: str, ingest: Sequence[str], evidence: Evidence | None = None
) -> str:
    """Ingest, train, propose; returns a sentence.

    Raises:
        GitError: the checkout is not what was merged, or a branch is in the way.
        TrainingFailed: ingest or a stage failed.
    """
    if is_open(repository):
        return f"one is open, {BRANCH} on origin: merge it, or close it and delete its branch"
    require_merged(repository, target)
    require_own_remote()
    why = evidence.drift if evidence else "not by an alert"
    cooldown.record(repository, why, _now(), _pipeline())
    repository.git("switch", "--quiet", "--force-create", BRANCH)
    bring()
    if ingest:
        _run("ingest", [sys.executable, "-m", "pipeline.ingest", *ingest])
    if not stale():
        return _unanswered(evidence)
    with training_metrics.watched("retrain"):
        _run("dvc repro", ["dvc", "repro"])
    dvc("push", "--quiet", "--run-cache")
    proposal = Proposal(evidence, read_challenge(_challenge(target)))
    if evidence:
        _write(DRIFT, evidence)
    repository.commit_files(FILES, proposal.message)
    repository.propose(BRANCH, target, proposal.title, LABEL, proposal.description)
    _tell("retrained", proposal.news)
    return f"the branch {BRANCH} is pushed, with a merge request into {target}: {proposal.title}"


def is_open(repository: Repository) -> bool:
    """Whether a proposal waits for its merge.

    Raises:
        GitError: Git has no room for the branch, which would show only after the training.
    """
    refs = (f"refs/heads/{BRANCH}", f"refs/heads/{BRANCH}/*")
    listed = repository.git("ls-remote", "--heads", ORIGIN, *refs).split("\n")
    heads = [line.partition("\trefs/heads/")[2] for line in listed]
    if above := [head for head in heads if head.startswith(f"{BRANCH}/")]:
        raise GitError(
            f"the branch {above[0][:128]!a} is in the way of `{BRANCH}`: rename or delete it"
        )
    return BRANCH in heads


def require_merged(repository: Repository, target: str) -> None:
    """Refuse to propose what is only here: a proposal has the data and the model, nothing else.

    Raises:
        GitError: HEAD has commits that the target lacks, or something is staged.
    """
    merged = f"{ORIGIN}/{target}"
    if not repository.is_ancestor(repository.commit("HEAD"), repository.commit(merged)):
        raise GitError(
            f"HEAD is not part of {merged}, and would be proposed with it: "
            f"git switch {target} && git pull"
        )
    if staged := repository.staged():
        raise GitError(
            f"{staged[0][:128]!a} is staged, and may not be what was merged: "
            "git restore --staged . (or commit it on another branch), "
            f"git switch {target} && git pull"
        )


def _unanswered(evidence: Evidence | None) -> str:
    nothing = "nothing is new: the model of this data, code and parameters is the one of main"
    if evidence:
        anchor = f"#{evidence.names[0].lower()}" if evidence.names else ""
        cure = f"label some, docs/runbook.md{anchor}"
        _tell("drift-unanswered", f"{evidence.drift}, and no new data: {cure}")
    return nothing


def _tell(event: str, text: str) -> None:
    """Notify; what was done stays done when nobody can be told."""
    try:
        print(notify(event, text))
    except DeliveryError as error:
        print(f"warning: nobody was told: {error}", file=sys.stderr)


def _challenge(target: str) -> bytes:
    """Let the new model compete with the one of the target; returns what was found."""
    against = f"{ORIGIN}/{target}"
    _run("pipeline.challenge", [sys.executable, "-m", "pipeline.challenge", "--against", against])
    return CHALLENGE.read_bytes()


def _write(path: Path, evidence: Evidence) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(evidence.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _run(name: str, line: Sequence[str]) -> None:
    try:
        code = subprocess.run(line, check=False).returncode
    except OSError as error:
        raise ToolError(f"{line[0]} can not be started: {error.strerror}") from None
    if code != 0:
        raise TrainingFailed(f"{name} ended with {code}: see above")


def _hours(text: str) -> float:
    try:
        return cooldown.read_hours(text)
    except ValueError:
        raise ArgumentTypeError(f"{text[:32]!a}: hours, from 0 to 8760") from None


def _pipeline() -> str:
    """Number of this pipeline; empty outside of one."""
    found = re.fullmatch(r"[0-9]{1,18}", os.environ.get("CI_PIPELINE_ID", ""))
    return found[0] if found else ""


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
