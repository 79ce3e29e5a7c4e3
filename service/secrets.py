"""Secrets that are mounted as files, read when they are used: a new one needs no restart.

    keys/api-keys                  JSON, as in SERVICE_API_KEYS
    feedback/url                   as in SERVICE_FEEDBACK
    stream/client                  JSON, as in SERVICE_STREAM_CLIENT
    git/username, git/password     of the repository
    remote/AWS_ACCESS_KEY_ID, ...  a file a variable, for the DVC remote

Each folder is a Secret of Kubernetes, and may be missing. The node brings a changed one into its
pods within about two minutes.
"""

import re
from pathlib import Path

KEYS, FEEDBACK, STREAM = "keys/api-keys", "feedback/url", "stream/client"
USERNAME, PASSWORD = "git/username", "git/password"
REMOTE = "remote"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MountedSecrets:
    """A folder of secrets; without one, none is there."""

    def __init__(self, folder: str) -> None:
        """Take the folder; nothing is read yet."""
        self._folder = Path(folder).absolute() if folder else None

    def place(self, name: str) -> Path | None:
        """Where a secret is, or would be."""
        return self._folder / name if self._folder else None

    def path(self, name: str) -> Path | None:
        """Where a secret is, if it is there."""
        found = self.place(name)
        try:
            return found if found and found.exists() else None
        except PermissionError:  # whoever reads it is told
            return found

    def read(self, name: str) -> str | None:
        """The text of a secret, None if it is not there.

        Raises:
            OSError, ValueError: it is there and cannot be read, or is no text.
        """
        found = self.path(name)
        return found.read_text(encoding="utf-8").strip() if found else None

    def variables(self) -> dict[str, str]:
        """The variables for the DVC remote; what cannot be read, or be a variable, is left out."""
        found: dict[str, str] = {}
        folder = self.path(REMOTE)
        try:
            files = sorted(folder.iterdir()) if folder else []
        except OSError:
            return found
        for file in files:
            # A mounted Secret has hidden names besides its own.
            if _VARIABLE.fullmatch(file.name):
                try:
                    text = self.read(f"{REMOTE}/{file.name}")
                except (OSError, ValueError):
                    continue
                if text is not None and "\0" not in text:
                    found[file.name] = text
        return found
