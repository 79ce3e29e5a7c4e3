"""Clones without the whole history, and clones that lack files, as people and CI make them."""

import subprocess
from pathlib import Path


def clone_in_part(source: Path, folder: Path, option: str) -> Path:
    """Clone with an option such as `--depth=1` or `--filter=blob:none`; `origin` is gone then."""
    origin = folder.with_name("origin.git")
    for command in (
        ["git", "clone", "--quiet", "--bare", str(source), str(origin)],
        ["git", "-C", str(origin), "config", "uploadpack.allowFilter", "true"],
        ["git", "clone", "--quiet", option, origin.as_uri(), str(folder)],
    ):
        subprocess.run(command, check=True)
    origin.rename(origin.with_name("gone.git"))
    return folder
