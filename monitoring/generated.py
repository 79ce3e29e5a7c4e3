"""Files that a command makes: written when they differ, or compared by `--check`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from contracts import commands
from monitoring.errors import MonitoringError

Files = Mapping[str, str]
"""Path below a folder -> text."""


def differing(folder: Path, files: Files, pattern: str) -> list[str]:
    """Paths that are missing or differ, and files that match `pattern` and should not be there."""
    present = {str(path.relative_to(folder)) for path in folder.glob(pattern)}
    return sorted(
        name
        for name in files.keys() | present
        if name not in files or _read(folder / name) != files[name]
    )


def write(folder: Path, files: Files, pattern: str) -> list[str]:
    """Write files that differ, delete those that should not be there; returns their paths."""
    changed = differing(folder, files, pattern)
    for name in changed:
        path = folder / name
        if name in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[name], encoding="utf-8")
        else:
            path.unlink()
    return changed


def command_line(
    module: str, about: str, make: Callable[[], Files], folder: Path, pattern: str
) -> None:
    """Run a command that writes or checks generated files.

    Raises:
        MonitoringError: with `--check`, files differ.
    """
    parser = commands.parser(module, about)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if files differ")
    parser.add_argument("--folder", type=Path, default=folder, help=f"default: {folder}")
    options = parser.parse_args()
    files = make()
    if not options.check:
        changed = write(options.folder, files, pattern)
        print(f"{module}: wrote {', '.join(changed) or 'nothing, all files are current'}")
    elif changed := differing(options.folder, files, pattern):
        raise MonitoringError(
            f"{', '.join(changed)} in {options.folder}: not what `python -m {module}` writes; "
            "run it, and change its source instead of these files"
        )
    else:
        print(f"{module}: all {len(files)} files are current")


def _read(path: Path) -> str | None:
    return path.read_text("utf-8", "replace") if path.is_file() else None
