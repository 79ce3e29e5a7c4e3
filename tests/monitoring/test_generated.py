from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring import generated
from monitoring.errors import MonitoringError

FILES = {"a.yml": "a: 1\n", "below/b.yml": "b: 2\n"}


@pytest.mark.parametrize(
    ("disturb", "name"),
    [
        (lambda folder: (folder / "a.yml").unlink(), "a.yml"),
        (lambda folder: (folder / "below" / "b.yml").write_text("{}"), "below/b.yml"),
        (lambda folder: (folder / "old.yml").write_text("{}"), "old.yml"),
        (lambda folder: (folder / "a.yml").write_bytes(b"\xff\x00"), "a.yml"),
    ],
)
def test_check_names_the_file_that_differs_and_writing_mends_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    disturb: Callable[[Path], object],
    name: str,
) -> None:
    (tmp_path / "kept.txt").touch()
    writing = ["x", "--folder", str(tmp_path)]
    checking = [*writing, "--check"]

    def call(words: list[str]) -> str:
        monkeypatch.setattr("sys.argv", words)
        generated.command_line("monitoring.x", "", lambda: FILES, Path("elsewhere"), "*.yml")
        return capsys.readouterr().out

    assert call(writing) == "monitoring.x: wrote a.yml, below/b.yml\n"
    assert call(checking) == "monitoring.x: all 2 files are current\n"
    disturb(tmp_path)

    with pytest.raises(MonitoringError, match=rf"^{name} in .*run it, and change its source"):
        call(checking)

    assert call(writing) == f"monitoring.x: wrote {name}\n"
    assert call(writing) == "monitoring.x: wrote nothing, all files are current\n"
    assert (tmp_path / "kept.txt").exists()
