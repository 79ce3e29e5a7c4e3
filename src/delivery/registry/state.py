"""The registry's state, read from its tags; and the facts of the commit behind a version.

GTO writes the tags but does not interpret them (contracts/stages.py says why), and it ignores tags
without a message, which GitLab's web page creates. A test compares the two where GTO works.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from contracts import commit as facts
from contracts.commit import DATA, LOCK, METRICS, PARAMS
from contracts.model_tests import TESTS, read_test_counts
from contracts.stages import StageTag, in_order
from contracts.tags import Assignment, Version, match_cancellation, match_tag
from delivery.errors import GitError
from delivery.git import Repository

Fact = TypeVar("Fact")
_FORM = "%(refname:strip=2)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)%00"
_FORM += "%(creatordate:unix)%00%(contents:subject)%00%(contents:body)%00"


class Tag(NamedTuple):
    """A tag of Git; `message` is empty for a lightweight tag."""

    name: str
    commit: str
    when: datetime
    message: str


class Move(NamedTuple):
    """The assignment of a version to a stage; `withdrawn` if it was withdrawn later."""

    version: Version
    stage: str
    tag: str
    when: datetime
    message: str
    withdrawn: bool = False

    def entry(self) -> dict[str, Any]:
        """The same for JSON."""
        plain = {"version": self.version.tag, "stage": self.stage, "tag": self.tag}
        more = {"message": self.message, "withdrawn": self.withdrawn}
        return plain | {"when": self.when.isoformat()} | more


@dataclass(frozen=True)
class Record:
    """A registered version, with the facts of its commit."""

    version: Version
    commit: str
    date: datetime
    stages: tuple[str, ...]
    deprecated: bool
    metrics: dict[str, float]
    digest: str | None

    def entry(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "version": self.version.tag,
            "commit": self.commit,
            "date": self.date.isoformat(),
            "stages": list(self.stages),
            "deprecated": self.deprecated,
            "metrics": self.metrics,
            "digest": self.digest,
        }


@dataclass
class State:
    """The state of one model's registry. `moves` are newest first."""

    versions: dict[Version, Tag] = field(default_factory=dict)
    retired: dict[Version, Tag] = field(default_factory=dict)
    moves: dict[str, list[Move]] = field(default_factory=dict)
    serving: dict[str, Move] = field(default_factory=dict)

    def at(self, commit: str) -> Version | None:
        """The version on a commit; the highest if there are several."""
        found = (version for version, tag in self.versions.items() if tag.commit == commit)
        return max(found, default=None)

    def serves(self, stage: str, version: Version) -> bool:
        """Whether a stage serves a version."""
        return stage in self.serving and self.serving[stage].version == version

    def served(self, stage: str) -> list[Move]:
        """The assignments of a stage, newest first, without withdrawn ones."""
        return [move for move in self.moves.get(stage, []) if not move.withdrawn]


def read_state(repository: Repository, name: str) -> State:
    """Read the tags of a model; tags outside the grammar are ignored."""
    state = State()
    events: list[tuple[StageTag, Tag]] = []
    for tag in _read_tags(repository, name):
        end = match_cancellation(tag.name)
        match end.cancelled if end else match_tag(tag.name):
            case Version() as version:
                (state.retired if end else state.versions)[version] = tag
            case Assignment() as assignment:
                event = StageTag(assignment, end is not None, tag.commit, tag.when.timestamp())
                events.append((event, tag))
    for stage in {event.assignment.stage for event, _ in events}:
        _replay(
            state, stage, {event: tag for event, tag in events if event.assignment.stage == stage}
        )
    return state


def _read_tags(repository: Repository, name: str) -> list[Tag]:
    listed = repository.git(
        "for-each-ref", f"--format={_FORM}", f"refs/tags/{name}@*", f"refs/tags/{name}#*"
    )
    fields, tags = listed.split("\0"), []
    for row in range(0, len(fields) - 8, 8):
        text, kind, own, peeled_kind, peeled, when, subject, body = fields[row : row + 8]
        if kind == "commit":
            tags.append(Tag(text.strip("\n"), own, _time(when), ""))
        elif kind == "tag" and (commit := _commit(repository, peeled_kind, peeled)):
            message = f"{subject}\n\n{body}".strip()
            tags.append(Tag(text.strip("\n"), commit, _time(when), message))
    return tags


def _commit(repository: Repository, kind: str, peeled: str) -> str | None:
    """The commit of an annotated tag; Git itself peels only one nested tag."""
    if kind != "tag":
        return peeled if kind == "commit" else None
    try:
        return repository.commit(peeled)
    except GitError:
        return None


def _time(seconds: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _replay(state: State, stage: str, tags: dict[StageTag, Tag]) -> None:
    """Replay the tags of a stage in order; as in GTO, a withdrawal affects one version only."""
    moves: list[Move] = []
    held: dict[Version, Move] = {}
    for event in in_order(tags):
        tag = tags[event]
        if (version := state.at(tag.commit)) is None:
            continue
        if event.cancels and (ended := held.pop(version, None)):
            moves[moves.index(ended)] = ended._replace(withdrawn=True)
        elif not event.cancels:
            held.pop(version, None)
            held[version] = Move(version, stage, tag.name, tag.when, tag.message)
            moves.append(held[version])
    state.moves[stage] = moves[::-1]
    if held:
        state.serving[stage] = list(held.values())[-1]


def model_digest(repository: Repository, commit: str) -> str | None:
    """The digest of the model in `dvc.lock` at a commit; None if it has none."""
    bundle = _read(repository, commit, LOCK, facts.read_bundle)
    return bundle and bundle.digest


def trained_on(repository: Repository, commit: str) -> str | None:
    """The digest of the data that the model was trained on, according to `dvc.lock`."""
    return _read(repository, commit, LOCK, facts.read_trained_on)


def data_version(repository: Repository, commit: str) -> str | None:
    """The digest of the raw data in `data.dvc` at a commit."""
    return _read(repository, commit, DATA, facts.read_data)


def read_metrics(repository: Repository, commit: str) -> dict[str, float]:
    """The numbers of reports/metrics.json at a commit; empty if it cannot be read."""
    return _read(repository, commit, METRICS, facts.read_metrics) or {}


def read_tests(repository: Repository, commit: str) -> dict[str, int]:
    """How many tests of the model ended how, by reports/tests.json; empty without any."""
    return _read(repository, commit, str(TESTS), read_test_counts) or {}


def read_params(repository: Repository, commit: str) -> dict[str, Any]:
    """The values of params.yaml at a commit, by `section.key`; empty if it cannot be read."""
    sections = _read(repository, commit, PARAMS, facts.read_params) or {}
    return {
        f"{section}.{key}": value
        for section, values in sections.items()
        for key, value in values.items()
    }


def _read(
    repository: Repository, commit: str, path: str, reader: Callable[[bytes], Fact]
) -> Fact | None:
    content = (repository.show(commit, path) or "").encode()
    try:
        return reader(content) if len(content) <= facts.LARGEST else None
    except facts.Unreadable:
        return None
