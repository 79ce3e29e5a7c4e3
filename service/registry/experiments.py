"""Lists the experiments of a repository: its tags, with metrics and parameters of their commits.

Nothing is checked out. One `git for-each-ref` names the tags, one `git cat-file --batch-check`
gives the sizes of the files at their commits, and one `git cat-file --batch` reads the small ones.
A commit never changes, so the next listing reuses its experiment.
"""

import re
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from contracts import commit as facts
from contracts.model_tests import TESTS, read_test_counts
from contracts.stages import StageTag, holder, in_order
from contracts.tags import (
    Assignment,
    Cancellation,
    Experiment as TrainedAt,
    Tag,
    Version,
    match_cancellation,
    match_tag,
)
from service.registry import git
from service.registry.protocol import LAYOUT, Snapshot, digest, fingerprint
from service.schemas import Experiment, Promotion

_DETAILS = "%00".join(
    f"%({word})"
    for word in "objectname objecttype *objectname *objecttype creatordate:unix taggername".split()
)
_MERGED = re.compile(r"^See merge request ([A-Za-z0-9_./-]{0,255}![0-9]{1,18})$", re.MULTILINE)
_APPROVAL = re.compile(r"^(?:Approved|Reviewed)-by: *(\S.*)$", re.MULTILINE | re.IGNORECASE)
_MOST = 20  # approvals of a commit
_READERS = facts.READERS | {str(TESTS): read_test_counts}
_FILES = tuple(_READERS)
_OF_COMMIT = ("date", "summary", "merge_request", "approvals")


class Reference(NamedTuple):
    """One Git tag with its commit; `when` is the Unix time of the tag, `by` who made it."""

    name: str
    commit: str
    when: int
    by: str


def read_experiments(repository: str, folder: Path, before: Snapshot | None = None) -> Snapshot:
    """List the experiments of the repository in `folder`; commits in `before` are not read again.

    Raises:
        GitError: git failed, or took too long.
    """
    answer, references = _references(folder)
    tags = {ref: tag for ref in references if (tag := match_tag(ref.name))}
    cancelled = {ref: end for ref in references if (end := match_cancellation(ref.name))}
    gone = {end.cancelled for end in cancelled.values()}
    shown = {
        ref: tag for ref, tag in tags.items() if not isinstance(tag, Assignment) and tag not in gone
    }
    known = {entry.commit: entry for entry in before.experiments} if before else {}
    missing = {ref.commit for ref in shown} - known.keys()
    known.update((entry.commit, entry) for entry in _read_commits(folder, sorted(missing)))
    held = current_stages(tags, cancelled)
    merged = {
        known[ref.commit].bundle_digest: f"!{tag.merge_request}"
        for ref, tag in shown.items()
        if isinstance(tag, TrainedAt)
    }
    entries = [_entry(known[ref.commit], tag, held, merged) for ref, tag in shown.items()]
    entries.sort(key=lambda entry: entry.tag)
    entries.sort(key=lambda entry: entry.date, reverse=True)
    return Snapshot(
        layout=LAYOUT,
        repository=digest(repository),
        references=fingerprint(answer),
        checked=datetime.now(UTC),
        experiments=tuple(entries),
    )


