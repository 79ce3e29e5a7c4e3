"""Every command does and prints the same, whatever a user has configured for their own Git."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.commit import LOCK
from delivery.registry.__main__ import main
from delivery.retrain import cooldown
from delivery.tags import parse_version
from tests.delivery.conftest import Project, run_git
from tests.make import git_configuration


def signed_commit(project: Project) -> str:
    """Write a commit with a signature, which nobody can verify."""
    tree = project.repository.git("rev-parse", "HEAD^{tree}")
    who = "Ada <ada@example.org> 1700000000 +0000"
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n bm9uZQ==\n -----END PGP SIGNATURE-----"
    text = f"tree {tree}\nauthor {who}\ncommitter {who}\n{signature}\n\nSigned\n"
    return project.repository.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=text)


def signed_tag(project: Project) -> str:
    """Write a version as `git tag --sign` does, for who wants one; returns its message as read."""
    head = project.repository.git("rev-parse", "HEAD")
    text = f"object {head}\ntype commit\ntag landcover@v2.0.0\ntagger Ada <a@b> 1700000000 +0000\n"
    text += "\nBy hand\n-----BEGIN PGP SIGNATURE-----\n\nbm9uZQ==\n-----END PGP SIGNATURE-----\n"
    made = project.repository.git("hash-object", "-t", "tag", "-w", "--stdin", stdin=text)
    project.repository.git("update-ref", "refs/tags/landcover@v2.0.0", made)
    assert parse_version("v2.0.0", "landcover") in project.registry.state().versions
    return project.repository.message("landcover@v2.0.0")


@pytest.fixture
def configured(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a user have every such setting; the server, on this machine too, has its own hooks."""
    run_git("-C", str(project.origin), "config", "core.hooksPath", "hooks")
    folder = tmp_path / "user"
    project.train("one", "Trainé\n\nSee merge request group/project!7")
    project.git("tag", "--annotate", "--message=mine", "private")
    for name, value in git_configuration.write(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder)
    return folder


def test_no_configuration_of_git_changes_a_command(
    project: Project,
    configured: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository, registry = project.repository, project.registry

    def typed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["registry", *words])
        main()
        return capsys.readouterr().out

    def commit() -> str:
        project.write("dvc.lock", Path(LOCK).read_text(encoding="utf-8") + "\n")
        project.write("reports/new.json", "{}")
        assert repository.commit_files(["dvc.lock", "reports"], "Tränen\n\n# 1")
        assert not repository.commit_files(["dvc.lock", "reports"], "Tränen")
        return repository.git("log", "-1", "--format=%B")

    def fetch() -> bool:
        repository.fetch()
        return "private" in repository.tags("*")

    def switch() -> str:
        repository.git("switch", "--quiet", "--force-create", "retrain")
        repository.propose("retrain", "main", "Retrain", "retrain")
        return repository.git("branch", "--show-current")

    table: dict[str, tuple[Callable[[], object], object]] = {
        "register": (lambda: registry.register().tag, "landcover@v1.0.0"),
        "promote": (
            lambda: typed("promote", "v1.0.0", "staging"),
            "landcover#staging#1: staging serves landcover@v1.0.0\n",
        ),
        "the message of a version": (
            lambda: repository.message("landcover@v1.0.0").splitlines()[0],
            "landcover@v1.0.0",
        ),
        "lineage": (
            lambda: [text in typed("lineage", "v1.0.0") for text in ("group/project!7", "Trainé")],
            [True, True],
        ),
        "commit": (commit, "Tränen\n\n# 1"),
        "cool-down": (
            lambda: cooldown.record(repository, "# why", datetime(2026, 1, 1, tzinfo=UTC), "7"),
            "retrain/20260101T000000Z-7",
        ),
        "proposal": (switch, "retrain"),
        "staged": (repository.staged, []),
        "a signed commit": (
            lambda: repository.git("log", "-1", "--format=%B", signed_commit(project)),
            "Signed",
        ),
        "a signed tag": (lambda: signed_tag(project), "By hand"),
        "fetch": (fetch, True),
        "what origin got": (
            lambda: sorted(project.origin_tags()),
            ["landcover#staging#1", "landcover@v1.0.0",
             "retrain/20260101T000000Z-7"],
        ),
    }  # fmt: skip
    found = {name: command() for name, (command, _) in table.items()}
    assert found == {name: expected for name, (_, expected) in table.items()}
    assert git_configuration.hooks_that_ran(configured) == []
