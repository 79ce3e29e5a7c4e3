"""Writing tags: two people at once, a process that is killed, an origin that refuses."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.tags import Version
from delivery.errors import GitError, RegistryError
from delivery.git import BOT_EMAIL, BOT_NAME
from tests.delivery.conftest import Project, hook

V1, V2 = Version("landcover", (1, 0, 0)), Version("landcover", (1, 1, 0))
STAGED = "landcover#staging#1"


@pytest.fixture
def released(project: Project) -> Project:
    """A project with two versions, in no stage."""
    project.release("one")
    project.release("two")
    return project


def run(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, whose number its hooks find in $VICTIM."""
    command = f'VICTIM=$$ exec "{sys.executable}" -m delivery.registry "$@"'
    return subprocess.run(
        ["bash", "-c", command, "registry", *words],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )


# Two at once


def test_one_of_two_simultaneous_promotions_is_refused(released: Project, tmp_path: Path) -> None:
    other = released.clone(tmp_path / "other")
    _while_pushing(released, other, "landcover#staging#1", "landcover@v1.1.0")
    with pytest.raises(RegistryError) as refused:
        released.registry.assign(V1, "staging")
    assert "landcover#staging#1 was pushed by another person at the same moment" in str(
        refused.value
    )
    assert released.registry.serving("staging") == V2
    tag = released.registry.assign(V1, "staging", "I looked", force=True)
    assert tag == "landcover#staging#2"
    assert released.registry.serving("staging") == V1


def test_one_of_two_simultaneous_registrations_is_refused(
    released: Project, tmp_path: Path
) -> None:
    other = released.clone(tmp_path / "other")
    other.commit("Another change", push=False)
    commit = released.train("three")
    _while_pushing(released, other, "landcover@v1.2.0", "HEAD")
    with pytest.raises(RegistryError, match="landcover@v1.2.0 was pushed by another person"):
        released.registry.register(commit)
    # The other's tag notes no interface, so the next number is a major one.
    assert released.registry.register(commit).text == "v2.0.0"


def test_an_outdated_clone_sees_the_tags_of_others(released: Project, tmp_path: Path) -> None:
    other = released.clone(tmp_path / "other")
    other.registry.assign(V2, "staging")
    with pytest.raises(RegistryError, match="outdated"):
        released.registry.assign(V1, "staging")


# Killed in the middle


def test_a_promotion_killed_before_its_push_can_be_repeated(
    released: Project,
) -> None:
    hook(released.origin, "pre-receive", 'kill -9 "$VICTIM"; exit 1')
    assert run(released, "promote", "v1.1.0", "staging").returncode == -signal.SIGKILL
    assert STAGED in released.repository.tags("*")
    assert STAGED not in released.origin_tags()
    (released.origin / "hooks" / "pre-receive").unlink()
    again = run(released, "promote", "v1.1.0", "staging")
    assert again.stdout == f"{STAGED}: staging serves landcover@v1.1.0\n"
    assert f"{STAGED} is not on origin and was deleted locally; git tag {STAGED}" in again.stderr
    assert STAGED in released.origin_tags()


def test_a_promotion_killed_after_its_push_has_taken_effect(released: Project) -> None:
    hook(released.origin, "post-receive", 'kill -9 "$VICTIM"')
    assert run(released, "promote", "v1.1.0", "staging").returncode == -signal.SIGKILL
    before = released.origin_tags()
    assert STAGED in before
    again = run(released, "promote", "v1.1.0", "staging")
    assert again.stdout == f"{STAGED}: staging serves landcover@v1.1.0\n"
    assert released.origin_tags() == before


def test_tags_of_a_killed_run_do_not_block_another_command(released: Project) -> None:
    released.git("tag", "--annotate", "--message=left", STAGED, "landcover@v1.1.0^{commit}")
    assert released.registry.assign(V1, "staging") == STAGED
    assert released.registry.serving("staging") == V1


