"""Command: post the report of a merge request as its one comment, updated by each pipeline.

    python -m delivery.comment --against origin/main
    python -m delivery.comment --against origin/main --dry-run     write it, post nothing

Writes reports/comment.md and passes it to CML, which uploads the pictures to GitLab. A failed
training is reported too: the end of its log, and what to do. The same report is written as
reports/report.html, with its pictures inside: an artifact that GitLab shows in the merge request.
Without BOT_TOKEN it is all there is; nothing is posted then, which is not an error. A report that
is too large for a comment is posted as its verdict, with a link to that file.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from contracts import commands
from delivery import cml
from delivery.errors import GitError, GitLabError, ToolError, command
from delivery.experiment.experiment import COMMITTED, LOG, RECORD, Committed, Experiment
from delivery.git import Repository
from delivery.report_page import page

REPORT = Path("reports/report.md")  # `python -m pipeline.report` writes it, with its pictures
COMMENT = Path("reports/comment.md")
PAGE = Path("reports/report.html")
TITLE = "conveyor-report"
LAST = 30  # lines of a log that are shown
LONGEST = 1_000  # characters of such a line
VERDICT = 20_000  # characters of a report that is too long
FENCE = "`" * 12  # longer than any in a log

FAILED = """# ❌ Training failed

Nothing was measured, so there is nothing to merge. The last {count} lines of its log:

{fence}text
{log}
{fence}

What to do: run `dvc repro` on your machine, where the same commit fails the same way, or read the
[whole log]({job}). A value that `params.yaml` does not allow is named in the last line; when memory
ran out, make `train.batch_size` smaller; when the runner was lost, start the job again: it goes on
from its last checkpoint."""

ABSENT = """# ❌ No result

