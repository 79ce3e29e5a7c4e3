"""The retraining: from an alert or a schedule to a merge request with a new model."""

import codecs
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.reports import CHALLENGE, DRIFT
from delivery import tracking
from delivery.dvc import dvc, require_own_remote, stale
from delivery.errors import DeliveryError, GitError, ToolError, TrainingFailed
from delivery.experiment.experiment import Experiment, pull_cached
from delivery.git import ORIGIN, Repository
from delivery.metrics.pipeline import watched
from delivery.notify import notify
from delivery.retrain import cooldown
from delivery.retrain.alert import VARIABLE, Evidence, read_evidence, read_payload
from delivery.retrain.proposal import Proposal, read_challenge

BRANCH = "retrain"
LABEL = "retrain"
INGEST = Path("ci/ingest.txt")
FILES = ("data.dvc", "dvc.lock", "reports")
KEPT = Path("artifacts/retrain")
"""The trigger's payload, an artifact of the job."""


def read_ingest(path: Path = INGEST) -> list[str]:
    """The arguments of pipeline.ingest from a file in Git; none without the file.

    A file and not a variable: whoever triggers a pipeline may set variables.

    Raises:
        ToolError: a line cannot be parsed.
    """
    if not path.exists():
        return []
    words: list[str] = []
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            words += shlex.split(line.decode("utf-8"), comments=True)
        except ValueError as error:  # includes invalid UTF-8
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).lower()
            raise ToolError(f"{path} line {number}: {why}: correct it, and merge that") from None
    return words


def answer_alert(repository: Repository, target: str, ingest: Sequence[str], hours: float) -> str:
    """Retrain because of a trigger, unless no alert requires it or the cool-down lasts.

    Raises:
        EvidenceError: the payload is invalid; nothing is done then.
        TrainingFailed: ingest or a stage failed.
    """
    evidence = receive()
    if evidence and not evidence.asks:
        return "no firing alert requests a retraining: nothing to do"
    wait = cooldown.remaining(repository, hours, datetime.now(UTC), _pipeline())
    if (left := wait / timedelta(hours=1)) > 0:
        return (
            f"one began less than {hours:g} hours ago, alerts wait {left:.1f} more; "
            "the schedule and `make retrain` do not"
        )
    return retrain(repository, target, ingest, evidence)


def receive() -> Evidence | None:
    """Parse the trigger's payload and keep it in artifacts/retrain/; None if it has no alert.

    Raises:
        EvidenceError: it is invalid.
    """
    name = os.environ.get(VARIABLE, "")
    payload = read_payload(Path(name)) if name else b"{}"
    evidence = read_evidence(payload)
    if evidence is None:
        print("retrain: the trigger has no payload")
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
    why = evidence.drift if evidence else "not requested by an alert"
    cooldown.record(repository, why, datetime.now(UTC), _pipeline())
    repository.git("switch", "--quiet", "--force-create", BRANCH)
    pull_cached()
    if ingest:
        _ingest(ingest)
    if not stale():
        return _no_new_data(evidence)
    begun = time.monotonic()
    with watched("retrain"):
        _run("dvc repro", ["dvc", "repro"])
    seconds = round(time.monotonic() - begun, 1)
    tracking.record(Experiment(state="done", trained=True, seconds=seconds))
    dvc("push", "--run-cache")
    proposal = Proposal(evidence, read_challenge(_challenge(target)))
    if evidence:
        _write(DRIFT, evidence)
    repository.commit_files(FILES, proposal.message)
    repository.propose(BRANCH, target, proposal.title, LABEL, proposal.description)
    _notify("retrained", proposal.news)
    return f"the branch {BRANCH} is pushed, with a merge request into {target}: {proposal.title}"


def is_open(repository: Repository) -> bool:
    """Whether a proposal is open.

    Raises:
        GitError: a branch `retrain/...` exists, so Git could not create `retrain`.
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
    """Refuse local changes: a proposal contains the data and the model, nothing else.

    Raises:
        GitError: HEAD has commits that the target lacks, or a file is staged.
    """
    merged = f"{ORIGIN}/{target}"
    if not repository.is_ancestor(repository.commit("HEAD"), repository.commit(merged)):
        raise GitError(
            f"HEAD is not part of {merged}, and would be proposed with it: "
            f"git switch {target} && git pull"
        )
    if staged := repository.staged():
        raise GitError(
            f"{staged[0][:128]!a} is staged, and may not be merged yet: "
            "git restore --staged . (or commit it on another branch), "
            f"git switch {target} && git pull"
        )


def _no_new_data(evidence: Evidence | None) -> str:
    nothing = "nothing is new: main has the model of this data, code and parameters"
    if evidence:
        anchor = f"#{evidence.names[0].lower()}" if evidence.names else ""
        cure = f"label some, docs/runbook.md{anchor}"
        _notify("drift-unanswered", f"{evidence.drift}, and no new data: {cure}")
    return nothing


def _notify(event: str, text: str) -> None:
    """Notify; a wrong setting of the chat must not fail a finished retraining."""
    try:
        print(notify(event, text))
    except DeliveryError as error:
        print(f"warning: no notification was sent: {error}", file=sys.stderr)


def _challenge(target: str) -> bytes:
    """Compare the new model with the one of the target; returns the result."""
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
        raise ToolError(f"{line[0]} cannot be started: {error.strerror}") from None
    if code != 0:
        raise TrainingFailed(f"{name} ended with {code}: see above")


def _ingest(words: Sequence[str]) -> None:
    """Ingest; a source that fails is often not of this house, so the chat gets its sentence."""
    line = [sys.executable, "-m", "pipeline.ingest", *words]
    done = subprocess.run(line, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
    print(done.stderr, file=sys.stderr, end="")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1].removeprefix("error: ")
        _notify("ingest-failed", reason)
        raise TrainingFailed(f"ingest ended with {done.returncode}: {reason}")


def _pipeline() -> str:
    """Number of this pipeline; empty outside of CI."""
    found = re.fullmatch(r"[0-9]{1,18}", os.environ.get("CI_PIPELINE_ID", ""))
    return found[0] if found else ""
