"""The report of a merge request: verdict first, every change, pictures that resolve."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline import gate, repository
from pipeline.ingest import ingest
from pipeline.report import main
from pipeline.sources.folder import Folder
from tests.conftest import built_once, run, write_params
from tests.make import git_configuration
from tests.pipeline.conftest import call

LENIENT = {"min_accuracy": 0.0, "min_recall": 0.0, "max_calibration_error": 1.0}


@pytest.fixture(scope="session")
def _experiment(_ingested: Path, _trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        shutil.copytree(_ingested, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / "project")
            shutil.copytree(_trained / "reports", "reports")
            shutil.copytree(_trained / "model", "model")
            write_params({"gate": LENIENT})
            run("git", "add", "--all", ".")
            run("git", "commit", "--quiet", "--message", "main")
            run("git", "checkout", "--quiet", "-b", "experiment")

    return built_once(tmp_path_factory, "experiment", build)


@pytest.fixture
def experiment(
    _experiment: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A branch `experiment` of a repository whose main holds data and a trained model."""
    project = copy_of(_experiment) / "project"
    monkeypatch.chdir(project)
    return project


def report(against: str = "main") -> str:
    assert call(main, "--against", against).returncode == 0
    return Path("reports/report.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def test_an_unchanged_model_is_reported_as_such(experiment: Path) -> None:
    text = report()
    assert text.startswith("# landcover: ✅ the gate is open")
    assert "on 12 shared test chips" in text
    assert "None." in section(text, "Parameter changes")
    assert "None: the data of `main`" in section(text, "Data changes")


def test_the_verdict_of_a_closed_gate_stands_first_and_names_the_floor(experiment: Path) -> None:
    write_params({"gate": LENIENT | {"max_model_size": 0.001}})
    text = report()
    assert text.startswith("# landcover: ❌ the gate is closed (1 missed)")
    assert re.search(r"model size.*missed.*wanted at most 0.001 MiB", text)


def test_parameter_changes_are_listed_with_both_values(experiment: Path) -> None:
    write_params({"gate": LENIENT, "train": {"epochs": 7}})
    rows = section(report(), "Parameter changes").split("\n")
    assert [row.replace(" ", "") for row in rows if "epochs" in row] == ["|`train.epochs`|`2`|`7`|"]


def test_metric_changes_have_arrows(experiment: Path) -> None:
    path = Path("reports/metrics.json")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    changed = metrics | {"accuracy": metrics["accuracy"] + 0.01, "log_loss": 9.0}
    path.write_text(json.dumps(changed), encoding="utf-8")
    table = section(report(), "Metrics")
    assert re.search(r"accuracy .*▲ better", table)
    assert re.search(r"log loss .*9.0000 .*▲ worse", table)
    assert re.search(r"macro F1 .*= ", table)


def test_data_changes_are_counted_per_class(experiment: Path) -> None:
    images = experiment.parent / "images"
    (images / "class-0" / "000.png").unlink()
    shutil.copytree(images / "class-1", images / "class-3")
    ingest(Folder(images))
    rows = [row.replace(" ", "") for row in section(report(), "Data changes").split("\n")]
    assert "|`class-0`|+0|-1|11|" in rows
    assert "|`class-3`|+12|-0|12|" in rows
    assert "|**all**|+12|-1|47|" in rows


def test_the_report_is_written_without_the_objects_of_the_data(experiment: Path) -> None:
    images = experiment.parent / "images"
    (images / "class-0" / "000.png").unlink()
    ingest(Folder(images))
    shutil.rmtree(".dvc/cache")
    said = section(report(), "Data changes")
    assert "not compared, a version is neither here nor in the remote" in said
    assert "dvc push --all-branches data.dvc" in said


def test_a_model_of_another_name_is_not_compared(experiment: Path) -> None:
    """A team's first model is neither better nor worse than the sample's."""
    path = Path("reports/metrics.json")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(metrics | {"accuracy": 0.1}), encoding="utf-8")
    images = experiment.parent / "images"
    (images / "class-0" / "000.png").unlink()
    ingest(Folder(images))
    write_params({"gate": LENIENT, "model": {"name": "crops"}})
    text = report()
    for title in ("Metrics", "Data changes"):
        said = section(text, title)
        assert re.search(r"Not compared: `main` \(\w+\) has another model, `landcover`\.", said)
        assert not re.search(r"better|worse|\+1|-1", said)
    assert "worse" not in text and "better" not in text
    assert "| `model.name`" in section(text, "Parameter changes")


