"""The command lines of stages and commands."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

MAIN = "main"


def parse_none(name: str, description: str | None, arguments: Sequence[str]) -> None:
    """Parse the arguments of a stage, which has none: `--help` prints, all else exits with 2."""
    _parser(name, description).parse_args(arguments)


def parse_against(name: str, description: str | None, arguments: Sequence[str]) -> str:
    """Parse the arguments of a command that compares: the revision of `--against`."""
    parser = _parser(name, description)
    parser.add_argument(
        "--against", default=MAIN, metavar="REV", help="revision to compare with (default: main)"
    )
    against: str = parser.parse_args(arguments).against
    return against


def _parser(name: str, description: str | None) -> ArgumentParser:
    return ArgumentParser(
        prog=f"python -m pipeline.{name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
