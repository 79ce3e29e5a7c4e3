"""A batch that is killed goes on from what is finished, and ends as if nothing had happened."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.make import batches
from tests.make.bundles import make_bundle
from tests.make.processes import children, ended, until

COUNT = 6000  # images: seconds of work, so that a kill comes in the middle


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that names 60 chips a hundred times."""
    folder = tmp_path_factory.mktemp("chips")
    names = batches.write_chips(folder, 60)
    (folder / "list.txt").write_text("\n".join(names * (COUNT // 60)), encoding="utf-8")
    return folder / "list.txt"


def parts(target: Path) -> list[Path]:
    """Finished parts of a table."""
    return list(target.parent.glob(f".{target.name}.*.work/part-*"))


@contextmanager
def in_the_middle(
    chips: Path, target: Path, bundle: Path, *more: object
) -> Iterator["subprocess.Popen[str]"]:
    """A batch with some finished parts, stopped there; the block ends it."""
    line = batches.words(chips, target, bundle, "--workers=1", *more)
    with subprocess.Popen(
        line, env=batches.environment(), stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        until(lambda: len(parts(target)) >= 2, "a finished part")
        process.send_signal(signal.SIGSTOP)
        yield process
        assert process.wait() != 0, "it ended before it was killed"


def test_after_a_kill_the_same_command_goes_on_and_the_table_is_the_same(
    bundle: Path, chips: Path, tmp_path: Path
) -> None:
    whole, target = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    assert batches.batch(chips, whole, bundle).returncode == 0
    with in_the_middle(chips, target, bundle) as process:
        workers = children(process.pid)
        process.kill()
    assert workers
    until(lambda: ended(workers), "the end of the workers")
    assert not target.exists()
    kept = {path: path.stat().st_mtime_ns for path in parts(target)}
    with subprocess.Popen(
        batches.words(chips, target, bundle, "--workers=2"),
        env=batches.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as again:
        _, said = again.communicate()
    assert again.returncode == 0, said
    assert "images were finished before" in said.splitlines()[0] and len(kept) >= 2
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]


def test_a_part_that_was_cut_off_is_made_again(bundle: Path, chips: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with in_the_middle(chips, target, bundle) as process:
        process.kill()
    damaged = sorted(parts(target))[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert batches.batch(chips, target, bundle).returncode == 0
    assert [row["path"] for row in batches.rows(target)] == chips.read_text("utf-8").split("\n")


def test_ctrl_c_is_a_sentence_and_no_traceback(bundle: Path, chips: Path, tmp_path: Path) -> None:
    with in_the_middle(chips, tmp_path / "out.parquet", bundle) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith("stopped; the same command goes on from here\n")
    assert "Traceback" not in said


def test_a_worker_that_dies_is_a_sentence(bundle: Path, chips: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with in_the_middle(chips, target, bundle) as process:
        for pid in children(process.pid):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    assert process.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("error: a worker ended, most often for lack of memory: take fewer")
    done = batches.batch(chips, target, bundle)
    assert done.returncode == 0 and "images were finished before" in done.stderr


def test_another_model_list_or_option_begins_anew(
    bundle: Path, chips: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.parquet"
    with in_the_middle(chips, target, bundle) as process:
        process.kill()
    other = make_bundle(tmp_path / "model", seed=9)
    shorter = chips.with_name("shorter.txt")
    shorter.write_text("\n".join(chips.read_text("utf-8").split("\n")[:100]), encoding="utf-8")
    for words in ((shorter, target, bundle, "--fit=crop"), (shorter, target, other)):
        done = batches.batch(*words, "--overwrite")
        assert done.returncode == 0 and "finished before" not in done.stderr, done.stderr
    assert {row["model_sha256"] for row in batches.rows(target)} == {batches.digest(other)}


def test_two_at_once_do_not_mix(bundle: Path, chips: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with in_the_middle(chips, target, bundle) as process:
        done = batches.batch(chips, target, bundle)
        assert done.returncode == 1
        assert done.stderr.startswith("error: another process makes out.parquet")
        process.kill()
