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
from pipeline.params import read_params
from tests.conftest import ROOT, run


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


def test_every_chip_is_usable_and_has_a_position(clone: Path) -> None:
    dataset = Dataset.read(clone / "data")
    centres = set()
    for name in image_files(clone / "data"):
        chip = decode(name, (clone / "data" / name).read_bytes())
        assert fault(chip.pixels, dataset) is None and chip.crs.startswith("EPSG:326")
        centres.add(chip.centre)
    assert len(centres) >= 500


def test_the_sample_can_be_split_by_blocks(clone: Path) -> None:
    dataset = Dataset.read(clone / "data")
    rows = []
    for name in image_files(clone / "data"):
        chip = decode(name, (clone / "data" / name).read_bytes())
        rows.append(Row(0, name, label(name), name, chip.crs, chip.centre))
    params = read_params(ROOT / "params.yaml").preprocess
    spatial = params.model_copy(update={"split": "spatial"})
    assert {row.split for row in assign(rows, dataset.classes, spatial)} == {
        "train",
        "validation",
        "test",
    }


def test_the_sample_is_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "sample").rglob("*") if path.is_file())
    assert size <= 5 * 2**20


def test_the_simulator_still_makes_the_sample(clone: Path) -> None:
    version = (clone / "data.dvc").read_bytes()
    run(sys.executable, "-m", "pipeline.ingest", "synthetic", cwd=clone)
    assert (clone / "data.dvc").read_bytes() == version


def test_every_remote_verifies_what_it_pulls() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config", encoding="utf-8")
    remotes = [name for name in config.sections() if "remote" in name]
    assert len(remotes) >= 3
    assert all(config[name].get("verify") == "true" for name in remotes)


def test_a_flipped_byte_is_not_pulled(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("data", "cache", "tmp", "artifacts")
    shutil.copytree(clone, copy, ignore=ignored)
    victim = next(path for path in sorted((copy / "sample").rglob("*")) if path.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    result = run("dvc", "pull", cwd=copy, check=False)
    assert result.returncode != 0
    cache = copy / ".dvc" / "cache" / "files" / "md5"
    assert not (cache / victim.parent.name / victim.name).exists()


def test_a_remote_that_is_gone_is_said(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("data", "cache", "tmp", "artifacts", "sample")
    shutil.copytree(clone, copy, ignore=ignored)
    result = run("dvc", "pull", "data.dvc", cwd=copy, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr and "data" in result.stderr


@pytest.mark.parametrize("command", ["python -m pipeline.load", "make NO_SETUP=1 repro"])
def test_without_data_a_run_says_where_to_get_them(
    clone: Path, tmp_path: Path, command: str
) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("data", "cache", "tmp", "artifacts")
    shutil.copytree(clone, copy, ignore=ignored)
    (copy / ".venv").symlink_to(sys.prefix)
    result = run(*command.split(), cwd=copy, check=False)
    assert result.returncode != 0
    assert "dvc pull" in result.stdout + result.stderr
    assert "pipeline.ingest" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
