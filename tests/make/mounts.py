"""Secrets that are mounted into a pod."""

import time
from pathlib import Path


def mount(folder: Path, name: str, files: dict[str, str]) -> None:
    """Change a Secret as a kubelet does: a link to a new folder replaces that to the old one."""
    content = folder / name / f"..{time.monotonic_ns()}"
    content.mkdir(parents=True)
    for file, text in files.items():
        (content / file).write_text(text)
    link = folder / name / "..new"
    link.symlink_to(content.name)
    link.replace(folder / name / "..data")
    for file in files:
        visible = folder / name / f".{file}"
        visible.symlink_to(f"..data/{file}")
        visible.replace(folder / name / file)
