"""What is listed of real repositories, in order and out of order."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.make.repositories import (
    METRICS,
    PARAMS,
    START,
    Project,
    entries,
    listing,
    md5,
)


def test_a_version_is_listed_with_all_that_its_commit_says(project: Project, cache: Path) -> None:
    commit = project.train(b"graph", "Train longer\n\nBecause.")
    project.tag("landcover@v1.0.0")
    found = listing(project.folder, cache)
    assert found.fresh and found.detail is None
    assert found.checked is not None and datetime.now(UTC) - found.checked < timedelta(minutes=5)
    (entry,) = found.experiments
    assert entry.tag == "landcover@v1.0.0" and entry.kind == "version" and entry.commit == commit
    assert entry.date.timestamp() == START + 60 and entry.date.utcoffset() == timedelta(hours=2)
    assert entry.summary == "Train longer"
    assert entry.metrics == METRICS and entry.params == PARAMS
    assert entry.data_version == f"{md5(b'data')}.dir"
    assert entry.bundle_digest is not None and entry.bundle_digest.endswith(".dir")
    assert entry.problem is None and entry.stages == []
    assert "Ada" not in found.model_dump_json() and "ada@" not in found.model_dump_json()


def test_how_the_tests_of_a_model_ended_is_listed_where_it_was_tested(
    project: Project, cache: Path
) -> None:
    project.train(b"untested")
    project.tag("landcover@v1.0.0")
    test = {"name": "a", "kind": "noise", "severity": "fails", "state": "passed", "text": "well"}
    tests = [test, test | {"severity": "warns", "state": "warned"}]
    document = {"model": "e" * 64, "at_a_time": 1, "tests": tests}
    for number, content in enumerate((json.dumps(document), "{"), 2):
        project.write("reports/tests.json", content)
        project.train(b"tested %d" % number)
        project.tag(f"landcover@v{number}.0.0")
    found = {entry.tag: entry for entry in listing(project.folder, cache).experiments}
    counts = [found[f"landcover@v{number}.0.0"].tests for number in (1, 2, 3)]
    assert counts == [{}, {"passed": 1, "warned": 1}, {}]
    assert [entry.problem for entry in found.values()] == [None] * 3


def test_the_newest_commit_comes_first_and_one_commit_is_sorted_by_tag(
    project: Project, cache: Path
) -> None:
    first = project.train(b"1")
    project.train(b"2")
    for tag in ("experiment/1-2", "landcover@v2.0.0"):
        project.tag(tag)
    for tag in ("landcover@v1.0.0", "experiment/1-1", "clouds@v1.0.0"):
        project.tag(tag, first)
    assert list(entries(project.folder, cache)) == [
        "experiment/1-2",
        "landcover@v2.0.0",
        "clouds@v1.0.0",
        "experiment/1-1",
        "landcover@v1.0.0",
    ]


@pytest.mark.parametrize("annotated", [True, False])
def test_the_newest_assignment_of_a_stage_counts(
    project: Project, cache: Path, annotated: bool
) -> None:
    old, new = project.train(b"1"), project.train(b"2")
    project.tag("landcover@v1.0.0", old)
    project.tag("landcover@v2.0.0", new)
    project.tag("clouds@v1.0.0", new)
    project.tag("experiment/1-1", new)
    project.tag("landcover#staging#1", new, annotated)
    project.tag("landcover#production#9", old, annotated)
    project.tag("landcover#production#10", new, annotated)
    found = entries(project.folder, cache)
    assert found["landcover@v2.0.0"].stages == ["production", "staging"]
    assert found["experiment/1-1"].stages == ["production", "staging"]
    assert found["landcover@v1.0.0"].stages == found["clouds@v1.0.0"].stages == []

    project.tag("landcover#production#11", old, annotated)  # rolled back
    found = entries(project.folder, cache)
    assert found["landcover@v1.0.0"].stages == ["production"]
    assert found["landcover@v2.0.0"].stages == ["staging"]


def test_a_stage_without_a_number_is_moved_by_time(project: Project, cache: Path) -> None:
    old, new = project.train(b"1"), project.train(b"2")
    project.tag("landcover@v1.0.0", old)
    project.tag("landcover@v2.0.0", new)
    project.tag("landcover#production#3", old)
    project.tag("landcover#production", new)
    assert entries(project.folder, cache)["landcover@v2.0.0"].stages == ["production"]


def test_an_unassigned_stage_goes_back_to_the_version_before(project: Project, cache: Path) -> None:
    old, new = project.train(b"1"), project.train(b"2")
    project.tag("landcover@v1.0.0", old)
    project.tag("landcover@v2.0.0", new)
    project.tag("landcover#production#1", old)
    project.tag("landcover#production#2", new)
    project.tag("landcover#production!#3", new)
    found = entries(project.folder, cache)
    assert found["landcover@v1.0.0"].stages == ["production"]
    assert found["landcover@v2.0.0"].stages == []
    project.tag("landcover#production!#4", old)
    assert [it.stages for it in entries(project.folder, cache).values()] == [[], []]


def test_a_version_that_was_taken_back_is_not_listed(project: Project, cache: Path) -> None:
    project.train(b"1")
    project.tag("landcover@v1.0.0")
    project.tag("landcover@v1.1.0")
    project.tag("landcover@v1.0.0!")
    assert list(entries(project.folder, cache)) == ["landcover@v1.1.0"]


BROKEN = {
    "reports/metrics.json": ["{", "[1]", '{"a": "b"}', "\ud800", "[" * 200_000, '{"a": NaN}', ""],
    "params.yaml": ["a: [", "a: 1", "- 1", "a: &a {<<: *a}", "[" * 200_000, "- " * 200_000, "\0"],
    "data.dvc": ["outs: []", "outs: [{md5: ../../x}]", "a: 2024-13-45", "{"],
    "dvc.lock": ["stages: 3", "stages: {a: {outs: [{path: ../../etc, md5: x}]}}", "{", "[]"],
}


def test_a_broken_file_at_one_tag_says_so_and_hides_no_other(project: Project, cache: Path) -> None:
    cases = [(path, text) for path, texts in BROKEN.items() for text in texts]
    for number, (path, text) in enumerate(cases):
        project.train(b"good")
        project.write(path, text.encode("utf-8", "surrogatepass"))
        project.commit()
        project.tag(f"experiment/1-{number}", annotated=False)
    project.train(b"good")
    project.tag("experiment/2-1")
    found = entries(project.folder, cache)
    assert len(found) == len(cases) + 1  # 23 of 23
    assert found["experiment/2-1"].problem is None
    for number, (path, text) in enumerate(cases):
        entry = found[f"experiment/1-{number}"]
        assert entry.problem is not None and entry.problem.startswith(path), (path, text[:20])
        assert (entry.metrics == {}) == (path == "reports/metrics.json")
        assert (entry.bundle_digest is None) == (path == "dvc.lock")


def test_a_commit_without_any_of_the_files_is_listed_with_four_missing(
    project: Project, cache: Path
) -> None:
    project.commit("Start")
    project.tag("experiment/1-1")
    entry = entries(project.folder, cache)["experiment/1-1"]
    assert entry.metrics == {} and entry.params == {} and entry.data_version is None
    assert entry.problem is not None and entry.problem.count("is missing at this commit") == 4


def test_a_huge_file_is_not_parsed(project: Project, cache: Path) -> None:
    project.train(b"1")
    project.write("reports/metrics.json", b'{"accuracy": 1}' + b" " * 2**20)
    project.write("params.yaml", b"a: {b: 1}\n" + b"#" * 50 * 2**20)
    project.commit()
    project.tag("experiment/1-1")
    entry = entries(project.folder, cache)["experiment/1-1"]
    assert entry.metrics == {} and entry.params == {}
    assert entry.problem is not None and entry.problem.count("is larger than 1048576 bytes") == 2


def test_values_that_would_grow_or_can_not_be_written_are_cut_short(
    project: Project, cache: Path
) -> None:
    project.train(b"1")
    bomb = ["a: {x: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}"]
    for level in range(1, 30):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        bomb.append(f"k{level}: {{x: &a{level} [{aliases}]}}")
    odd = ["b: {i: .inf, d: 2024-01-01, n: null, t: yes}", f"l: {{s: {'x' * 1000}}}"]
    project.write("params.yaml", "\n".join(bomb + odd))
    project.commit()
    project.tag("experiment/1-1")
    entry = entries(project.folder, cache)["experiment/1-1"]
    assert entry.problem is None
    assert entry.params["k29"]["x"] == ["(list of 10)"] * 10
    assert entry.params["b"]["i"] == "not a finite number" and entry.params["b"]["t"] is True
    assert len(entry.params["l"]["s"]) == 200
    assert len(json.dumps(entry.params)) < 20_000


def test_a_link_in_git_is_not_followed(project: Project, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text('{"secret": 1}')
    project.train(b"1")
    (project.folder / "reports" / "metrics.json").unlink()
    (project.folder / "reports" / "metrics.json").symlink_to(tmp_path / "outside.json")
    project.commit()
    project.tag("experiment/1-1")
    entry = entries(project.folder, cache)["experiment/1-1"]
    assert entry.metrics == {} and entry.problem == "reports/metrics.json is not JSON."


def test_hostile_tags_are_ignored_and_nothing_is_executed(
    project: Project, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project.train(b"1")
    hostile = ["$(touch${IFS}canary)", "`touch${IFS}canary`", "a;touch${IFS}canary", "x|y&z"]
    hostile += ["--upload-pack=touch${IFS}canary", "experiment/1-1;x", "-c", "l\u00e4nd@v1.0.0"]
    hostile += ["x" * 200 + "@v1.0.0", "landcover@v1", "v1.0.0", "release", "\u0661@v1.0.0"]
    for name in hostile:
        project.tag(name)
    project.tag("landcover@v1.0.0")
    assert len(project.git("tag", "--list").splitlines()) == len(hostile) + 1  # Git took 14 of 14
    mirrored = listing(f"file://{project.folder}", cache / "mirrored")
    for found in (listing(project.folder, cache), mirrored):
        assert [entry.tag for entry in found.experiments] == ["landcover@v1.0.0"]
    assert {path.name for path in tmp_path.iterdir()} == {"project", "state"}
    assert not list(tmp_path.rglob("canary"))


def test_tags_that_stand_on_no_commit_are_ignored(project: Project, cache: Path) -> None:
    project.train(b"1")
    project.git("tag", "experiment/1-1", "HEAD:dvc.lock")
    project.git("tag", "experiment/1-2", "HEAD^{tree}")
    project.git("tag", "experiment/1-3", "HEAD")
    assert list(entries(project.folder, cache)) == ["experiment/1-3"]


def test_strange_commits_are_listed(project: Project, cache: Path) -> None:
    project.train(b"1")
    tree = project.git("rev-parse", "HEAD^{tree}")
    headers = ["author A <a> 99999999999999 +0000", "author A <a> 1 +9999", "author broken", "x y"]
    for number, header in enumerate(headers):
        raw = f"tree {tree}\n{header}\ncommitter A <a> 1 +0000\n\n\x01 \ufffd {'x' * 999}\n"
        done = subprocess.run(
            ["git", "-C", str(project.folder), "hash-object", "-t", "commit", "-w"]
            + ["--literally", "--stdin"],
            input=raw.encode().replace(b"\xef\xbf\xbd", b"\xff"),
            capture_output=True,
            check=True,
        )
        project.git("update-ref", f"refs/tags/experiment/1-{number}", done.stdout.decode().strip())
    found = entries(project.folder, cache)
    assert len(found) == 4  # of 4
    for entry in found.values():
        assert entry.date.year in (1969, 1970) and len(entry.summary) == 200
        assert entry.metrics == METRICS
