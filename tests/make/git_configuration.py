"""A configuration of Git as people and companies have it, of which no command may take notice.

Every program that it names fails, and leaves a file behind if it is a hook.
"""

from pathlib import Path

HOOKS = (
    *("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "pre-push", "pre-rebase"),
    *("post-checkout", "post-merge", "reference-transaction", "post-index-change"),
)
SETTINGS = """
[user]
    name = Ada
    email = ada@example.org
    signingKey = NOBODY
[gpg]
    program = {missing}
[commit]
    gpgSign = true
    template = {missing}
    cleanup = scissors
[tag]
    gpgSign = true
    forceSignAnnotated = true
    sort = -version:refname
[push]
    default = nothing
    followTags = true
    gpgSign = true
[fetch]
    prune = true
    pruneTags = true
[core]
    hooksPath = {hooks}
    autocrlf = true
    safecrlf = true
    quotePath = true
    pager = {missing}
    editor = {missing}
[init]
    templateDir = {template}
    defaultBranch = trunk
    defaultObjectFormat = sha256
    defaultRefFormat = reftable
[diff]
    external = {missing}
    orderFile = {missing}
    noprefix = true
    renames = copies
[log]
    showSignature = true
    follow = true
    date = relative
[format]
    pretty = oneline
[color]
    ui = always
[status]
    branch = true
    short = true
[i18n]
    commitEncoding = ISO-8859-1
    logOutputEncoding = ISO-8859-1
[branch]
    autoSetupMerge = always
[submodule]
    recurse = true
[feature]
    manyFiles = true
"""


def write(folder: Path) -> dict[str, str]:
    """Write it; returns the variables under which Git, and what else reads them, find it."""
    hooks, template = folder / "hooks", folder / "template"
    for place in (hooks, template / "hooks"):
        place.mkdir(parents=True)
        for name in HOOKS:
            script = f"#!/bin/sh\necho {name} >> '{folder}/hooks-that-ran'\nexit 1\n"
            (place / name).write_text(script, encoding="utf-8")
            (place / name).chmod(0o755)
    missing = folder / "missing"
    text = SETTINGS.format(hooks=hooks, template=template, missing=missing)
    (folder / "gitconfig").write_text(text, encoding="utf-8")
    return {
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        "GIT_EXTERNAL_DIFF": str(missing),
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "tr_TR.UTF-8",
        "LANGUAGE": "de",
        "TZ": "Asia/Kathmandu",
    }


def hooks_that_ran(folder: Path) -> list[str]:
    """Names of the hooks that ran."""
    file = folder / "hooks-that-ran"
    return file.read_text(encoding="utf-8").split() if file.exists() else []
