"""A stand-in for sops on PATH, as far as `make secrets` uses it; sops itself is not to be had here.

True to sops 3.10, by its documentation and source: `sops decrypt --input-type=dotenv
--output-type=dotenv FILE` prints the lines; keys stay readable in the file, values are ENC[...],
lines sops_... hold recipients and MAC; the errors of a missing key and of a plain file, on standard
error with exit codes 128 and 1. Not true: the encryption, which is base64.
"""

import base64
from pathlib import Path

import pytest

PROGRAM = r"""#!/bin/bash
fail() { printf '%s\n' "${@:2}" >&2; exit "$1"; }
[ "$1 $2 $3" = "decrypt --input-type=dotenv --output-type=dotenv" ] || fail 1 "no such command"
file=$4
grep -q '^sops_mac=' "$file" || fail 1 "sops metadata not found"
[ -e "${SOPS_AGE_KEY_FILE:-/nowhere}" ] || fail 128 \
  "Failed to get the data key required to decrypt the SOPS file." "" "Group 0: FAILED" \
  "  age1qqq: FAILED" "    - | failed to load age identities" "" \
  "Recovery failed because no master key was able to decrypt the file."
while IFS= read -r line; do
  case $line in sops_*) continue ;; esac
  data=${line#*data:}
  printf '%s=%s\n' "${line%%=*}" "$(base64 -d <<<"${data%%,*}")"
done <"$file"
"""


def install(folder: Path, patch: pytest.MonkeyPatch, path: str) -> None:
    """Put it first on PATH."""
    folder.mkdir()
    (folder / "sops").write_text(PROGRAM, encoding="utf-8")
    (folder / "sops").chmod(0o755)
    patch.setenv("PATH", f"{folder}:{path}")


def encrypted(lines: dict[str, str]) -> str:
    """A file as `sops encrypt` leaves it."""
    found = [f"{key}=ENC[AES256_GCM,data:{_hidden(text)},type:str]" for key, text in lines.items()]
    return (
        "\n".join([*found, "sops_mac=ENC[AES256_GCM,data:x,type:str]", "sops_version=3.10.2"])
        + "\n"
    )


def _hidden(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