def test_the_weakest_class_stands_first(experiment: Path) -> None:
    recalls = re.findall(r"\| `class-\d` +\| +([\d.]+)%", section(report(), "Classes"))
    assert [float(recall) for recall in recalls] == sorted(float(recall) for recall in recalls)
    assert len(recalls) == 3


def test_every_picture_resolves_and_has_no_underscore(experiment: Path) -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report())
    assert len(pictures) == 4
    for name in pictures:
        assert "_" not in name
        with Image.open(Path("reports") / name) as image:
            image.verify()


def test_the_first_model_is_reported_without_a_comparison(experiment: Path) -> None:
    start = run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    text = report(start)
    assert "so this is the first model" in text
    assert "data.dvc is new" in section(text, "Data changes")


def test_markdown_and_html_in_class_names_are_escaped(experiment: Path) -> None:
    path = Path("reports/classes.json")
    classes = json.loads(path.read_text(encoding="utf-8"))
    classes["<script>alert(1)</script>|`x`"] = classes.pop("class-0")
    path.write_text(json.dumps(classes), encoding="utf-8")
    text = report()
    assert "`` <script>alert(1)</script>\\|`x` ``" in text


def test_the_report_says_where_the_model_comes_from(experiment: Path) -> None:
    origin = section(report(), "Where it comes from")
    sha = json.loads(Path("model/model.json").read_text(encoding="utf-8"))["sha256"]
    assert sha in origin and re.search(r"\d+ s on .+ cores", origin)


def test_drift_and_challenge_are_shown_for_this_change_and_this_model_only(
    experiment: Path,
) -> None:
    text = report()
    assert "Why: drift" not in text and "Champion and challenger" not in text
    assert "\n\n\n" not in text
    alert = {"alertname": "ModelDrift", "summary": "mean/B02 drifted"}
    drift = {"received": "2026-05-01T12:00:00Z", "status": "firing", "alerts": [alert]}
    Path("reports/drift.json").write_text(json.dumps(drift), encoding="utf-8")
    nothing = {"pinned": None, "new": None, "verdict": None, "note": "this is the first"}
    sha = json.loads(Path("model/model.json").read_text(encoding="utf-8"))["sha256"]
    found = {"against": "main", "champion": None, "challenger": sha} | nothing
    compared = Path("reports/challenge.json")
    compared.write_text(json.dumps(found), encoding="utf-8")
    text = report()
    assert "- `ModelDrift`: `mean/B02 drifted`" in section(text, "Why: drift")
    assert "this is the first" in section(text, "Champion and challenger")
    assert text.index("## Why: drift") < text.index("## Champion") < text.index("## Metrics")
    run("git", "add", "--all", ".")
    run("git", "commit", "--quiet", "--message", "answered")
    base = run("git", "rev-parse", "HEAD").stdout.strip()
    compared.write_text(json.dumps(found | {"challenger": "d" * 64}), encoding="utf-8")
    text = report(base)
    assert "Why: drift" not in text and "Champion and challenger" not in text


def test_no_configuration_of_git_changes_data_revision_verdict_or_report(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text("# Ä\n" + Path("params.yaml").read_text())
    run("git", "commit", "--quiet", "--all", "--message", "Ä")
    usual = (report(), call(gate.main).stdout, repository.revision())
    for name, value in git_configuration.write(tmp_path / "user").items():
        monkeypatch.setenv(name, value)
    assert (report(), call(gate.main).stdout, repository.revision()) == usual
    ingest(Folder(experiment.parent / "images"))
    assert Path("data.dvc").read_text() == repository.show("HEAD", Path("data.dvc"))
    assert git_configuration.hooks_that_ran(tmp_path / "user") == []
