"""Uploads while the disk for temporary files is full: nothing of a request is written to one."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.service.images import CHIPS
from tests.service.server import serving
from tests.service.wire import BARE, next_is_right


def test_uploads_are_answered_with_a_full_temporary_disk(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        with pytest.raises(OSError, match="No space left"):
            (disk / "all of it").write_bytes(bytes(1 << 20))
        monkeypatch.setenv("TMPDIR", str(disk))
        with serving(bundle, tmp_path) as server:
            for content in CHIPS.values():
                for sent in ({"files": {"file": content}}, {"content": content}):
                    kind = {"content-type": BARE} if "content" in sent else {}
                    answer = httpx.post(server.url + "/predict", headers=kind, **sent)
                    assert answer.status_code == 200, answer.text
            next_is_right(server, bundle)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
