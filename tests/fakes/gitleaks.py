"""A stand-in for gitleaks, which neither Debian nor a registry of packages has from its project.

True to the original, of which 8.30.1 was run over this repository's history in November 2026 and
found the same: the call of the job `secrets`; every line that a commit of any branch or tag has
added; .gitleaks.toml, whose allowlist is asked for the secret itself; exit code 1 for a leak. A
real gitleaks further on PATH is run instead.

Not true: of its 200 and more rules only those that find something here, generic-api-key with a part
of the words that it passes over, and gitlab-deploy-token.
"""

import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

BIN = Path(__file__).resolve().parents[1] / "e2e" / "bin"
CALL = ["git", "--redact", "--verbose", "."]
KEY = re.compile(
    r"""(?i)[\w.-]{0,50}?(?:access|auth|(?-i:[Aa]pi|API)|credential|creds|key|passw(?:or)?d"""
    r"""|secret|token)(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)"""
    r"""[\x60'"\s=]{0,5}([\w.=-]{10,150}|[a-z0-9][a-z0-9+/]{11,}={0,3})(?:[\x60'"\s;]|\\[nr]|$)"""
)
DEPLOY_TOKEN = re.compile(r"gldt-[0-9a-zA-Z_-]{20}")
NO_KEY = re.compile(r"(?i)^[a-z_.-]+$|^\$?\{?[a-z_]+\}?$|land")  # letters; a variable; a stopword
NOT_A_NAME = re.compile(
    r"(?i)(?:author|public[_.-]?key|foreign[_.-]?key|key[_.-]?(?:id|name|size|length)"
    r"|token[_.-]?name|csrf[_.-]?token|api[_.-]?(?:id|name|version)"
    r"|secret[_.-]?(?:length|name|size))"
)
SKIPPED = re.compile(r"(?:^|/)(?:package-lock\.json|poetry\.lock|\.gitleaks\.toml)$|\.png$")
ENTROPY = 3.5  # bits a character
ENTROPY_OF_TOKEN = 3.0  # of deploy tokens


def secrets(text: str) -> Iterator[str]:
    """What the rules find in a text."""
    for token in DEPLOY_TOKEN.findall(text):
        if entropy(token) >= ENTROPY_OF_TOKEN:
            yield token
    for match in KEY.finditer(text):
        if entropy(match[1]) >= ENTROPY and not NO_KEY.search(match[1]):
            if not NOT_A_NAME.search(match[0]):
                yield match[1]


def entropy(text: str) -> float:
    """Shannon's, bits a character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def allowed(folder: Path) -> list[re.Pattern[str]]:
    """The values that a project's .gitleaks.toml lists."""
    document = tomllib.loads((folder / ".gitleaks.toml").read_text(encoding="utf-8"))
    assert document["extend"]["useDefault"]
    return [re.compile(pattern) for pattern in document["allowlist"]["regexes"]]


def added(folder: Path) -> dict[str, str]:
    """File -> the lines that commits have added to it, in the whole history."""
    words = ["git", "-C", str(folder), "log", "--patch", "--unified=0", "--full-history", "--all"]
    done = subprocess.run(words, check=True, capture_output=True)
    found: dict[str, list[str]] = {}
    name = ""
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("+++ "):
            name = line.removeprefix("+++ ").removeprefix("b/")
        elif line.startswith("+"):
            found.setdefault(name, []).append(line[1:])
    return {name: "\n".join(lines) for name, lines in found.items() if not SKIPPED.search(name)}


def leaks(folder: Path) -> set[tuple[str, str]]:
    """File and secret, of those that no allowlist has."""
    rules = allowed(folder)
    return {
        (name, secret)
        for name, text in added(folder).items()
        for secret in secrets(text)
        if not any(rule.search(secret) for rule in rules)
    }


def main() -> None:
    """Be gitleaks in the working directory; secrets are not printed."""
    places = [it for it in os.environ["PATH"].split(os.pathsep) if Path(it).resolve() != BIN]
    if original := shutil.which("gitleaks", path=os.pathsep.join(places)):
        os.execv(original, ["gitleaks", *sys.argv[1:]])
    if sys.argv[1:] != CALL:
        sys.exit(f"gitleaks (stand-in): it is not called like this: {sys.argv[1:]}")
    found = leaks(Path.cwd())
    for name in sorted({name for name, _ in found}):
        print(f"Finding:     REDACTED\nRuleID:      generic-api-key\nFile:        {name}")
    sys.exit(f"leaks found: {len(found)}" if found else print("no leaks found"))


if __name__ == "__main__":
    main()
