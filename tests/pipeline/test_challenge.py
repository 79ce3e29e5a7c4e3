"""Champion against challenger: on chips that neither was trained on, from a real DVC cache."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.reports import Figures
from pipeline import challenge as command
from pipeline import evaluate, load, preprocess, train
from pipeline.bundle.manifest import read_bundle, write_bundle
from pipeline.challenge import ENOUGH, challenge, verdict
from pipeline.data.chip_table import read_chip_table
from pipeline.errors import BundleError, DataError
from pipeline.evaluation.champion import known_pixels, read_champion
from pipeline.ingest import ingest
from pipeline.repository import data_version
from pipeline.sources.folder import Folder
from tests.conftest import built_once, chip, run, write_images, write_params
from tests.pipeline.conftest import call, dvc

CHIPS = Path("artifacts/chips/manifest.csv")


def learn() -> None:
    """Run every stage."""
    for stage in (load, preprocess, train, evaluate):
        stage.main()


def keep(message: str) -> None:
    """Put the bundle into DVC and everything else into Git."""
    dvc("add", "model")
    run("git", "add", "--all", ".")
    run("git", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="session")
def _competition(
    _repository: Path, _trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    def build(folder: Path) -> None:
        shutil.copytree(_repository, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            write_params()
            images = write_images(folder.parent / "images", each=20)
            ingest(Folder(images))
            for name in ("model", "reports", "artifacts"):
                shutil.copytree(_trained / name, name, dirs_exist_ok=True)
            edit_bundle(training={"data_version": data_version()})
            keep("champion")
            write_images(images, each=32)
            for index in range(8):  # the same images as other files
                (images / "class-0" / f"{index:03d}.png").unlink()
                np.save(images / "class-0" / f"{index}.npy", chip(0, index).transpose(2, 0, 1))
            ingest(Folder(images))
            learn()

    return built_once(tmp_path_factory, "competition", build)


@pytest.fixture
def competition(_competition: Path, copy_of: Callable[[Path], Path]) -> Path:
    """main with a champion of 60 chips, and on top, not committed, a challenger of 96."""
    return copy_of(_competition)


def edit_bundle(**changes: dict[str, Any]) -> None:
    """Change parts of model.json, or its fields, and keep the bundle whole."""
    graph, manifest = read_bundle()
    updates = {
        name: getattr(manifest, name).model_copy(update=change) for name, change in changes.items()
    }
    write_bundle(graph, manifest.model_copy(update=updates))


def objects(revision: str, path: str) -> list[Path]:
    """Files of the DVC cache that hold an output of a revision."""
    lock = run("git", "show", f"{revision}:{path}.dvc").stdout
    listing = next(line.split()[-1] for line in lock.splitlines() if "md5:" in line)
    cache = Path(".dvc/cache/files/md5")
    tree = cache / listing[:2] / listing[2:]
    entries = json.loads(tree.read_text(encoding="utf-8"))
    return [tree, *(cache / item["md5"][:2] / item["md5"][2:] for item in entries)]


def test_neither_set_holds_a_chip_that_the_champion_was_trained_on(
    competition: Path, _trained: Path
) -> None:
    found = challenge("main")
    before = read_chip_table(_trained / CHIPS)
    tested = {row.sha256 for row in before if row.split == "test"}
    today = {row.sha256 for row in read_chip_table(CHIPS) if row.split == "test"}
    known = {row.sha256 for row in before}
    assert found.pinned is not None and found.new is not None
    assert found.pinned.chips == len(today & tested) > 0
    assert found.new.chips == len(today - known) > 0
    assert today & known - tested, "no chip of the champion's training is in today's test split"


def test_an_image_in_another_file_is_not_new(competition: Path) -> None:
    renamed = {row.sha256 for row in read_chip_table(CHIPS) if row.path.endswith(".npy")}
    everything = {row.sha256 for row in read_chip_table(CHIPS)}
    commit = run("git", "rev-parse", "main").stdout.strip()
    champion = read_champion(commit, "main")
    assert champion is not None and len(renamed) == 8
    known = known_pixels(commit, champion[1], read_chip_table(CHIPS))
    assert renamed < known and len(known) == 60 and len(everything - known) == 36


def test_the_command_writes_and_prints_what_it_found(competition: Path) -> None:
    output = call(command.main, "--against", "main").stdout
    document = json.loads(Path("reports/challenge.json").read_text(encoding="utf-8"))
    assert document["against"] == "main"
    assert document["challenger"] == read_bundle()[1].sha256 != document["champion"]
    assert document["verdict"] in ("better", "no worse", "worse")
    assert f"challenge: {document['verdict']} (against main)" in output
    assert document["pinned"]["chips"] == int(output.split("pinned")[1].split()[0])
    assert document["new"]["chips"] == int(output.split("\nnew")[1].split()[0])
    first = Path("reports/challenge.json").read_bytes()
    assert call(command.main).returncode == 0
    assert Path("reports/challenge.json").read_bytes() == first


def test_the_champion_comes_from_a_remote_too(competition: Path, tmp_path: Path) -> None:
    expected = challenge("main")
    dvc("remote", "add", "--local", "--default", "far", str(tmp_path / "far"))
    dvc("push", "--all-branches")
    shutil.rmtree(".dvc/cache")
    dvc("add", "data")
    assert challenge("main") == expected


def test_a_champion_without_its_objects_is_an_error_that_names_the_model(competition: Path) -> None:
    for path in objects("main", "model"):
        path.unlink()
    result = call(command.main)
    assert result.returncode == 1
    assert "error: model/ of main is not at hand" in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("reports/challenge.json").exists()


def test_an_altered_champion_is_refused(competition: Path) -> None:
    altered = max(objects("main", "model"), key=lambda path: path.stat().st_size)
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.chmod(0o600)
    altered.write_bytes(content)
    with pytest.raises(BundleError, match="model/ of main"):
        challenge("main")


def test_without_the_data_of_the_champion_no_chip_is_called_new(competition: Path) -> None:
    for path in objects("main", "data"):
        path.unlink(missing_ok=True)
    found = challenge("main")
    assert found.new is None and "no new chips: the champion's data are not at hand" in found.note
    assert found.pinned is not None and found.verdict is not None


def test_without_the_version_it_was_trained_on_no_chip_is_called_new(
    competition: Path, commit_bundle: Callable[..., None]
) -> None:
    commit_bundle(training={"data_version": "0" * 32 + ".dir"})
    found = challenge("main")
    assert found.new is None and "the champion was trained on the data 000" in found.note


@pytest.fixture
def commit_bundle(competition: Path) -> Callable[..., None]:
    """Make the first champion another one, and keep the challenger."""
    first = run("git", "rev-parse", "HEAD").stdout.strip()

    def make(**changes: dict[str, Any]) -> None:
        run("git", "checkout", "--quiet", first, "model.dvc")
        shutil.copytree("model", "challenger")
        dvc("checkout", "--force", "model.dvc")
        edit_bundle(**changes)
        dvc("add", "model")
        run("git", "add", "model.dvc")
        run("git", "commit", "--quiet", "--message", "another champion")
        shutil.rmtree("model")
        Path("challenger").rename("model")

    return make


def test_a_champion_with_another_input_is_not_compared(
    competition: Path, commit_bundle: Callable[..., None]
) -> None:
    for changes, other in (
        ({"bands": ("B02", "B03", "B08")}, "bands (B02, B03, B08; this one: band-1"),
        ({"height": 64, "width": 64}, "sizes, pixels (64, 64; this one: 32, 32)"),
        ({"scale": 1.0}, "values (uint8, 1.0"),
    ):
        commit_bundle(input=changes)
        found = challenge("main")
        assert (found.pinned, found.new, found.verdict) == (None, None, None)
        assert found.note.startswith(f"not compared: the champion has other {other}")
        assert found.champion is not None


def test_a_champion_of_other_classes_is_not_compared(competition: Path) -> None:
    chips = Path("artifacts/chips")
    dataset = json.loads((chips / "dataset.json").read_text(encoding="utf-8"))
    dataset["classes"] = ["class-0", "class-1", "other"]
    (chips / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    manifest = (chips / "manifest.csv").read_text(encoding="utf-8")
    (chips / "manifest.csv").write_text(manifest.replace("class-2,", "other,"), encoding="utf-8")
    graph, bundle = read_bundle()
    write_bundle(graph, bundle.model_copy(update={"classes": tuple(dataset["classes"])}))
    assert "other classes (class-0, class-1, class-2; this one: class-0, " in challenge("main").note


def test_the_first_model_has_no_champion(competition: Path) -> None:
    start = run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    found = challenge(start)
    assert (found.champion, found.pinned, found.new, found.verdict) == (None, None, None, None)
    assert f"{start} has no model: this is the first" in found.note


def test_the_same_model_is_no_worse(competition: Path) -> None:
    dvc("add", "model")
    run("git", "commit", "--quiet", "--message", "the same", "model.dvc")
    found = challenge("main")
    assert found.verdict == "no worse" and "both are the same model" in found.note
    assert found.pinned is not None and (found.pinned.low, found.pinned.high) == (0, 0)


def test_a_model_that_was_measured_on_other_chips_is_refused(competition: Path) -> None:
    predictions = Path("reports/predictions.csv")
    whole = predictions.read_text(encoding="utf-8")
    predictions.write_text("".join(whole.splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(BundleError, match="measured on other chips than artifacts/chips/ holds"):
        challenge("main")
    predictions.unlink()
    with pytest.raises(DataError, match="predictions.csv is missing: run `dvc repro`"):
        challenge("main")
    predictions.write_text(whole, encoding="utf-8")
    assert challenge("main").verdict is not None


def test_a_champion_that_was_never_measured_has_no_pinned_chips(competition: Path) -> None:
    whole = Path("reports/predictions.csv").read_bytes()
    run("git", "rm", "--quiet", "--force", "reports/predictions.csv")
    run("git", "commit", "--quiet", "--message", "no predictions")
    Path("reports/predictions.csv").write_bytes(whole)
    found = challenge("main")
    assert found.pinned is None and found.new is not None
    assert "no pinned chips: the champion's revision has no reports/predictions.csv" in found.note


def figures(low: float, high: float, differing: int = ENOUGH) -> Figures:
    return Figures(
        chips=100, champion=0.5, challenger=0.5, low=low, high=high, fixed=differing, broken=0
    )


def test_the_verdict_follows_the_rule() -> None:
    cases: tuple[tuple[Figures | None, Figures | None, str | None], ...] = (
        (None, None, None),
        (figures(-0.1, 0.1), None, "no worse"),
        (figures(0, 0, 0), figures(0, 0.2), "no worse"),
        (figures(0.01, 0.1), None, "better"),
        (figures(-0.1, 0.1), figures(0.01, 0.2), "better"),
        (figures(-0.2, -0.01), figures(0.1, 0.2), "worse"),
        (figures(-0.2, -0.01, 2), None, "worse"),
        (figures(0.1, 0.2), figures(-0.2, -0.1), "worse"),
        (figures(0, 0, 0), figures(1, 1, 1), "no worse"),
        (figures(0, 0, 0), figures(-1, -1, 1), "no worse"),
    )
    wrong = [case for case in cases if verdict(case[0], case[1]) != case[2]]
    assert wrong == []


def test_the_help_says_what_the_verdict_means() -> None:
    text = call(command.main, "--help").stdout
    for word in ("--against", "pinned", "new", "worse", "better", "reports/challenge.json"):
        assert word in text
