"""The registry of models: versions and stages are tags of Git, in GTO's grammar.

    python -m delivery.registry models
    python -m delivery.registry register [COMMIT]
    python -m delivery.registry promote VERSION STAGE [--force --reason TEXT]
    python -m delivery.registry rollback STAGE [--to VERSION]
    python -m delivery.registry retire VERSION
    python -m delivery.registry lineage VERSION

state.py reads the tags, writer.py writes them, policy.py decides what is allowed.
"""

from pathlib import Path

from contracts.commit import BUNDLE
from contracts.tags import STAGES, Version
from delivery.errors import Outdated, RegistryError, TakenBack
from delivery.git import Repository
from delivery.registry import policy
from delivery.registry.interface import read_interface, write_line
from delivery.registry.state import (
    Move,
    Record,
    State,
    model_digest,
    read_metrics,
    read_state,
)
from delivery.registry.writer import TagWriter
from delivery.tags import model_name, parse_assignment, parse_name, parse_stage, parse_version


class Registry:
    """The versions of one model. Methods that write first sync the local tags with origin.

    Raises:
        RegistryError: the policy forbids it, or another person pushed the same tag first.
        LeftOut: the policy forbids it, because a newer commit or version came first, or a person
            took the version back.
        TagError: a text is not a version, stage or tag.
        GitError: origin cannot be reached.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository = repository
        self.name = parse_name(name)
        self._writer = TagWriter(repository, name)

    def sync(self) -> None:
        """Replace the local tags of this model by those of origin, the source of truth."""
        self._writer.sync()

    def state(self) -> State:
        """The state according to the local tags."""
        return read_state(self.repository, self.name)

    def versions(self) -> list[Record]:
        """All versions, newest first."""
        state = self.state()
        return [
            Record(
                version=version,
                commit=tag.commit,
                date=tag.when,
                stages=tuple(stage for stage in STAGES if state.serves(stage, version)),
                deprecated=version in state.retired,
                metrics=read_metrics(self.repository, tag.commit),
                digest=model_digest(self.repository, tag.commit),
            )
            for version, tag in sorted(state.versions.items(), reverse=True)
        ]

    def serving(self, stage: str) -> Version | None:
        """The version that a stage serves."""
        move = self.state().serving.get(parse_stage(stage))
        return move.version if move else None

    def history(self, stage: str) -> list[Move]:
        """Every assignment of a stage, newest first."""
        return self.state().moves.get(parse_stage(stage), [])

    def find(self, text: str) -> Version:
        """Parse a registered version, `v1.2.0` or `landcover@v1.2.0`."""
        version = parse_version(text, self.name)
        self._known(self.state(), version)
        return version

    def known(self, commit: str) -> Version | None:
        """The version that a commit has: its own, or the newest when that has the same model."""
        commit, state = self.repository.commit(commit), self.state()
        if version := state.at(commit):
            return version
        newest = max(state.versions, default=None)
        if newest is None or (digest := model_digest(self.repository, commit)) is None:
            return None
        is_same = model_digest(self.repository, state.versions[newest].commit) == digest
        return newest if is_same else None

    def register(self, commit: str = "HEAD", message: str = "", ci_skip: bool = True) -> Version:
        """Register a commit as the next version.

        A commit that is registered, or has the newest version's model, keeps that version.
        """
        commit = self.repository.commit(commit)
        self.sync()
        if version := self.known(commit):
            return version
        if (digest := model_digest(self.repository, commit)) is None:
            raise RegistryError(
                f"dvc.lock of commit {commit[:12]} names no model: dvc repro, and commit dvc.lock"
            )
        state = self.state()
        newest = max(state.versions, default=None)
        self._refuse_outdated(state, commit)
        interface = read_interface(self.repository.folder / BUNDLE, digest)
        broken = policy.breakage(state, newest, interface)
        version = policy.next_version(self.name, newest, bool(broken))
        facts = [policy.clean(message), f"Model: {digest}", broken, write_line(interface)]
        self._writer.register(version, commit, policy.compose(version.tag, *facts), ci_skip)
        return version

    def check(
        self,
        version: Version,
        stage: str,
        reason: str = "",
        force: bool = False,
        allow_older: bool = False,
    ) -> str:
        """Refuse what `assign` would refuse; returns the objections that force overrides.

        Reads the local tags: sync() first.
        """
        parse_stage(stage)
        state = self.state()
        self._known(state, version)
        if version in state.retired:
            raise TakenBack(f"{version.tag} is retired: no stage takes it, not even by force")
        objections = list(policy.objections(state, version, stage, allow_older))
        if objections and force and not policy.because(reason):
            raise RegistryError(
                "reason: it is empty; give one to force an assignment: REASON='...'"
            )
        if objections and not force:
            raise policy.refusal(state, version, stage, allow_older)(
                f"{stage} does not take {version.tag}: {'; '.join(objections)} "
                f"(or force it, with a reason that the tag records)"
            )
        return "; ".join(objections)

    def assign(
        self,
        version: Version,
        stage: str,
        reason: str = "",
        force: bool = False,
        allow_older: bool = False,
        ci_skip: bool = False,
    ) -> str:
        """Assign a version to a stage; returns the tag.

        Without `ci_skip` the tag starts a pipeline, which rolls the version out.
        """
        parse_stage(stage)
        self.sync()
        state = self.state()
        if state.serves(stage, version):
            return state.serving[stage].tag
        overridden = self.check(version, stage, reason, force, allow_older)
        forced = policy.FORCED + overridden if overridden else ""
        message = policy.compose(f"{version.tag} to {stage}", policy.because(reason), forced)
        return self._writer.assign(state.versions[version].commit, stage, message, ci_skip)

    def rollback(
        self, stage: str, to: Version | None = None, reason: str = "", ci_skip: bool = False
    ) -> str:
        """Assign to a stage the version that it served before; returns the tag.

        Idempotent: a stage that was rolled back stays there. To go further back, name the version.
        """
        parse_stage(stage)
        self.sync()
        state = self.state()
        served, now = state.served(stage), state.serving.get(stage)
        if now is None:
            raise RegistryError(f"{stage} serves nothing: there is nothing to roll back")
        if to is None and policy.went_back(served):
            return now.tag
        to = to or policy.before(state, stage, now.version)
        self._known(state, to)
        if to not in {move.version for move in served}:
            raise RegistryError(f"{stage} never served {to.tag}: promote it instead")
        why = reason if policy.clean(reason) else f"Back from {now.version.tag}"
        return self.assign(to, stage, why, force=True, allow_older=True, ci_skip=ci_skip)

    def retire(self, version: Version, reason: str = "", ci_skip: bool = True) -> str:
        """Retire a version, so that no stage takes it any more; returns the tag."""
        self.sync()
        state = self.state()
        self._known(state, version)
        if version in state.retired:
            return state.retired[version].name
        for stage in STAGES:
            if state.serves(stage, version):
                raise RegistryError(
                    f"{stage} serves {version.tag}: roll back or promote another first "
                    f"(make rollback STAGE={stage})"
                )
        message = policy.compose(f"{version.tag} is retired", policy.because(reason))
        return self._writer.retire(version, message, ci_skip)

    def requested(self, tag: str) -> Move:
        """The assignment that a pushed tag requests, checked against the policy.

        A tag that was created by hand may violate it. Reads the local tags: sync() first.
        """
        state = self.state()
        move = self._move(state, tag)
        if move.version in state.retired:
            raise RegistryError(f"tag {tag}: {move.version.tag} is retired: delete the tag")
        if (newest := state.serving.get(move.stage)) != move:
            since = newest.tag if newest else "its withdrawal"
            raise RegistryError(f"tag {tag} is outdated: {since} is newer")
        objections = list(policy.objections(state, move.version, move.stage, allow_older=True))
        if objections and not policy.is_forced(move):
            raise RegistryError(
                f"tag {tag}: {'; '.join(objections)}; delete the tag, or give it a message with a "
                f"line that begins '{policy.FORCED}'"
            )
        return move

    def withdraw(self, tag: str, reason: str = "", ci_skip: bool = True) -> str:
        """Withdraw an assignment whose rollout failed: the one before it counts again."""
        self.sync()
        state = self.state()
        move = self._move(state, tag)
        if move.withdrawn:
            return tag
        moves = state.served(move.stage)
        if any(it.version == move.version for it in moves[: moves.index(move)]):
            raise RegistryError(
                f"tag {tag} is outdated: the version was assigned to {move.stage} again"
            )
        message = policy.compose(f"{move.version.tag} not to {move.stage}", policy.because(reason))
        commit = state.versions[move.version].commit
        return self._writer.unassign(commit, move.stage, message, ci_skip)

    def _known(self, state: State, version: Version) -> None:
        if version not in state.versions:
            raise RegistryError(f"version {version.tag} is not registered: make models lists them")

    def _move(self, state: State, tag: str) -> Move:
        stage = parse_stage(parse_assignment(tag).stage)
        for move in state.moves.get(stage, []):
            if move.tag == tag:
                return move
        raise RegistryError(
            f"tag {tag} is missing, or on a commit without a version: git fetch --tags origin, "
            f"or register the commit first"
        )

    def _refuse_outdated(self, state: State, commit: str) -> None:
        """An older pipeline that finishes last must not register the newest version."""
        if self.repository.git("rev-parse", "--is-shallow-repository") == "true":
            raise RegistryError(
                "this clone is shallow and cannot order commits: "
                "git fetch --unshallow origin (in GitLab CI: GIT_DEPTH: 0)"
            )
        pattern = f"refs/tags/{self.name}@*"
        words = ("for-each-ref", f"--contains={commit}", "--format=%(refname:strip=2)", pattern)
        newer = set(self.repository.git(*words).split("\n"))
        if found := max((it for it in state.versions if it.tag in newer), default=None):
            raise Outdated(
                f"commit {commit[:12]} is outdated: {found.tag} was registered from a later one"
            )


def open_registry(folder: Path = Path(".")) -> Registry:
    """The registry of the model named in a folder's `params.yaml`."""
    return Registry(Repository(folder), model_name(folder))
