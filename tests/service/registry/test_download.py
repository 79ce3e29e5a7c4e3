"""What is fetched from real DVC remotes, and what is refused."""

import json
import os
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contracts.tags import Tag
from service.errors import BundleRefused, NotFound, RegistryUnavailable, StorageFull
from service.tags import parse_tag
from tests.fakes.http import Request, answering
from tests.make.clones import clone_in_part
from tests.make.repositories import (
    CONFIG,
    V1,
    V2,
    Project,
    below,
    entries,
    fetch,
    listing,
    md5,
)


@pytest.fixture(params=["working tree", "bare repository", "URL"])
def place(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> str:
    """The same repository in the three ways in which it can be named."""
    if request.param == "working tree":
        return str(trained)
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", trained, bare], check=True)
    return str(bare) if request.param == "bare repository" else f"file://{bare}"


@pytest.mark.parametrize(("tag", "graph"), [(V1, "graph 1"), (V2, "graph 2")])
def test_a_bundle_is_fetched_as_dvc_pushed_it(
    place: str, cache: Path, tag: Tag, graph: str
) -> None:
    folder = fetch(place, cache, tag)
    assert cache in folder.parents
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.onnx"]
    assert (folder / "model.onnx").read_text() == graph
    assert below(cache) == sorted(
        f"fetched/{folder.name}/{name}" for name in ("model.json", "model.onnx")
    )


def test_the_three_ways_to_name_a_repository_list_the_same(place: str, cache: Path) -> None:
    found = entries(place, cache)
    assert list(found) == [V2.tag, V1.tag]  # 2 of 2
    assert found[V1.tag].summary == "Train model 1"
    assert found[V1.tag].bundle_digest != found[V2.tag].bundle_digest


def test_stages_and_experiments_are_fetched_too(project: Project, cache: Path) -> None:
    project.train(b"graph")
    for text in ("landcover#production#4", "experiment/1-1"):
        project.tag(text)
        assert (
            fetch(project.folder, cache, parse_tag(text)) / "model.onnx"
        ).read_bytes() == b"graph"


def test_the_working_tree_may_be_elsewhere(project: Project, cache: Path) -> None:
    project.train(b"old")
    project.tag(V1.tag)
    project.write(".dvc/config", CONFIG.format("s3://elsewhere"))
    shutil.rmtree(project.folder / "sample")
    (project.folder / "dvc.lock").unlink()
    project.commit("Move to another remote")
    assert (fetch(project.folder, cache) / "model.onnx").read_bytes() == b"old"


def test_a_model_whose_objects_are_not_committed_is_found(project: Project, cache: Path) -> None:
    digest = project.push({"model.json": b"{}", "model.onnx": b"new"})
    shutil.move(project.folder / "sample", project.folder.parent / "aside")
    project.lock(digest)
    project.commit()
    project.tag(V1.tag)
    shutil.move(project.folder.parent / "aside", project.folder / "sample")
    assert (fetch(project.folder, cache) / "model.onnx").read_bytes() == b"new"


def test_a_remote_outside_the_repository_is_read(project: Project, cache: Path) -> None:
    for address in ("../../remote", str(project.folder.parent / "remote")):
        shutil.rmtree(project.folder.parent / "remote", ignore_errors=True)
        project.write(".dvc/config", CONFIG.format(address))
        project.train(address.encode())
        shutil.move(project.folder / "sample", project.folder.parent / "remote")
        project.tag(V1.tag)
        folder = fetch(project.folder, cache)
        assert (folder / "model.onnx").read_bytes() == address.encode()


def test_an_unknown_tag_is_not_found(place: str, cache: Path) -> None:
    for text in ("landcover@v9.9.9", "landcover#nowhere", "experiment/1-1"):
        with pytest.raises(NotFound, match=f"^tag: {text} is not in the repository"):
            fetch(place, cache, parse_tag(text))
    assert below(cache) == []


def test_a_commit_without_a_model_is_not_found(project: Project, cache: Path) -> None:
    project.train(b"1")
    for path in ("../../etc", "model/../../etc", "models", "/model"):
        project.lock("0" * 32 + ".dir", path)
        project.commit()
        project.tag(V1.tag)
        with pytest.raises(NotFound, match="names no output model"):
            fetch(project.folder, cache)
    (project.folder / "dvc.lock").unlink()
    project.commit()
    project.tag(V1.tag)
    with pytest.raises(NotFound, match="it has no dvc.lock"):
        fetch(project.folder, cache)
    assert below(cache) == []


def test_a_model_that_was_never_pushed_is_not_found(project: Project, cache: Path) -> None:
    project.train(b"1")
    project.lock("0" * 32 + ".dir")
    project.commit()
    project.tag(V1.tag)
    with pytest.raises(NotFound, match="run `dvc push`"):
        fetch(project.folder, cache)


def test_a_commit_without_dvc_is_not_found(project: Project, cache: Path) -> None:
    shutil.rmtree(project.folder / ".dvc")
    project.train(b"1")
    project.tag(V1.tag)
    with pytest.raises(NotFound, match="tag a commit of a DVC project"):
        fetch(project.folder, cache)


def spoil(project: Project, digest: str, content: bytes) -> None:
    """Replace an object in the remote by something else."""
    project.write(f"sample/files/md5/{digest[:2]}/{digest[2:]}", content)


@pytest.mark.parametrize("altered", ["graph", "manifest", "list"])
def test_a_flipped_byte_in_the_remote_is_refused(
    project: Project, cache: Path, altered: str
) -> None:
    files = {"model.json": b"{}", "model.onnx": b"graph"}
    digest = project.push(files)
    project.lock(digest)
    if altered == "list":
        others = [{"md5": project.store(b"other"), "relpath": name} for name in files]
        spoil(project, digest, json.dumps(others).encode())
    else:
        content = files["model.onnx" if altered == "graph" else "model.json"]
        spoil(project, md5(content), content.swapcase() + b"x")
    project.commit()
    project.tag(V1.tag)
    with pytest.raises(BundleRefused, match="altered or cut-off"):
        fetch(project.folder, cache)
    assert below(cache) == []


EVIL: dict[str, Any] = {
    "a way out": [
        {"md5": md5(b"x"), "relpath": "../x"},
        {"md5": md5(b"x"), "relpath": "model.onnx"},
    ],
    "an absolute path": [{"md5": md5(b"x"), "relpath": "/tmp/x"}],
    "three files": [
        {"md5": md5(b"x"), "relpath": name} for name in ("model.json", "model.onnx", "run.sh")
    ],
    "one file": [{"md5": md5(b"x"), "relpath": "model.onnx"}],
    "no files": [],
    "a file twice": [{"md5": md5(b"x"), "relpath": "model.onnx"}] * 2,
    "a digest that is a path": [
        {"md5": "../../../../../etc/passwd", "relpath": name}
        for name in ("model.json", "model.onnx")
    ],
    "another shape": {"relpath": "model.onnx"},
    "no list": "model.onnx",
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_list_with_anything_but_the_two_files_is_refused(
    project: Project, cache: Path, tmp_path: Path, kind: str
) -> None:
    project.store(b"x")
    project.lock(project.store(json.dumps(EVIL[kind]).encode(), ".dir"))
    project.commit()
    project.tag(V1.tag)
    with pytest.raises(BundleRefused, match="^model: "):
        fetch(project.folder, cache)
    assert below(cache) == []
    assert {path.name for path in tmp_path.iterdir()} == {"project", "state"}


def test_links_in_the_remote_give_plain_files_or_nothing(
    project: Project, cache: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    digest = project.push({"model.json": b"{}", "model.onnx": b"graph"})
    project.lock(digest)
    project.commit()
    project.tag(V1.tag)
    graph = project.folder / "sample/files/md5" / md5(b"graph")[:2] / md5(b"graph")[2:]
    graph.unlink()
    graph.symlink_to(secret)
    with pytest.raises(BundleRefused, match="altered or cut-off"):
        fetch(project.folder, cache)
    secret.write_bytes(b"graph")
    folder = fetch(project.folder, cache)
    assert (folder / "model.onnx").read_bytes() == b"graph"
    assert not (folder / "model.onnx").is_symlink()


def test_a_single_file_as_model_is_refused(project: Project, cache: Path) -> None:
    project.lock(project.store(b"x"))
    project.commit()
    project.tag(V1.tag)
    with pytest.raises(BundleRefused, match="a single file"):
        fetch(project.folder, cache)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[core]\n    remote = gone\n",
        "[",
        CONFIG.format("no-such-scheme://x"),
        CONFIG.format("../gone"),
    ],
    ids=["no remote", "undefined remote", "broken", "unknown scheme", "missing folder"],
)
def test_an_unusable_remote_is_unavailable(project: Project, cache: Path, config: str) -> None:
    project.write(".dvc/config", config)
    project.train(b"1")
    project.tag(V1.tag)
    with pytest.raises(RegistryUnavailable, match="remote") as error:
        fetch(project.folder, cache)
    assert str(project.folder.parent) not in error.value.detail
    assert below(cache) == []


def test_a_remote_over_http_is_read(project: Project, cache: Path) -> None:
    def answer(request: Request) -> None:
        path = project.folder / "sample" / request.path.strip("/")
        request.reply(200, path.read_bytes()) if path.is_file() else request.reply(404)

    with answering(answer) as url:
        project.write(".dvc/config", CONFIG.format(url))
        project.train(b"graph")
        project.tag(V1.tag)
        assert (fetch(project.folder, cache) / "model.onnx").read_bytes() == b"graph"
        project.lock("0" * 32 + ".dir")
        project.commit()
        project.tag(V2.tag)
        with pytest.raises(NotFound, match="run `dvc push`"):
            fetch(project.folder, cache, V2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_that_another_user_owns_is_read(project: Project, cache: Path) -> None:
    project.train(b"graph")
    project.tag(V1.tag)
    subprocess.run(["chown", "--recursive", "12345", project.folder], check=True)
    assert len(listing(project.folder, cache).experiments) == 1
    assert (fetch(project.folder, cache) / "model.onnx").read_bytes() == b"graph"


def test_a_partial_clone_is_refused_with_the_cure(
    project: Project, cache: Path, tmp_path: Path
) -> None:
    project.train(b"graph")
    project.tag(V1.tag)
    project.train(b"another")
    clone = clone_in_part(project.folder, tmp_path / "part", "--filter=blob:none")
    with pytest.raises(RegistryUnavailable, match="partial clone .*--refetch --no-filter origin"):
        fetch(clone, cache)


def test_a_remote_that_refuses_is_unavailable(project: Project, cache: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    project.write(".dvc/config", CONFIG.format(f"http://127.0.0.1:{port}/dvc"))
    project.train(b"1")
    project.tag(V1.tag)
    with pytest.raises(RegistryUnavailable, match="^The DVC remote cannot be reached"):
        fetch(project.folder, cache)


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(
    project: Project, cache: Path
) -> None:
    free = shutil.disk_usage(project.folder).free
    project.lock(project.push({"model.json": b"{}", "model.onnx": b"x"}))
    project.commit()
    project.tag(V1.tag)
    graph = project.folder / "sample/files/md5" / md5(b"x")[:2] / md5(b"x")[2:]
    with graph.open("r+b") as file:
        file.truncate(free + 1)  # a sparse file: takes no room here
    with pytest.raises((StorageFull, BundleRefused)):
        fetch(project.folder, cache)
    assert below(cache) == []