def test_tags_of_a_killed_run_do_not_block_newer_tags(
    released: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = released.train("three")
    released.git("tag", "--annotate", "--message=left", "landcover@v1.2.0", "HEAD~1")
    left = released.git("rev-parse", "refs/tags/landcover@v1.2.0")
    other = released.clone(tmp_path / "other")
    shutil.copytree(released.folder / "model", other.folder / "model")
    assert other.registry.register(commit).tag == "landcover@v1.2.0"
    assert released.registry.register(commit).tag == "landcover@v1.2.0"
    assert released.repository.commit("landcover@v1.2.0") == commit
    assert (
        f"landcover@v1.2.0 differs on origin, which counts (the local one was {left})"
        in caplog.text
    )


def test_a_locally_missing_tag_is_fetched_from_origin(released: Project) -> None:
    released.registry.assign(V2, "staging")
    released.git("tag", "--delete", STAGED, "landcover@v1.1.0")
    assert released.registry.assign(V2, "staging") == STAGED
    assert len(released.origin_tags()) == 3


def test_tags_of_others_are_left_alone(released: Project) -> None:
    for tag in ("nightly", "other@v1.0.0", "landcover", "experiment/1-1"):
        released.git("tag", tag)
    released.git("push", "--quiet", "origin", "nightly")
    released.commit("Move on")
    released.git("tag", "--force", "nightly")
    released.registry.assign(V1, "staging")
    assert {"nightly", "other@v1.0.0", "landcover", "experiment/1-1"} <= set(
        released.repository.tags("**")
    )


# Origin says no


def test_a_tag_that_origin_refuses_does_not_stay(released: Project) -> None:
    hook(released.origin, "pre-receive", "echo 'GitLab: You are not allowed' >&2; exit 1")
    with pytest.raises(RegistryError) as refused:
        released.registry.assign(V1, "staging")
    said = "tag landcover#staging#1 was not pushed, nothing has changed: git push: "
    assert said in str(refused.value) and "GitLab: You are not allowed" in str(refused.value)
    assert STAGED not in released.repository.tags("*")
    (released.origin / "hooks" / "pre-receive").unlink()
    assert released.registry.assign(V1, "staging") == STAGED


def test_a_push_whose_response_was_lost_has_taken_effect(released: Project) -> None:
    hook(released.origin, "post-receive", "kill -9 $PPID")
    assert released.registry.assign(V1, "staging") == STAGED
    assert STAGED in released.origin_tags() and STAGED in released.repository.tags("*")


def test_an_unreachable_origin_is_reported_and_nothing_is_tagged(
    released: Project,
) -> None:
    released.origin.rename(released.origin.with_suffix(".away"))
    with pytest.raises(GitError, match="origin has the registry, and cannot be read: git fetch"):
        released.registry.assign(V1, "staging")
    assert list(released.repository.tags("landcover#*")) == []
    assert released.registry.serving("staging") is None


# Who, and whether a pipeline starts


def test_a_promotion_starts_a_pipeline_and_a_tag_of_ci_does_not(released: Project) -> None:
    hook(released.origin, "post-receive", f'echo "$GIT_PUSH_OPTION_0" > {released.origin}/options')
    options = released.origin / "options"
    released.registry.assign(V1, "staging")
    assert options.read_text(encoding="utf-8") == "\n"
    released.registry.assign(V2, "staging", ci_skip=True)
    assert options.read_text(encoding="utf-8") == "ci.skip\n"
    released.registry.rollback("staging")
    assert options.read_text(encoding="utf-8") == "\n"
    released.registry.retire(V2)
    assert options.read_text(encoding="utf-8") == "ci.skip\n"


def test_a_tag_names_its_author(released: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    form = "--format=%(taggername) %(taggeremail)"
    released.registry.assign(V1, "staging")
    assert released.git("for-each-ref", form, f"refs/tags/{STAGED}") == "Ada <ada@example.org>"
    monkeypatch.setenv("CI", "true")
    tag = released.registry.assign(V2, "staging")
    said = released.git("for-each-ref", form, f"refs/tags/{tag}")
    assert said == f"{BOT_NAME} <{BOT_EMAIL}>"
    assert "GIT_COMMITTER_NAME" not in os.environ


def test_writing_without_an_identity_of_git_is_refused(
    released: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(released.origin / "nowhere"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    released.git("config", "--unset", "user.email")
    released.git("config", "user.useConfigOnly", "true")
    with pytest.raises(GitError, match="git config --global user.name"):
        released.registry.assign(V1, "staging")


# What GTO does not take


def test_a_version_whose_tag_has_no_message_can_be_assigned(
    project: Project,
) -> None:
    project.train("one")
    project.git("tag", "landcover@v1.0.0")
    project.git("push", "--quiet", "origin", "landcover@v1.0.0")
    assert project.registry.assign(V1, "staging") == STAGED
    assert project.registry.serving("staging") == V1
    with pytest.raises(RegistryError, match="GTO refuses: .* it reads only annotated tags"):
        project.registry.withdraw(STAGED)


def test_an_assignment_without_a_message_as_gitlabs_page_makes_it_can_be_taken_back(
    released: Project,
) -> None:
    released.git("tag", "landcover#staging#7", "landcover@v1.0.0^{commit}")
    released.git("push", "--quiet", "origin", "landcover#staging#7")
    assert released.registry.withdraw("landcover#staging#7") == "landcover#staging!#8"
    assert released.registry.serving("staging") is None


def test_a_refusal_of_gto_is_reported_in_one_line(project: Project) -> None:
    project.train("one")
    for tag in ("landcover@v1.0.0", "landcover@v1.1.0", "landcover#production#1"):
        project.git("tag", "--annotate", "--message=by hand", tag)
        project.git("push", "--quiet", "origin", tag)
    with pytest.raises(RegistryError) as refused:
        project.registry.assign(V2, "staging")
    message = str(refused.value)
    assert message.startswith(
        "GTO refuses: Multiple versions are not allowed on the same Git commit"
    )
    assert message.endswith("git tag --list 'landcover*'") and "\n" not in message


def test_a_tag_unreadable_for_gto_gives_a_sentence(released: Project) -> None:
    head = released.git("rev-parse", "HEAD").encode()
    body = b"object " + head + b"\ntype commit\ntag x\ntagger A <a@b> 1 +0000\n\nna\xefve\n"
    command = ["git", "-C", str(released.folder), "hash-object", "-t", "tag", "-w", "--stdin"]
    made = subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode()
    released.git("update-ref", "refs/tags/other@v1.0.0", made.strip())
    with pytest.raises(RegistryError, match="GTO refuses: 'utf-8' codec"):
        released.registry.assign(V1, "staging")


def _while_pushing(project: Project, other: Project, tag: str, where: str) -> None:
    """Another person's tag arrives between our look at origin and our push."""
    other.git("tag", "--annotate", "--message=faster", tag, f"{where}^{{commit}}")
    # Without the variables of the push that origin is receiving, which forbid a second one.
    push = f"env -i PATH=\"$PATH\" git -C '{other.folder}' push --quiet origin 'refs/tags/{tag}'"
    once = f"{project.origin}/hooks/pre-receive"
    hook(project.origin, "pre-receive", f'rm -f "{once}"; {push}')
