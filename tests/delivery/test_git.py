"""Git as delivery uses it: real repositories, real refusals, and names that would bite."""

import subprocess
from pathlib import Path

import pytest

from delivery.errors import GitError
from delivery.git import BOT_EMAIL, BOT_NAME, Repository, environment
from tests.delivery.conftest import Project, hook
from tests.fakes import http as fakes_http
from tests.make.clones import clone_in_part
from tests.make.injection_strings import HOSTILE


def test_a_commit_is_found_by_any_name_that_git_knows(project: Project) -> None:
    head = project.git("rev-parse", "HEAD")
    project.git("tag", "--annotate", "--message=x", "landcover@v1.0.0")
    for name in ("HEAD", "main", "origin/main", "landcover@v1.0.0", head[:8], head):
        assert project.repository.commit(name) == head


def test_unknown_and_hostile_revisions_are_refused_and_run_nothing(project: Project) -> None:
    for text in ("v9", "main~99", "HEAD:data.dvc", *HOSTILE):
        with pytest.raises(GitError, match="revision .* is not in this repository: git fetch"):
            project.repository.commit(text)
    assert not list(project.folder.rglob("pwned"))


def test_a_file_is_shown_as_it_was_at_a_commit(project: Project) -> None:
    project.write("reports/metrics.json", "{}\n")
    old = project.commit()
    project.write("reports/metrics.json", "[]\n")
    project.commit()
    assert project.repository.show(old, "reports/metrics.json") == "{}\n"
    assert project.repository.show(old, "reports/other.json") is None


def test_a_file_that_a_partial_clone_cannot_fetch_is_not_taken_for_absent(
    project: Project, tmp_path: Path
) -> None:
    project.write("data.dvc", "old")
    old = project.commit()
    project.write("data.dvc", "new")
    project.commit()
    clone = Repository(clone_in_part(project.folder, tmp_path / "part", "--filter=blob:none"))
    assert clone.show("HEAD", "data.dvc") == "new"
    with pytest.raises(
        GitError, match=f"data.dvc at {old[:12]} cannot be read .*--refetch --no-filter origin"
    ):
        clone.show(old, "data.dvc")


def test_a_revision_that_a_shallow_clone_lacks_is_named_with_the_cure(
    project: Project, tmp_path: Path
) -> None:
    old = project.commit()
    project.commit()
    clone = Repository(clone_in_part(project.folder, tmp_path / "part", "--depth=1"))
    with pytest.raises(GitError, match="not in this repository: git fetch --unshallow --tags"):
        clone.commit(old)


def test_a_project_in_a_subfolder_reads_its_own_files(project: Project) -> None:
    project.write("inner/data.dvc", "inner")
    project.write("data.dvc", "outer")
    commit = project.commit()
    assert Repository(project.folder / "inner").show(commit, "data.dvc") == "inner"


def test_a_file_of_invalid_utf8_is_read(project: Project) -> None:
    project.write("params.yaml", b"a: \xff\n")
    assert (
        project.repository.show(project.commit(), "params.yaml") == "a: \N{REPLACEMENT CHARACTER}\n"
    )


def test_tags_are_listed_with_the_commits_that_they_name(project: Project) -> None:
    first = project.commit("one")
    project.git("tag", "landcover@v1.0.0")
    second = project.commit("two")
    project.git("tag", "--annotate", "--message=x", "landcover@v1.1.0")
    project.git("tag", "other@v1.0.0")
    assert project.repository.tags("landcover@*") == {
        "landcover@v1.0.0": first,
        "landcover@v1.1.0": second,
    }


@pytest.mark.parametrize("name", ["landcover@$(id)", "landcover@x\u2028y", "landcover@x\x85y"])
def test_a_strange_tag_is_listed_like_any_other(project: Project, name: str) -> None:
    project.git("tag", name)
    assert list(project.repository.tags("landcover@*")) == [name]


def test_only_an_annotated_tag_has_a_message(project: Project) -> None:
    project.git("tag", "--annotate", "--message=Why\n\nReason: because", "landcover@v1.0.0")
    project.git("tag", "landcover@v1.1.0")
    assert project.repository.message("landcover@v1.0.0") == "Why\n\nReason: because"
    assert project.repository.message("landcover@v1.1.0") == ""
    assert project.repository.message("landcover@v1.2.0") == ""


