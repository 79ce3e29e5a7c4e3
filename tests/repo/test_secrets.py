"""The job `secrets` is green: what gitleaks takes for a secret here stands in its allowlist.

gitleaks itself is not to be had where the tests run. This is its rule generic-api-key of v8.24, the
one of its 205 rules that finds something in this repository, with a part of the words that it
passes over; tried with all rules over the whole history in November 2026.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator

from tests.conftest import ROOT, run

KEY = re.compile(
    r"""(?i)[\w.-]{0,50}?(?:access|auth|(?-i:[Aa]pi|API)|credential|creds|key|passw(?:or)?d"""
    r"""|secret|token)(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)"""
    r"""[\x60'"\s=]{0,5}([\w.=-]{10,150}|[a-z0-9][a-z0-9+/]{11,}={0,3})(?:[\x60'"\s;]|\\[nr]|$)"""
)
NO_KEY = re.compile(r"(?i)^[a-z_.-]+$|^\$?\{?[a-z_]+\}?$|land")  # letters; a variable; a stopword
NOT_A_NAME = re.compile(
    r"(?i)(?:author|public[_.-]?key|foreign[_.-]?key|key[_.-]?(?:id|name|size|length)"
    r"|token[_.-]?name|csrf[_.-]?token|api[_.-]?(?:id|name|version)"
    r"|secret[_.-]?(?:length|name|size))"
)
LOCKS = re.compile(r"(?:^|/)(?:package-lock\.json|poetry\.lock|\.gitleaks\.toml)$|\.png$")
ENTROPY = 3.5  # bits a character


def test_gitleaks_finds_only_what_is_allowed() -> None:
    document = tomllib.loads((ROOT / ".gitleaks.toml").read_text(encoding="utf-8"))
    assert document["extend"]["useDefault"]
    allowed = [re.compile(pattern) for pattern in document["allowlist"]["regexes"]]
    found = {
        (name, secret)
        for name in run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")[:-1]
        if not LOCKS.search(name) and (ROOT / name).is_file()
        for secret in secrets((ROOT / name).read_text(encoding="utf-8", errors="replace"))
    }
    assert {it for it in found if not any(rule.search(it[1]) for rule in allowed)} == set()
    for rule in allowed:
        assert any(rule.search(secret) for _, secret in found), f"{rule.pattern} is not needed"


def test_a_secret_would_be_found() -> None:
    value = "3f9Kq" + "81LmZx" + "07TyBv"  # in parts, so that it is none in this file
    assert list(secrets(f'API_KEY = "{value}"')) == [value]
    assert list(secrets(f"password: {value}\n")) == [value]
    assert list(secrets('token = "aaaaaaaaaaaaaaaa"')) == []


def secrets(text: str) -> Iterator[str]:
    """What the rule finds in a text."""
    for match in KEY.finditer(text):
        if entropy(match[1]) >= ENTROPY and not NO_KEY.search(match[1]):
            if not NOT_A_NAME.search(match[0]):
                yield match[1]


def entropy(text: str) -> float:
    """Shannon's, bits a character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