The training job left nothing: it was cancelled, or its runner was lost before it began. Start
[it]({job}) again."""


@command
def main() -> None:
    """Write the comment, and post it."""
    parser = commands.parser("delivery.comment", __doc__)
    parser.add_argument("--against", default="origin/main", metavar="REV", help="what to compare")
    parser.add_argument("--dry-run", action="store_true", help="write it, post nothing")
    options = parser.parse_args()
    COMMENT.parent.mkdir(exist_ok=True)
    text = compose(Repository(), options.against)
    COMMENT.write_text(text, encoding="utf-8")
    PAGE.write_text(page(text, PAGE.parent), encoding="utf-8")
    print(f"comment: {COMMENT} and {PAGE} are written")
    if not options.dry_run and not (os.environ.get("BOT_TOKEN") or os.environ.get("REPO_TOKEN")):
        print(
            "comment: nothing is posted, BOT_TOKEN is not set: the report is the artifact "
            f"`Model report`, {PAGE} (docs/gitlab-setup.md)"
        )
    elif not options.dry_run:
        try:
            post()
        except (GitLabError, ToolError) as error:
            raise ToolError(
                f"{error}. The report is not lost: it is the artifact `Model report`, {PAGE}"
            ) from None


def compose(repository: Repository, against: str) -> str:
    """The comment, Markdown."""
    try:
        experiment = Experiment.model_validate_json(RECORD.read_bytes())
    except (OSError, ValidationError):
        return ABSENT.format(job=_pipeline()) + "\n"
    if experiment.state != "done":
        failure = _failure(experiment.job or _pipeline())
        return "\n\n".join((failure, *_notes(repository, against, experiment))) + "\n"
    _report(against)
    report = REPORT.read_text(encoding="utf-8").rstrip()
    return "\n\n".join((report, *_notes(repository, against, experiment))) + "\n"


def _report(against: str) -> None:
    line = [sys.executable, "-m", "pipeline.report", "--against", against]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"pipeline.report: {done.stderr.strip().removeprefix('error: ')}")


def _failure(job: str) -> str:
    lines = LOG.read_text("utf-8", errors="replace").splitlines() if LOG.exists() else []
    shown = [line.replace(FENCE, "`")[-LONGEST:] for line in lines[-LAST:]] or ["(it is empty)"]
    return FAILED.format(count=len(shown), log="\n".join(shown), fence=FENCE, job=job)


def _notes(repository: Repository, against: str, experiment: Experiment) -> list[str]:
    notes = []
    if behind := _behind(repository, against):
        notes.append(
            f"⚠️ The base is stale: `{against}` has {behind} commits that this branch lacks. Merge "
            "or rebase before you trust the comparison."
        )
    notes.append(f"## Runner minutes\n\n{_minutes(experiment)}")
    if experiment.state == "done" and (note := _committed(repository)):
        notes.append(f"Pipeline: {note}.")
    return notes


def _committed(repository: Repository) -> str:
    """What became of the results: the record of the job `commit`, which may not have run."""
    with suppress(OSError, ValidationError):
        return Committed.model_validate_json(COMMITTED.read_bytes()).note
    if repository.git("status", "--porcelain", "--untracked-files=no", "--", "dvc.lock"):
        return (
            "`dvc.lock` is new and was not committed: `BOT_TOKEN` is not set, the branch is a "
            "fork's, or the job `commit` failed. Commit it and `reports/` from the artifacts of "
            "the job `train` before you merge"
        )
    return ""


def _behind(repository: Repository, against: str) -> int:
    try:
        base = repository.commit(against)
        return int(repository.git("rev-list", "--count", f"HEAD..{base}"))
    except (GitError, ValueError):
        return 0


def _minutes(experiment: Experiment) -> str:
    used = f"Used: {experiment.seconds / 60:.1f}."
    if experiment.state != "done":
        return used
    if not experiment.trained:
        return f"{used} Nothing was trained: this data, code and parameters have a model."
    if not experiment.estimate:
        return f"{used} This is the first experiment, so there was no estimate."
    return f"{used} Estimated: {experiment.estimate / 60:.1f}, from the last experiment's epochs."


def _pipeline() -> str:
    return os.environ.get("CI_PIPELINE_URL", "the pipeline")


def post() -> None:
    """Write or renew the comment of this merge request through CML.

    Raises:
        GitLabError: GitLab refuses.
        ToolError: CML is not installed, or GitLab refuses.
    """
    cml.require()
    name = "REPO_TOKEN" if os.environ.get("REPO_TOKEN") else "BOT_TOKEN"
    number = os.environ.get("CI_MERGE_REQUEST_IID", "")
    if not number:
        _send("update", os.environ[name])
        print("comment: posted")
        return
    from delivery.gitlab.client import GitLab, Refused

    lab, iid = GitLab.from_environment(name), int(number)
    try:
        comments = lab.comments(iid, TITLE)
    except Refused as error:
        sentence = {401: cml.TOKEN, 403: cml.ROLE}.get(error.status or 0)
        raise GitLabError(sentence or str(error)) from None
    # CML renews the oldest comment with the mark among the 20 newest notes: also one that a person
    # quoted, or that the bot of an earlier token wrote, which GitLab refuses.
    update = comments.chosen in comments.own or (comments.chosen is None and not comments.own)
    renewed = _send("update" if update else "create", os.environ[name]) == "update"
    kept = comments.chosen if renewed else None
    lab.delete_comments(iid, (note for note in comments.own if note != kept))
    closed = (
        ""
        if comments.state == "opened"
        else f"; the merge request is {comments.state}: reopen it, or open another, to merge this"
    )
    print(f"comment: posted{closed}")


def _send(verb: str, token: str) -> str:
    """Pass the comment to CML; returns what was done: `create` or `update`."""
    text = COMMENT.read_text(encoding="utf-8")
    fits = len(text.encode("utf-16-le")) // 2 <= cml.LARGEST
    try:
        if fits:
            cml.comment(verb, COMMENT, TITLE, token)
        else:
            _send_verdict(verb, text, token)
    except cml.Refused as refused:
        if refused.too_large and fits:
            _send_verdict(verb, text, token)
        elif refused.forbidden and verb == "update":
            # A comment of another user came in between, and CML would renew it.
            return _send("create", token)
        else:
            raise
    return verb


def _send_verdict(verb: str, text: str, token: str) -> None:
    print("comment: the report is too large for GitLab: its verdict is posted, with a link")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / COMMENT.name
        file.write_text(shortened(text), encoding="utf-8")
        cml.comment(verb, file, TITLE, token)


def shortened(text: str) -> str:
    """The verdict of a report, and where the rest is."""
    lines, size = [], 0
    for line in text.partition("\n## ")[0].splitlines():
        size += len(line) + 1
        if size > VERDICT:
            break
        lines.append(line)
    job = os.environ.get("CI_JOB_URL", "")
    link = f"[artifact of this job]({job}/artifacts/file/{PAGE})" if job else f"file `{PAGE}`"
    verdict = "\n".join(lines).rstrip()
    return (
        f"{verdict}\n\n⚠️ The report is too large for a comment ({len(text):,} characters, and its "
        f"pictures): the whole is the {link}.\n"
    )


if __name__ == "__main__":
    main()