def test_a_message_of_invalid_utf8_is_read(project: Project) -> None:
    head = project.git("rev-parse", "HEAD").encode()
    body = b"object " + head + b"\ntype commit\ntag x\ntagger A <a@b> 1 +0000\n\nna\xefve\n"
    command = ["git", "-C", str(project.folder), "hash-object", "-t", "tag", "-w", "--stdin"]
    made = subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode()
    project.git("update-ref", "refs/tags/landcover@v1.0.0", made.strip())
    assert project.repository.message("landcover@v1.0.0") == "na\N{REPLACEMENT CHARACTER}ve"


def test_is_ancestor_is_true_for_commits_that_contain_another(project: Project) -> None:
    old, new = project.commit("one"), project.commit("two")
    assert project.repository.is_ancestor(old, new)
    assert project.repository.is_ancestor(old, old)
    assert not project.repository.is_ancestor(new, old)
    with pytest.raises(GitError):
        project.repository.is_ancestor("0" * 40, new)


def test_fetch_brings_tags(project: Project, tmp_path: Path) -> None:
    other = project.clone(tmp_path / "other")
    project.git("tag", "landcover@v1.0.0")
    project.git("push", "--quiet", "origin", "landcover@v1.0.0")
    other.repository.fetch()
    assert list(other.repository.tags("landcover@*")) == ["landcover@v1.0.0"]


def test_a_push_by_ci_skips_the_pipeline_and_a_push_by_a_person_does_not(
    project: Project, origin: Path
) -> None:
    hook(origin, "post-receive", f'echo "$GIT_PUSH_OPTION_0" > {origin}/options')
    project.git("tag", "one")
    project.repository.push("refs/tags/one", skip_ci=True)
    assert (origin / "options").read_text(encoding="utf-8") == "ci.skip\n"
    project.git("tag", "two")
    project.repository.push("refs/tags/two", skip_ci=False)
    assert (origin / "options").read_text(encoding="utf-8") == "\n"


def test_an_origin_that_takes_no_push_options_is_pushed_to_all_the_same(
    project: Project, origin: Path
) -> None:
    subprocess.run(
        ["git", "-C", str(origin), "config", "receive.advertisePushOptions", "false"], check=True
    )
    project.git("tag", "one")
    project.repository.push("refs/tags/one", skip_ci=True)
    assert "one" in project.origin_tags()


def test_a_push_goes_where_the_environment_says(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "other.git")], check=True)
    monkeypatch.setenv("PUSH_URL", str(tmp_path / "other.git"))
    project.git("tag", "one")
    project.repository.push("refs/tags/one")
    assert list(Repository(tmp_path / "other.git").tags("*")) == ["one"]
    assert "one" not in project.origin_tags()


