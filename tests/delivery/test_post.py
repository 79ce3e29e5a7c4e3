"""Posting the report: by the real CML, where it is installed, and by its stand-in."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery import cml, comment
from delivery.comment import COMMENT, main, post, shortened
from delivery.errors import DeliveryError
from tests.conftest import ROOT
from tests.fakes import http
from tests.fakes.gitlab.server import NUMBER, PATH, FakeGitLab, HTTPHandler, serving
from tests.fakes.gitlab.state import Request
from tests.make.certificates import authority

REAL = ROOT / "ci" / "cml" / "node_modules" / ".bin"
STAND_IN = ROOT / "tests" / "e2e" / "bin"
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
NAMES = ("metrics", "confusion", "mistakes", "a map (1)")
REPORT = """# landcover: ✅ the gate is open

Accuracy **91.20%**.

| floor | measured |
|---|---|
| `accuracy_x` | `91.20%` |

## Pictures

""" + "\n\n".join(f"![{name}](<pictures/{name}.png>)" for name in NAMES)


@pytest.fixture
def api() -> Iterator[FakeGitLab]:
    with serving() as fake:
        yield fake


@pytest.fixture
def job(api: FakeGitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of merge request !1 with a report, as the working directory."""
    enter(api, tmp_path, monkeypatch)
    return tmp_path


