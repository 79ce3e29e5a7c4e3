"""The source as a person meets it: `python -m pipeline.ingest sentinel2`."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.dataset import Dataset, image_files
from pipeline.errors import DataError
from pipeline.ingest import ingest, main
from pipeline.sources.sentinel2.labels import read_labels
from tests.conftest import ROOT, run
from tests.make import scenes
from tests.make.processes import until
from tests.pipeline.sources.sentinel2.conftest import AREA, DATES, World

CODES = np.array([3, 7, 9], np.uint8)[scenes.classes()]
NAMES = "3=water,7=forest,9=soil"


def words(world: World, *more: str) -> list[str]:
    """The command line of a catalogue by its address."""
    where = ["--catalogue", world.catalogue.url, "--collection", scenes.COLLECTION]
    return ["sentinel2", f"--area={AREA}", "--dates", DATES, *where, *more]


def labels() -> list[str]:
    Path("lulc.tif").write_bytes(scenes.cog(CODES))
    return ["--labels", "lulc.tif", "--classes", NAMES, "--size", "32"]


def test_one_command_makes_a_version_with_images_labels_and_items(
    world: World, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes.add_scene(world.state, "a")
    scenes.add_scene(world.state, "cloudy", time="2025-07-01T10:00:31Z", clouds=70)
    scenes.add_scene(world.state, "wrong", time="2025-07-11T10:00:31Z", named=0.0)
    main(words(world, *labels()))
    dataset = Dataset.read(Path("data"))
    assert list(image_files(Path("data"))) == ["images/a.tif", "items/a.json", "labels/a.tif"]
    assert np.array_equal(scenes.read(Path("data/labels/a.tif"))[0], scenes.classes())
    assert dataset.classes == ("water", "forest", "soil")
    assert (dataset.bands, dataset.scale, dataset.nodata) == (scenes.BANDS, 10_000, 0)
    assert dataset.passed_over["cloudier than 20 %"] == 1
    item = json.loads(Path("data/items/a.json").read_text())
    source = f"{world.catalogue.url}/collections/x/items/a"
    assert item["links"] == [{"rel": "derived_from", "href": source}]
    assert item["properties"]["s2:processing_baseline"] == "05.11"
    assert item["assets"]["image"]["bands"][0]["description"].startswith("offset -1000")
    output = capsys.readouterr().out
    assert re.search("bad: images/wrong.tif: .*item wrong: offset 0", output)
    assert "data.dvc is the new version" in output
    before = Path("data.dvc").read_bytes()
    shutil.rmtree("artifacts/downloads")
    main(words(world, *labels()))
    assert Path("data.dvc").read_bytes() == before, "the same scenes are another version"


def test_what_was_ingested_loads(world: World, repository: Path) -> None:
    scenes.add_scene(world.state, "a")
    main(words(world, *labels()))
    assert "9 chips of 3 classes" in run("python", "-m", "pipeline.load", cwd=repository).stdout


def test_a_dry_run_shows_the_scenes_and_fetches_nothing(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    item = scenes.add_scene(world.state, "a")
    scenes.add_scene(world.state, "b", time="2025-07-01T10:00:31Z", named=None)
    scenes.add_scene(world.state, "c", time="2025-07-11T10:00:31Z", clouds=70)
    main(words(world, "--dry-run"))
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if "2025-06-17 10:00" in line)
    size = sum(asset["file:size"] for asset in item["assets"].values()) / 2**20
    assert [cell.strip() for cell in re.split("[│|]", row)[1:-1]] == (
        ["2025-06-17 10:00", "a", "33TWM", "3", "19", "05.11", f"{size:.1f}", "-1000"]
    )
    assert "refused: its offset is unknown" in output
    assert "left out: 1 cloudier than 20 %" in output
    assert "2222" in output, "the map counts scenes"
    assert not [path for path in world.state.asked if "/files/" in path]
    assert not list(tmp_path.glob("[!c]*")), "a dry run wrote something"


def test_scenes_for_maps_go_into_a_folder_and_leave_the_data_alone(
    world: World, repository: Path
) -> None:
    scenes.add_scene(world.state, "a")
    main(words(world, "--into", "scenes"))
    assert sorted(path.as_posix() for path in Path("scenes").rglob("*.*")) == (
        ["scenes/images/a.tif", "scenes/items/a.json"]
    )
    assert not Path("data").exists()
    scenes.add_scene(world.state, "b", time="2025-07-01T10:00:31Z", named=0.0)
    del world.state.items[0]
    with pytest.raises(SystemExit, match="no scene can be used"):
        main(words(world, "--into", "others"))


def test_a_run_that_is_killed_goes_on_where_it_was(world: World, repository: Path) -> None:
    scenes.add_scene(world.state, "a")
    world.state.trouble["/files/a/B04.tif"] += ["hang"]
    command = [sys.executable, "-m", "pipeline.ingest", *words(world, "--into", "scenes")]
    with subprocess.Popen(command, cwd=repository) as child:
        until(lambda: world.state.asked["GET /files/a/B04.tif"], "the third band")
        child.send_signal(signal.SIGKILL)
    assert not Path("scenes").exists() or not list(Path("scenes").rglob("*.tif"))
    main(words(world, "--into", "scenes"))
    fetched = {path[-7:-4]: count for path, count in world.state.asked.items() if "/files" in path}
    assert fetched == {"B02": 1, "B03": 1, "B04": 2, "B08": 1}
    wanted = [scenes.pixels(band, 0, 1) for band in scenes.BANDS]
    assert np.array_equal(scenes.read(Path("scenes/images/a.tif")), wanted)


def test_without_labels_there_is_nothing_to_train_on(world: World, repository: Path) -> None:
    with pytest.raises(SystemExit, match="--labels is missing: .*--dry-run .*--into FOLDER"):
        main(words(world))
    assert not world.state.asked


def test_if_every_scene_is_refused_the_data_stay_as_they_are(
    world: World, repository: Path
) -> None:
    scenes.add_scene(world.state, "a", named=0.0)
    Path("lulc.tif").write_bytes(scenes.cog(CODES))
    with pytest.raises(DataError, match="item a: offset 0"):
        ingest(world.source(labels=read_labels([Path("lulc.tif")], NAMES, "", "")))
    assert not Path("data.dvc").exists()


@pytest.mark.parametrize(
    ("words_of_it", "message"),
    [
        (["--clouds", "120"], "--clouds is 120; choose 0 to 100"),
        (["--size", "4"], "--size is 4; choose 8 to 1024"),
        (["--bands", "red"], "--bands: RED is no band"),
        (["--dates", "2025-09/2025-05"], "end before they start"),
        (["--catalogue", "nowhere"], "--catalogue nowhere is unknown"),
        (["--labels", "none.tif"], "--labels none.tif: no such file"),
    ],
)
def test_wrong_options_are_refused_before_the_catalogue_is_asked(
    world: World, repository: Path, words_of_it: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        main(words(world, *words_of_it))
    assert not world.state.asked


def test_the_cache_of_a_person_is_not_emptied(world: World) -> None:
    mine = world.cache / "scenes"
    mine.mkdir(parents=True)
    (mine / "photo.tif").write_text("mine")
    scenes.add_scene(world.state, "a")
    world.images()
    assert (mine / "photo.tif").read_text() == "mine"


def test_the_cache_holds_the_scenes_of_one_search(world: World) -> None:
    scenes.add_scene(world.state, "a")
    scenes.add_scene(world.state, "b", time="2025-07-01T10:00:31Z")
    world.images()
    world.images(area="15.002,46.046,15.006,46.049")
    world.images(dates="2025-07")
    kept = [path.name for path in world.cache.rglob("*.tif")]
    assert len(kept) == 1 and kept[0].startswith("b-")


def test_a_clone_without_the_source_ingests_the_others(tmp_path: Path, repository: Path) -> None:
    """The room can be deleted: its folder, its two lines in the table, and nothing else."""
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(source / "pipeline" / "sources" / "sentinel2")
    table = source / "pipeline" / "sources" / "__init__.py"
    lines = table.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if "sentinel2" not in line.lower()]
    assert len(lines) - len(kept) == 2
    table.write_text("\n".join(kept) + "\n", encoding="utf-8")
    users = [path for path in source.rglob("*.py") if "sources.sentinel2" in path.read_text()]
    assert users == [], "they need the room"
    start = f"import sys; sys.path.insert(0, {str(source)!r}); from pipeline import ingest"
    command = ["python", "-c", f"{start}; ingest.main()"]
    output = run(*command, "synthetic", "--chips-per-class", "3", cwd=repository).stdout
    assert "data.dvc is the new version" in output
    unknown = run(*command, "sentinel2", cwd=repository, check=False)
    assert "invalid choice: 'sentinel2'" in unknown.stderr
