"""What goes into an image is what tag, lock, files and manifest agree on."""

import shutil
from pathlib import Path

import pytest
import yaml

from contracts.commit import folder_digest
from delivery.errors import ImageError
from delivery.git import Repository
from delivery.image.preflight import INGREDIENTS, MODEL, check_bundle, clean_revision
from delivery.tags import parse_version
from tests.conftest import ROOT
from tests.delivery.conftest import Project
from tests.make.versions import GRAPH_SHA256, V1, train_version


@pytest.fixture
def trained(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with version 1.0.0 at HEAD and its bundle in model/, as the working directory."""
    monkeypatch.chdir(project.folder)
    return train_version(project)


def test_a_bundle_passes_if_tag_lock_files_and_manifest_agree(trained: Project) -> None:
    assert check_bundle(Repository(), V1) == GRAPH_SHA256


def test_an_unregistered_version_gets_no_image(trained: Project) -> None:
    with pytest.raises(ImageError, match=r"landcover@v2\.0\.0 is not registered: make register"):
        check_bundle(Repository(), parse_version("landcover@v2.0.0"))


def test_a_commit_with_another_model_is_not_the_version(trained: Project) -> None:
    trained.train("two")
    with pytest.raises(ImageError, match="dvc.lock at HEAD names another model than at landcover@"):
        check_bundle(Repository(), V1)


def test_a_changed_bundle_is_refused_with_the_cure(trained: Project) -> None:
    Path("model/model.onnx").write_text("tampered", encoding="ascii")
    with pytest.raises(ImageError, match="md5 .* dvc.lock has .*: dvc checkout model"):
        check_bundle(Repository(), V1)


def test_a_stray_file_beside_the_bundle_is_refused(trained: Project) -> None:
    Path("model/notes.txt").write_text("x", encoding="ascii")
    with pytest.raises(ImageError, match="dvc.lock has"):
        check_bundle(Repository(), V1)


def test_a_missing_bundle_is_refused_with_the_cure(trained: Project) -> None:
    shutil.rmtree("model")
    with pytest.raises(ImageError, match="dvc pull model"):
        check_bundle(Repository(), V1)


def test_a_manifest_that_names_another_graph_is_refused(trained: Project) -> None:
    other = trained.train("one", sha256="0" * 64)
    trained.git("tag", "--force", "--annotate", "--message=v1", V1.tag, other)
    with pytest.raises(ImageError, match="model.json has 0000"):
        check_bundle(Repository(), V1)


def test_an_invalid_manifest_is_refused(trained: Project) -> None:
    trained.write("model/model.json", "[")
    outs = [{"path": "model", "md5": folder_digest(trained.folder / "model")}]
    trained.write("dvc.lock", yaml.safe_dump({"stages": {"train": {"outs": outs}}}))
    trained.git("tag", "--force", "--annotate", "--message=v1", V1.tag, trained.commit())
    with pytest.raises(ImageError, match="model.json is no manifest of a bundle"):
        check_bundle(Repository(), V1)


@pytest.mark.parametrize("name", ["service/new.py", "Dockerfile"])
def test_uncommitted_files_are_refused(trained: Project, name: str) -> None:
    trained.write(name, "changed")
    with pytest.raises(ImageError, match=f"1 files differ .* such as {name}: commit or stash them"):
        clean_revision(Repository())


def test_files_outside_the_image_may_differ(trained: Project) -> None:
    trained.write("docs/new.md", "changed")
    assert clean_revision(Repository()) == trained.git("rev-parse", "HEAD")


def test_everything_that_the_dockerfile_copies_has_to_be_committed() -> None:
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    names = {line[1:] for line in allowed if line.startswith("!")}
    bundle = {f"{MODEL}/model.json", f"{MODEL}/model.onnx"}
    assert names - bundle <= set(INGREDIENTS)
    assert bundle <= names