def enter(api: FakeGitLab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.open_merge_request("wide", sha="a" * 40)
    for name in list(os.environ):
        if name.startswith(("CI_", "CML_")) or name == "REPO_TOKEN":
            monkeypatch.delenv(name)
    variables = {
        "HOME": str(folder),  # CML writes to Git's settings of its user
        "CI_SERVER_URL": api.url,
        "CI_PROJECT_URL": api.web_url,
        "CI_PROJECT_ID": str(NUMBER),
        "CI_JOB_URL": f"{api.web_url}/-/jobs/7",
        "CI_MERGE_REQUEST_IID": "1",
        "CI_COMMIT_SHA": "a" * 40,
        "BOT_TOKEN": api.admit(user="bot", level=30),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    pictures = folder / "reports" / "pictures"
    pictures.mkdir(parents=True)
    for name in NAMES:
        (pictures / f"{name}.png").write_bytes(PNG + name.encode())
    COMMENT.write_text(REPORT, encoding="utf-8")


def install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put one of the two programs first in PATH."""
    if name == "real" and not (REAL / "cml").exists():
        pytest.skip("CML is not installed: make setup-e2e")
    folder = {"real": REAL, "stand-in": STAND_IN}[name]
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    install("stand-in", monkeypatch)


both = pytest.mark.parametrize("program", ["real", "stand-in"])


def bodies(api: FakeGitLab, user: str = "bot") -> list[str]:
    return [note["body"] for note in api.notes[1] if note["author"]["username"] == user]


def pictures(api: FakeGitLab, body: str) -> list[str]:
    """What the pictures of a comment lead to, without the beginning of each file."""
    links = [link for link in api.uploads if f"({link})" in body or f"(<{link}>)" in body]
    return [api.uploads[link].removeprefix(PNG).decode() for link in links]


@both
def test_one_comment_with_four_pictures_is_written_and_then_renewed(
    api: FakeGitLab, job: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    install(program, monkeypatch)
    post()
    (body,) = bodies(api)
    assert sorted(pictures(api, body)) == sorted(NAMES)
    assert "| `accuracy_x` | `91.20%` |" in body and "✅" in body
    first = api.notes[1][0]["id"]
    COMMENT.write_text(REPORT.replace("open", "closed"), encoding="utf-8")
    monkeypatch.setenv("CI_COMMIT_SHA", "b" * 40)
    post()
    (body,) = bodies(api)
    assert "the gate is closed" in body and api.notes[1][0]["id"] == first
    for number in range(20):
        api.add_note(1, f"note {number}", system=True)
    post()
    assert len(bodies(api)) == 1 and api.notes[1][-1]["body"] == bodies(api)[0], "it was buried"


@both
def test_refusals_of_gitlab_end_with_their_cure(
    api: FakeGitLab, job: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """As CML words them; for 401, GitLab refuses the list of comments first."""
    install(program, monkeypatch)
    for (request, status), cure in {
        (("POST", "notes"), 403): cml.ROLE,
        (("GET", "version"), 401): cml.TOKEN,
        (("POST", "notes"), 413): cml.SIZE,
    }.items():
        api.broken = {request: (status, b"{}")}
        with pytest.raises(DeliveryError) as refused:
            post()
        assert str(refused.value) == cure, status
    api.broken.clear()
    post()
    assert len(bodies(api)) == 1, "the next good one works"


@both
def test_a_report_that_is_too_large_is_posted_as_its_verdict(
    api: FakeGitLab, job: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    install(program, monkeypatch)
    COMMENT.write_text(REPORT + "word " * 400_000, encoding="utf-8")
    post()
    (body,) = bodies(api)
    assert "the gate is open" in body and "91.20%" in body and "word" not in body
    assert f"({api.web_url}/-/jobs/7/artifacts/file/reports/report.html)" in body
    assert len(COMMENT.read_text(encoding="utf-8")) > 2_000_000, "the whole one is kept"


@both
def test_a_gitlab_with_a_port_and_below_a_path_gets_the_comment(
    api: FakeGitLab, job: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    install(program, monkeypatch)
    api.prefix = "/gitlab"
    monkeypatch.setenv("CI_SERVER_URL", f"{api.url}/gitlab")
    monkeypatch.setenv("CI_PROJECT_URL", f"{api.url}/gitlab/{PATH}")
    for _ in range(2):
        post()
        (body,) = bodies(api)
        assert "the gate is open" in body and len(api.uploads) >= len(NAMES)


def test_pictures_that_are_too_large_cost_the_pictures_alone(
    api: FakeGitLab, job: Path, stand_in: None
) -> None:
    api.broken = {("POST", "uploads"): (413, b"<html>")}
    post()
    assert "the gate is open" in bodies(api)[0] and "artifacts/file" in bodies(api)[0]


def test_comments_of_others_with_the_mark_are_left_alone(
    api: FakeGitLab, job: Path, stand_in: None
) -> None:
    """A person quotes the report; a bot of an earlier token wrote one, and its user is gone."""
    post()
    (body,) = bodies(api)
    api.notes[1].clear()
    api.add_note(1, body, author={"username": "ghost"})
    api.add_note(1, f"> {body}\n\nAre you sure?")
    others = [note["body"] for note in api.notes[1]]
    for _ in range(2):
        post()
        assert [note["body"] for note in api.notes[1][:2]] == others
        assert len(bodies(api)) == 1


def test_a_comment_that_another_bot_writes_meanwhile_is_no_obstacle(
    api: FakeGitLab, job: Path, stand_in: None
) -> None:
    """CML then renews that one, which GitLab refuses: a new one takes the place of the own."""
    post()
    (body,), old = bodies(api), api.notes[1][0]["id"]
    changes = len(api.changes())

    def interfere(request: Request) -> None:
        if request.method == "POST" and len(api.changes()) == changes:
            api.add_note(1, body, author={"username": "ghost"})
            api.notes[1].reverse()  # an older one

    api.meanwhile = interfere
    post()
    assert bodies(api, "ghost") == [body] and len(bodies(api)) == 1
    assert old not in [note["id"] for note in api.notes[1]]


def test_a_closed_merge_request_still_gets_the_comment(
    api: FakeGitLab, job: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    api.merge_requests[0]["state"] = "closed"
    post()
    assert len(bodies(api)) == 1
    assert "the merge request is closed: reopen it" in capsys.readouterr().out


def test_an_expired_token_names_itself_and_the_report_is_not_lost(
    api: FakeGitLab, job: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compose(*_: object) -> str:
        return REPORT

    monkeypatch.setattr(comment, "compose", compose)
    monkeypatch.setattr("sys.argv", ["comment"])
    monkeypatch.setenv("BOT_TOKEN", "glpat-expired")
    with pytest.raises(SystemExit) as refused:
        main()
    said = str(refused.value)
    assert "BOT_TOKEN is wrong, expired or revoked: make gitlab-setup APPLY=1 renews it" in said
    assert "The report is not lost: it is the artifact `Model report`, reports/report.html" in said
    assert COMMENT.read_text(encoding="utf-8") == REPORT


def test_what_cml_prints_becomes_a_sentence_with_the_cure(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of the real CML and of Node, on a runner that lacks what they need."""
    script = tmp_path / "bin" / "cml"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    for printed, code, cure in (
        ("env: 'node': No such file or directory", 127, "cml needs Node, which is missing"),
        ('{"level":"error","message":"token not found"}', 1, "CML has no token: set BOT_TOKEN"),
        ("unable to verify the first certificate", 1, "set PRIVATE_CA_FILE to its CA"),
        ("Failed to parse URL from /x/magic-js.wasm", 7, "ci/install cml"),
        ("something new", 3, "cml comment update ended with 3: see above"),
    ):
        script.write_text(
            f"#!/bin/sh\necho '{printed}' >&2\nexit {code}\n".replace("'node'", "node")
        )
        script.chmod(0o755)
        with pytest.raises(DeliveryError) as refused:
            cml.comment("update", COMMENT, "report", "token")
        assert cure in str(refused.value), printed


def test_a_job_installs_cml_and_says_what_it_cannot_install(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the report is written: a runner without Node or a registry keeps it."""
    monkeypatch.setenv("CI_JOB_ID", "7")
    script = job / "ci" / "install"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")
    message = "error: CML cannot be installed: set NPM_CONFIG_REGISTRY"
    script.write_text(f"#!/bin/sh\necho 'npm: no way' >&2\necho '{message}' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(DeliveryError, match="^CML cannot be installed: set NPM_CONFIG_REGISTRY"):
        post()
    script.write_text(f"#!/bin/sh\nln -s {STAND_IN}/$1 ci/$1\n")
    post()
    assert "the gate is open" in COMMENT.read_text(encoding="utf-8")


def test_a_cml_that_does_not_end_is_ended(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the real one waits for ever at a link to a folder."""
    script = tmp_path / "bin" / "cml"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cml, "LIMIT", 0.2)
    with pytest.raises(DeliveryError, match="is there a link to a folder in reports/comment.md"):
        cml.comment("update", COMMENT, "report", "token")


def test_a_verdict_has_whole_lines_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_JOB_URL", raising=False)
    rows = "\n".join(f"| floor {number} | met |" for number in range(5_000))
    text = shortened(f"# model: ✅\n\n{rows}\n\n## Metrics\n\nmore\n")
    assert text.startswith("# model: ✅\n") and "more" not in text
    assert len(text) < comment.VERDICT + 500
    assert all(line.endswith("| met |") for line in text.splitlines() if line.startswith("|"))
    assert "the whole is the file `reports/report.html`" in text


def test_the_real_cml_trusts_a_private_ca_by_what_ci_credentials_hands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("real", monkeypatch)
    certificate, key = authority(tmp_path, "private")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    api = FakeGitLab()
    with http.serving(HTTPHandler, api, context) as api.url:
        enter(api, tmp_path, monkeypatch)
        monkeypatch.setenv("CI_PROJECT_DIR", str(tmp_path))
        token = os.environ["BOT_TOKEN"]
        with pytest.raises(DeliveryError, match="set PRIVATE_CA_FILE to its CA"):
            cml.comment("update", COMMENT, "report", token)
        monkeypatch.setenv("PRIVATE_CA_FILE", str(certificate))
        script = f". {ROOT}/ci/credentials && printenv NODE_EXTRA_CA_CERTS"
        found = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", found.stdout.strip())
        cml.comment("update", COMMENT, "report", token)
        assert len(bodies(api)) == 1
