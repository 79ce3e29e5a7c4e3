"""The embedded sample: pulled without an account, small, georeferenced, and verified on the way."""

import configparser
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset, image_files, label
from pipeline.data.images import decode, fault
from pipeline.data.split import assign
from pipeline.ingest import ingest
from pipeline.params import read_params
from pipeline.sources.synthetic import Synthetic
from tests.conftest import ROOT, run


def copy_of(clone: Path, folder: Path, *left_out: str) -> Path:
    """A copy of the clone without the files and folders of these names."""
    return shutil.copytree(clone, folder / "copy", ignore=shutil.ignore_patterns(*left_out))


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
    params = read_params(ROOT / "params.yaml").preprocess
    spatial = params.model_copy(update={"split": "spatial"})
    splits = {row.split for row in assign(rows, dataset.classes, spatial)}
    assert splits == {"train", "validation", "test"}


def test_the_sample_is_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "sample").rglob("*") if path.is_file())
    assert size <= 5 * 2**20


def test_the_simulator_still_makes_the_sample(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(clone / ".dvc", tmp_path / ".dvc")
    monkeypatch.chdir(tmp_path)
    ingest(Synthetic())
    assert (tmp_path / "data.dvc").read_bytes() == (clone / "data.dvc").read_bytes()


def test_every_remote_verifies_what_it_pulls() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config", encoding="utf-8")
    remotes = [name for name in config.sections() if "remote" in name]
    assert len(remotes) >= 3
    assert all(config[name].get("verify") == "true" for name in remotes)


def test_a_flipped_byte_is_not_pulled(clone: Path, tmp_path: Path) -> None:
    copy = copy_of(clone, tmp_path, "data", "tmp")
    victim = next(path for path in sorted((copy / "sample").rglob("*")) if path.is_file())
    cached = copy / ".dvc" / "cache" / "files" / "md5" / victim.parent.name / victim.name
    cached.unlink()  # all other objects are there, so DVC fetches this one
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    result = run("dvc", "pull", cwd=copy, check=False)
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
