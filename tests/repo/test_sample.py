"""The embedded sample: pulled without an account, small, georeferenced, and verified on the way."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset, image_files, label
from pipeline.data.images import decode, fault
from pipeline.data.split import assign
from pipeline.ingest import ingest
from pipeline.params import read_params
from pipeline.sources.synthetic import Synthetic
from tests.conftest import PARAMS, ROOT, run
from tests.make.sample import DATA, is_adopted


def copy_of(clone: Path, folder: Path, *left_out: str) -> Path:
    """A copy of the clone without the files and folders of these names."""
    return shutil.copytree(clone, folder / "copy", ignore=shutil.ignore_patterns(*left_out))


def git_show(path: str) -> str:
    """A file as it was committed: the working tree may have a model that was never pushed."""
    return run("git", "show", f"HEAD:{path}", cwd=ROOT).stdout


def test_a_fresh_clone_pulls_the_sample(clone: Path) -> None:
    counts = Counter(label(name) for name in image_files(clone / "data"))
    assert len(counts) == 10 and counts.total() >= 500
    dataset = Dataset.read(clone / "data")
    assert (dataset.bands, dataset.dtype, dataset.size) == (
        ("B02", "B03", "B04", "B08"),
        "uint16",
        64,
    )
    assert "simulated" in dataset.origin.lower()


def test_every_chip_is_usable_and_placed_so_that_blocks_can_split_them(clone: Path) -> None:
    dataset = Dataset.read(clone / "data")
    rows = []
    for name in image_files(clone / "data"):
        chip = decode(name, (clone / "data" / name).read_bytes())
        assert fault(chip.pixels, dataset) is None and chip.crs.startswith("EPSG:326")
        rows.append(Row(0, name, label(name), name, chip.crs, chip.centre))
    assert len({row.centre for row in rows}) >= 500
    params = read_params(PARAMS).preprocess
    spatial = params.model_copy(update={"split": "spatial"})
    splits = {row.split for row in assign(rows, dataset.classes, spatial)}
    assert splits == {"train", "validation", "test"}


def test_the_sample_is_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "sample").rglob("*") if path.is_file())
    assert (
        size <= 6 * 2**20
    ), "the images take 4; the pictures of a model are as large as its mistakes are many"


def test_the_simulator_still_makes_the_sample(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(clone / ".dvc", tmp_path / ".dvc")
    monkeypatch.chdir(tmp_path)
    ingest(Synthetic())
    assert (tmp_path / "data.dvc").read_bytes() == (clone / "data.dvc").read_bytes()


def test_the_project_as_it_ships_is_the_sample_with_its_model() -> None:
    """Of a team's project, whose data and models lie elsewhere, this asks nothing."""
    lock = yaml.safe_load(git_show("dvc.lock"))["stages"]["train"]["outs"]
    (model,) = [out["md5"] for out in lock if out["path"] == "model"]
    ships = (ROOT / "sample" / "files" / "md5" / model[:2] / model[2:]).is_file()
    same = git_show("data.dvc") == DATA.read_text(encoding="utf-8")
    assert is_adopted() or (ships and same)


def test_a_flipped_byte_is_not_pulled(clone: Path, tmp_path: Path) -> None:
    copy = copy_of(clone, tmp_path, "data", "tmp")
    pulled = copy / ".dvc" / "cache" / "files" / "md5"
    cached = next(path for path in sorted(pulled.rglob("*")) if path.is_file())
    cached.unlink()  # all other objects are there, so DVC fetches this one
    victim = copy / "sample" / cached.relative_to(copy / ".dvc" / "cache")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    result = run("dvc", "pull", "data.dvc", cwd=copy, check=False)
    assert result.returncode != 0
    assert not cached.exists()


def test_a_missing_remote_is_an_error_without_a_stack_trace(clone: Path, tmp_path: Path) -> None:
    copy = copy_of(clone, tmp_path, "data", "cache", "tmp", "sample")
    result = run("dvc", "pull", "data.dvc", cwd=copy, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr and "data" in result.stderr


@pytest.mark.parametrize("command", ["python -m pipeline.load", "make NO_SETUP=1 repro"])
def test_without_data_a_run_says_where_to_get_them(
    clone: Path, tmp_path: Path, command: str
) -> None:
    copy = copy_of(clone, tmp_path, "data", "cache", "tmp")
    (copy / ".venv").symlink_to(sys.prefix)
    result = run(*command.split(), cwd=copy, check=False)
    assert result.returncode != 0
    assert "dvc pull" in result.stdout + result.stderr
    assert "pipeline.ingest" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_a_users_own_configuration_of_dvc_and_umask_change_nothing(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default remote, links and a cache of their own, staging, and files for nobody else."""
    copy = shutil.copytree(clone, tmp_path / "copy")
    shutil.rmtree(copy / "data")
    shutil.rmtree(copy / ".dvc" / "cache")
    settings = tmp_path / "user"
    settings.mkdir()
    (settings / "config").write_text(
        "[core]\n    remote = mine\n    autostage = true\n['remote \"mine\"']\n    url = /nowhere\n"
        f"[cache]\n    type = symlink\n    dir = {settings}/cache\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(settings))
    (copy / "dvc.lock").unlink()
    done = run("bash", "-c", "umask 077 && dvc pull data.dvc && dvc repro load", cwd=copy)
    assert "load: 500 chips of 10 classes, 0 quarantined" in done.stdout
    assert "dvc.lock" in run("git", "diff", "--name-only", cwd=copy).stdout
    assert run("git", "diff", "--cached", "--name-only", cwd=copy).stdout == ""
    assert run("dvc", "config", "core.remote", cwd=copy).stdout.strip() == "sample"