def test_a_push_url_is_never_an_option(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_URL", "--receive-pack=touch pwned")
    with pytest.raises(GitError):
        project.repository.push("HEAD")
    assert not list(project.folder.rglob("pwned"))


def test_refs_are_pushed_atomically(project: Project, tmp_path: Path) -> None:
    other = project.clone(tmp_path / "other")
    other.git("tag", "taken")
    other.git("push", "--quiet", "origin", "taken")
    project.commit("Move on")
    project.git("tag", "taken")
    project.git("tag", "free")
    with pytest.raises(GitError, match="taken.*already exists"):
        project.repository.push("refs/tags/free", "refs/tags/taken")
    assert "free" not in project.origin_tags()


def test_the_message_of_the_server_is_shown(project: Project, origin: Path) -> None:
    said = "GitLab: You are not allowed to create this tag as it is protected."
    hook(origin, "pre-receive", f"echo '{said}' >&2; exit 1")
    project.git("tag", "one")
    with pytest.raises(GitError, match="not allowed to create this tag"):
        project.repository.push("refs/tags/one")


class Refusing(fakes_http.Handler[int]):
    """A server of Git that answers everything with one status."""

    def do_GET(self) -> None:
        self.reply(self.state, headers={"WWW-Authenticate": "Basic"} if self.state == 401 else {})


def test_a_push_that_fails_names_the_cause_and_the_cure(
    project: Project, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a real Git, and a server or ssh that refuses."""
    found = {}

    def refused(name: str, url: str = "") -> None:
        monkeypatch.setenv("PUSH_URL", url or str(origin))
        with pytest.raises(GitError) as error:
            project.repository.push("HEAD:refs/heads/x")
        found[name] = str(error.value)

    for status in (401, 403, 404):
        with fakes_http.serving(Refusing, status) as url:
            refused(f"HTTP {status}", f"{url}/x.git")
    refused("nobody listens", "http://127.0.0.1:9/x.git")
    refused("no such host", "http://gitlab.invalid/x.git")
    for said in ("Host key verification failed.", "git@x: Permission denied (publickey)."):
        monkeypatch.setenv("GIT_SSH_COMMAND", f"echo '{said}' >&2; exit 255; ")
        refused(said, "ssh://git@gitlab.example.com/x.git")
    said = "GitLab: You are not allowed to push code to protected branches on this project."
    hook(origin, "pre-receive", f"echo '{said}' >&2; exit 1")
    refused("protected")
    cures = {
        "HTTP 401": "renew the token",
        "HTTP 403": "renew the token",
        "HTTP 404": "git remote get-url origin",
        "nobody listens": "check the network, HTTPS_PROXY",
        "no such host": "check the network, HTTPS_PROXY",
        "Host key verification failed.": "known_hosts",
        "git@x: Permission denied (publickey).": "add your public key",
        "protected": "let this account push there",
    }
    assert {name: text for name, text in found.items() if cures[name] not in text} == {}
    assert found["protected"].startswith(f"git push: remote: {said.rstrip('.')}: ")


def test_a_missing_origin_is_named(project: Project) -> None:
    project.git("remote", "remove", "origin")
    with pytest.raises(GitError, match="'origin' does not appear to be a git repository"):
        project.repository.fetch()


def test_files_are_committed_once(project: Project) -> None:
    project.write("reports/metrics.json", "{}")
    assert project.repository.commit_files(["reports/metrics.json"], "Train\n\n$(touch pwned)")
    assert project.git("log", "-1", "--format=%B") == "Train\n\n$(touch pwned)"
    assert not project.repository.commit_files(["reports/metrics.json"], "Train")


def test_only_the_named_files_are_committed_and_staged_ones_stay_staged(
    project: Project,
) -> None:
    project.write("dvc.lock", "old")
    project.write("reports/old.json", "{}")
    project.commit()
    (project.folder / "reports" / "old.json").unlink()
    project.write("reports/new.json", "{}")
    project.write("dvc.lock", "new")
    project.write("unfinished.py", "x")
    project.git("add", "unfinished.py")
    assert project.repository.staged() == ["unfinished.py"]
    assert project.repository.commit_files(["dvc.lock", "reports"], "Train")
    changed = project.git("diff", "--name-only", "--no-renames", "HEAD~1", "HEAD").split()
    assert changed == ["dvc.lock", "reports/new.json", "reports/old.json"]
    assert project.repository.staged() == ["unfinished.py"]
    assert not project.repository.commit_files(["dvc.lock", "reports"], "Train")


def test_in_ci_the_bot_is_the_author(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    project.write("dvc.lock", "x")
    assert project.repository.commit_files(["dvc.lock"], "Train")
    said = project.repository.git("log", "-1", "--format=%an <%ae>, %cn <%ce>")
    assert said == f"{BOT_NAME} <{BOT_EMAIL}>, {BOT_NAME} <{BOT_EMAIL}>"


def test_the_token_is_in_no_argument_and_leaves_other_settings_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_TOKEN", "secret")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "conveyor.test")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "kept")
    asked = {"stdin": "protocol=https\nhost=gitlab.example.org\n\n"}
    answer = project.repository.git("-c", "core.askPass=", "credential", "fill", **asked)
    assert "username=conveyor\npassword=secret" in answer
    assert project.repository.git("config", "--get", "conveyor.test") == "kept"
    assert not [name for name in environment() if "secret" in environment()[name]][1:]


def test_messages_of_git_are_read_in_one_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert environment()["LC_ALL"] == "C"


def test_without_git_the_error_says_to_install_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git is not installed"):
        project.repository.git("status")
