"""The command line of a module: `--help` is its docstring, an error is one sentence."""

import functools
import io
import os
import select
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any, NoReturn

Main = Callable[[], None]


class Parser(ArgumentParser):
    """A parser whose errors are one sentence: make shows them without knowing the module."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse the rest here: the error of a command names the help of that command."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Exit with 2, as argparse does."""
        if message.endswith("expected one argument"):
            message += " (one that begins with - is written --option=VALUE)"
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


def _is_read() -> bool:
    """Whether what is printed still has a reader."""
    watch = select.poll()
    watch.register(sys.stdout, 0)
    return not any(event & select.POLLERR for _, event in watch.poll(0))


def command(base: type[Exception]) -> Callable[[Main], Main]:
    """Turn errors of a tree into one sentence on stderr and exit code 1 (130 for Ctrl-C).

    A reader that has seen enough, as in `| head`, ends it without a word, with the shell's 141.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run() -> None:
            print_anything()
            try:
                main()
                sys.stdout.flush()
            except base as error:
                sys.exit(f"error: {error}")
            except BrokenPipeError:
                if _is_read():
                    raise
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            except KeyboardInterrupt:
                sys.exit(130)

        return run

    return decorate
