"""The job `secrets` is green: what gitleaks takes for a secret here stands in its allowlist.

The story of `make e2e` runs the job over a history; here are the files of the working tree.
"""

from tests.conftest import ROOT, run
from tests.fakes.gitleaks import SKIPPED, allowed, secrets


def test_gitleaks_finds_only_what_is_allowed() -> None:
    rules = allowed(ROOT)
    found = {
        (name, secret)
        for name in run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")[:-1]
        if not SKIPPED.search(name) and (ROOT / name).is_file()
        for secret in secrets((ROOT / name).read_text(encoding="utf-8", errors="replace"))
    }
    assert {it for it in found if not any(rule.search(it[1]) for rule in rules)} == set()
    for rule in rules:
        assert any(rule.search(secret) for _, secret in found), f"{rule.pattern} is not needed"


def test_a_secret_would_be_found() -> None:
    value = "3f9Kq" + "81LmZx" + "07TyBv"  # in parts, so that it is none in this file
    assert list(secrets(f'API_KEY = "{value}"')) == [value]
    assert list(secrets(f"password: {value}\n")) == [value]
    assert list(secrets('token = "aaaaaaaaaaaaaaaa"')) == []
    token = "gldt-" + "X7y_Qp2Lk9" + "mZ4tR8vW1c"
    assert token in secrets(f"https://reader:{token}@gitlab.example.com/team/name.git")
    assert list(secrets("gldt-" + "a" * 20)) == []
