"""Lines KEY=VALUE of a file that a person writes: each is read, or is an error.

python-dotenv passes over a line that it cannot read, and what that line was for would be left out
or taken away without a word.
"""

import io

from dotenv.parser import parse_stream

from delivery.errors import ValuesError


def read_lines(text: str, name: str) -> dict[str, str]:
    """The values by key, without the empty ones; `name` is the file's, for messages.

    Raises:
        ValuesError: a line is no KEY=VALUE, or a key is there twice. The message has no value.
    """
    found: dict[str, str] = {}
    for line in parse_stream(io.StringIO(text)):
        where = f"{name}, line {line.original.line}"
        if line.error or (line.key and line.value is None):
            raise ValuesError(f"{where}: it is no KEY=VALUE: correct it, and close each quote")
        if line.key in found:
            raise ValuesError(f"{where}: {line.key[:64]!a} is there twice: keep one")
        if line.key and line.value is not None:
            found[line.key] = line.value
    return {key: value for key, value in found.items() if value}