def _entry(
    known: Experiment,
    tag: Tag,
    held: dict[tuple[str, str], Reference],
    merged: dict[str | None, str],
) -> Experiment:
    promotions = {
        stage: Promotion(stage=stage, tag=ref.name, by=ref.by or None, when=_moment(ref.when))
        for (name, stage), ref in held.items()
        if ref.commit == known.commit and not (isinstance(tag, Version) and tag.name != name)
    }
    experiment = merged.get(known.bundle_digest) if known.bundle_digest else None
    if isinstance(tag, TrainedAt):
        experiment = f"!{tag.merge_request}"
    return known.model_copy(
        update={
            "tag": tag.tag,
            "kind": "version" if isinstance(tag, Version) else "experiment",
            "stages": sorted(promotions),
            "promotions": [promotions[stage] for stage in sorted(promotions)],
            "merge_request": known.merge_request or experiment,
        }
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _references(folder: Path) -> tuple[bytes, list[Reference]]:
    """Return the output of REFERENCES, and the tags of commits."""
    answer = git.run_git(folder, "for-each-ref", f"--format={_DETAILS}%00%(refname)", "refs/tags")
    seen, found = [], []
    for line in answer.splitlines():
        text = line.decode(errors="replace")
        own, kind, peeled, peeled_kind, when, by, name = text.split("\0")
        seen.append(f"{own} {name}")
        commit = own if kind == "commit" else peeled if peeled_kind == "commit" else None
        if commit:
            short = name.removeprefix("refs/tags/")
            found.append(Reference(short, commit, int(when or 0), by[: facts.LONGEST]))
    return "\n".join(seen).encode(), found


def current_stages(
    tags: dict[Reference, Tag], cancelled: dict[Reference, Cancellation]
) -> dict[tuple[str, str], Reference]:
    """Return the tag by which a commit holds each (name, stage) now."""
    events: list[tuple[Reference, Tag, bool]] = [(ref, tag, False) for ref, tag in tags.items()]
    events += [(ref, end.cancelled, True) for ref, end in cancelled.items()]
    of_stage: defaultdict[tuple[str, str], list[StageTag]] = defaultdict(list)
    references = {tag: ref for ref, tag in tags.items()}
    for ref, tag, ends in events:
        if isinstance(tag, Assignment):
            event = StageTag(tag, ends, ref.commit, ref.when)
            of_stage[tag.name, tag.stage].append(event)
    held = {}
    for key, found in of_stage.items():
        if commit := holder(found):
            assigned = [it for it in in_order(found) if it.commit == commit and not it.cancels]
            held[key] = references[assigned[-1].assignment]
    return held


def _read_commits(folder: Path, commits: list[str]) -> Iterator[Experiment]:
    """Read the facts of commits; tag, kind and stages are filled in by the caller."""
    if not commits:
        return
    names = [name for commit in commits for name in (commit, *_paths(commit))]
    objects = dict(zip(names, _objects(folder, names), strict=True))
    small = {oid for oid, size in filter(None, objects.values()) if size <= facts.LARGEST}
    uses = {
        (oid, name.partition(":")[2])
        for name, found in objects.items()
        if found and (oid := found[0]) in small
    }
    read = dict(_contents(folder, uses))
    for commit in commits:
        yield _facts(commit, objects, read)


def _paths(commit: str) -> list[str]:
    return [f"{commit}:{path}" for path in _FILES]


def _facts(
    commit: str,
    objects: dict[str, tuple[str, int] | None],
    read: dict[tuple[str, str], object],
) -> Experiment:
    values: dict[str, object] = {}
    problems = []
    for path in _FILES:
        if (found := objects[f"{commit}:{path}"]) is None:
            if path in facts.READERS:  # a project may have no tests of its model
                problems.append(f"{path} is missing at this commit")
        elif (value := read.get((found[0], path))) is None:
            problems.append(f"{path} is larger than {facts.LARGEST} bytes")
        elif isinstance(value, facts.Unreadable):
            problems.append(f"{path} {value}")
        else:
            values[path] = value
    bundle = values.get(facts.LOCK)
    return Experiment.model_validate(
        {
            "tag": "",
            "kind": "version",
            "commit": commit,
            **dict(zip(_OF_COMMIT, _commit(commit, read), strict=True)),
            "metrics": values.get(facts.METRICS, {}),
            "tests": values.get(str(TESTS), {}),
            "params": values.get(facts.PARAMS, {}),
            "data_version": values.get(facts.DATA),
            "bundle_digest": bundle.digest if isinstance(bundle, facts.Bundle) else None,
            "problem": "; ".join(problems) + "." if problems else None,
        }
    )


def _commit(commit: str, read: dict[tuple[str, str], object]) -> tuple[object, ...]:
    found = read.get((commit, ""))
    return found if isinstance(found, tuple) else (_moment(0), "", None, [])


def _read_commit(content: bytes) -> tuple[object, ...]:
    """Return `_OF_COMMIT` of a raw commit object."""
    text = content.partition(b"\n\n")[2].decode("utf-8", errors="replace")
    merged = _MERGED.findall(text)
    approvals = [who.strip()[: facts.LONGEST] for who in _APPROVAL.findall(text)[:_MOST]]
    return (
        *facts.read_commit(content),
        merged[-1] if merged else None,
        list(dict.fromkeys(approvals)),
    )


def _objects(folder: Path, names: list[str]) -> Iterator[tuple[str, int] | None]:
    """Yield (object id, size) of each name such as `commit:path`; None where there is no file."""
    given = "".join(f"{name}\n" for name in names).encode()
    for line in git.run_git(folder, "cat-file", "--batch-check", given=given).splitlines():
        words = line.decode(errors="replace").split(" ")
        usable = len(words) == 3 and words[1] in ("blob", "commit") and words[2].isdigit()
        yield (words[0], int(words[2])) if usable else None


def _contents(
    folder: Path, uses: Iterable[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], object]]:
    """Yield the parsed content of each (object, path); the path selects the parser, "" a commit.

    Each object is parsed and released before the next: 500 tags with a megabyte each do not add up.
    """
    wanted = sorted(uses)
    for (oid, path), content in zip(
        wanted, _batch(folder, [oid for oid, _ in wanted]), strict=True
    ):
        try:
            yield (oid, path), (_READERS[path](content) if path else _read_commit(content))
        except facts.Unreadable as error:
            yield (oid, path), error


def _batch(folder: Path, oids: list[str]) -> Iterator[bytes]:
    """Yield the contents of objects that are known to exist, through one `git cat-file`."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write("".join(f"{oid}\n" for oid in oids).encode())
        stdin.seek(0)
        command = git.arguments(folder, "cat-file", "--batch", "--buffer")
        with subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=git.environment(),
        ) as process:
            timer = threading.Timer(git.LOCAL_SECONDS, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                for _ in oids:
                    header = process.stdout.readline().split()
                    if len(header) != 3:
                        raise git.GitError("The Git repository cannot be read: it is damaged.")
                    yield process.stdout.read(int(header[2]))
                    process.stdout.read(1)  # the line feed behind each object
            finally:
                timer.cancel()
                process.kill()
