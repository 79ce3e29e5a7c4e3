"""Structured logs: one JSON object per line on stdout, without contents of uploads and keys."""

import asyncio
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime

MOMENT = 0.02  # seconds that a line may wait for others
ALWAYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes time, level, event, and the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in ALWAYS}
        line.pop("color_message", None)  # uvicorn's
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send every logger's records to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # broken uploads are common
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class AccessLog:
    """One line per request, without the logging module, which costs more than the rest of it."""

    def __init__(self, enabled: bool = True, descriptor: int | None = None) -> None:
        """Write to a file descriptor, stdout by default."""
        self._enabled = enabled
        self._descriptor = sys.stdout.fileno() if descriptor is None else descriptor
        self._lines: list[str] = []
        self._second = 0
        self._stamp = ""

    def write(
        self,
        request_id: str,
        method: str,
        route: str,
        status: int,
        seconds: float,
        tag: str,
        prediction: str,
    ) -> None:
        """Write the line of one request; the grammar of each text excludes what needs escaping.

        `prediction` is the id of the prediction, empty without one; the line has it only if it
        differs from the id of the request.
        """
        if not self._enabled:
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        own = f',"prediction":"{prediction}"' if prediction and prediction != request_id else ""
        line = (
            f'{{"time":"{self._stamp}.{int((now - second) * 1000):03d}Z","level":"info",'
            f'"event":"request","id":"{request_id}","method":"{method}","route":"{route}",'
            f'"status":{status},"ms":{seconds * 1000:.3f},"model":"{tag}"{own}}}\n'
        )
        self._lines.append(line)
        if len(self._lines) == 1:
            # One system call for all requests of a moment.
            asyncio.get_running_loop().call_later(MOMENT, self.flush)

    def flush(self) -> None:
        """Write the buffered lines."""
        content, self._lines = "".join(self._lines).encode(), []
        while content:
            content = content[os.write(self._descriptor, content) :]
