"""Errors of a command line are one sentence that leads on."""

import subprocess
import sys

import pytest

from contracts.commands import Parser
from tests.conftest import ROOT


def parser() -> Parser:
    found = Parser(prog="tool")
    line = found.add_subparsers(dest="command").add_parser("map")
    line.add_argument("--offset", type=int)
    return found


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("map", "--ofset", "3"), "error: unrecognized arguments: --ofset 3: see tool map --help"),
        (("--map",), "error: unrecognized arguments: --map: see tool --help"),
        (("mapp",), "error: argument command: invalid choice: 'mapp' (choose from 'map')"),
        (("map", "--offset", "x"), "error: argument --offset: invalid int value: 'x'"),
        (("map", "--offset", "-1,2"), "(one that begins with - is written --option=VALUE): see"),
    ],
)
def test_an_error_names_the_help_of_the_command_that_was_typed(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in error_of(capsys, *arguments)


def test_a_right_line_is_read() -> None:
    assert parser().parse_args(["map", "--offset=-1000"]).offset == -1000


def run(program: str, reader: str) -> subprocess.CompletedProcess[str]:
    """Run a command of these lines whose output a shell's reader reads, as in `| head`."""
    head = "from contracts import commands\n@commands.command(ValueError)\ndef main():"
    code = f"{head}\n{program}\nmain()"
    line = ["bash", "-c", f'"$0" -c "$1" | {reader}; echo "ended ${{PIPESTATUS[0]}}"']
    return subprocess.run(
        [*line, sys.executable, code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    done = run("  for n in range(10**6): print(n)", "head -1")
    assert (done.stdout, done.stderr) == ("0\nended 141\n", "")
    done = run("  print('few')", "true")
    assert done.stderr == ""


def test_another_pipe_that_breaks_is_an_error() -> None:
    done = run("  print('seen'); raise BrokenPipeError('of a program')", "cat")
    assert done.stdout == "seen\nended 1\n" and "BrokenPipeError: of a program" in done.stderr
