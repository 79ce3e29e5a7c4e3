"""Examples of the documentation run as they stand there."""

import re
import sys
from pathlib import Path

from pipeline.data.dataset import image_files
from tests.conftest import ROOT, run


def test_the_how_to_of_a_new_source_works(repository: Path) -> None:
    text = (ROOT / "docs" / "how-to-add-a-source.md").read_text(encoding="utf-8")
    adapter = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    row = re.search(r'```python\n(SOURCES\["\w+"\] = \w+)\n```', text)
    assert adapter and row
    script = f"{adapter[1]}\nfrom pipeline.sources import SOURCES\n{row[1]}\n"
    Path("run.py").write_text(
        script + "from pipeline.ingest import main\nmain()\n", encoding="utf-8"
    )
    name = row[1].split('"')[1]
    output = run(sys.executable, "run.py", name, "--count", "6").stdout
    assert "data.dvc is the new version" in output
    assert len(list(image_files(Path("data")))) == 12


def test_every_message_of_the_page_for_trouble_is_produced_by_a_test() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert len(messages) > 15
    assert [message for message in messages if message not in tests] == []
