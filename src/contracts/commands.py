"""The command line of a module: `--help` is its docstring, an error is one sentence."""

import functools
import io
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NoReturn

Main = Callable[[], None]


class Parser(ArgumentParser):
    """A parser whose errors are one sentence: make shows them without knowing the module."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2, as argparse does."""
        self.exit(2, f"error: {message}: see {self.prog} --help\n")


def parser(module: str, about: str | None) -> ArgumentParser:
    """The parser of `python -m module`."""
    return Parser(
        prog=f"python -m {module}",
        description=about,
        formatter_class=RawDescriptionHelpFormatter,
    )


def print_anything() -> None:
    """Let a terminal that lacks a letter (an accent, a mark) show its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def command(base: type[Exception]) -> Callable[[Main], Main]:
    """Turn errors of a tree into one sentence on stderr and exit code 1 (130 for Ctrl-C)."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run() -> None:
            print_anything()
            try:
                main()
            except base as error:
                sys.exit(f"error: {error}")
            except KeyboardInterrupt:
                sys.exit(130)

        return run

    return decorate
