"""Run commands inside the test's process: what a person types, without the start of a Python."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock


def run_command(
    main: Callable[[], None], words: list[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Call `main` with these arguments, in a folder and an environment of its own.

    Output of its child processes is not captured. A test of each command starts a real process.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", [main.__module__, *words]),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:  # as the interpreter does: a text goes to stderr, and means 1
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def run_dvc_here(line: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Stand in for `subprocess.run`: `dvc ...` runs in this process, anything else in its own."""
    if line[0] != "dvc":
        return subprocess.run(line, **options)
    from dvc.cli import main

    return run_command(lambda: sys.exit(main(line[1:])), [*line[1:]], Path(), os.environ)
