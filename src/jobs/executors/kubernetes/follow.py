"""The log of a pod, brought into the log of the job: each line once, whatever is killed when.

The API gives the lines since a second. What was written of that second is written again, over
itself: a note says where in the file it begins.
"""

import os
from pathlib import Path

from pydantic import BaseModel

from contracts.files import replace_file

SECOND = len("2026-11-30T06:52:00")


class Note(BaseModel):
    """How far the log of an attempt is here."""

    pod: str = ""
    second: str = ""
    """Of the last line, in RFC 3339."""
    offset: int = -1
    """Where the lines of that second begin in the file; -1: at its end."""


def read_note(path: Path) -> Note:
    """The note of an attempt; an empty one if there is none."""
    try:
        return Note.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return Note()


def add(lines: str, pod: str, note: Note, path: Path, log: Path) -> None:
    """Write the lines of a pod, each with its time before it, since `note.second`."""
    stamped = [_split(line) for line in lines.splitlines(keepends=True)]
    if not stamped:
        return
    with log.open("ab") as file:
        end = file.tell()
    offset = note.offset if note.pod == pod and 0 <= note.offset <= end else end
    if note.pod != pod:  # before anything is written, so that it is written once
        _keep(Note(pod=pod, second=stamped[0][0], offset=offset), path)
    content = "".join(text for _, text in stamped).encode()
    with log.open("r+b") as file:
        file.seek(offset)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    last = stamped[-1][0]
    before = sum(len(text.encode()) for second, text in stamped if second < last)
    _keep(Note(pod=pod, second=last, offset=offset + before), path)


def _split(line: str) -> tuple[str, str]:
    stamp, _, text = line.partition(" ")
    return stamp[:SECOND], text


def _keep(note: Note, path: Path) -> None:
    replace_file(path, note.model_dump_json())
