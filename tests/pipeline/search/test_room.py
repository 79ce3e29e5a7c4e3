"""The search is a room: a clone that deletes it trains, evaluates and reports as before."""

import shutil
import sys
from pathlib import Path

from tests.conftest import ROOT, run


def test_a_clone_without_the_search_has_every_stage_and_report(
    tmp_path: Path, trained: Path
) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(source / "pipeline" / "search")
    script = f"import sys; sys.path.insert(0, {str(source)!r}); "
    script += "from pipeline import challenge, compare_splits, evaluate, gate, ingest, load, "
    script += "preprocess, report, train; from pipeline.reporting.searching import search_section; "
    script += "assert search_section('abc') == ''; assert 'optuna' not in sys.modules; "
    script += "evaluate.main([])"
    assert "evaluate: accuracy" in run(sys.executable, "-c", script).stdout
