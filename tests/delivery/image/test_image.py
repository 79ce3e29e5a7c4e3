"""The image of a version: built, scanned, pushed, found again. tests/e2e does it for real."""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import VulnerableError
from delivery.image import __main__ as cli
from delivery.image import image
from delivery.image.__main__ import SERVABLE, main
from delivery.image.builders import Built, Found, Recipe
from delivery.image.image import (
    BUNDLE,
    EXTRAS,
    REVISION,
    RUNTIME,
    SERVING,
    VERSION,
    image_name,
)
from delivery.image.preflight import SERVED
from tests.conftest import ROOT, run
from tests.delivery.conftest import Project
from tests.make.versions import GRAPH_SHA256, V1, train_version

NAME = "registry.example.org/group/landcover"
DIGEST = "sha256:" + "d" * 64
FACTS = ("CI_REGISTRY", "CI_DEPENDENCY_PROXY", "IMAGE")
"""How the variables of a job begin that the command reads."""


class FakeEngine:
    """Builds nothing and keeps what it is asked; its registry holds what was pushed."""

    def __init__(self) -> None:
        self.built: list[Recipe] = []
        self.pushed: dict[str, Found] = {}
        self.labels: Mapping[str, str] = {}
        self.logins: list[tuple[str, str, str]] = []

    def build(self, recipe: Recipe) -> str:
        self.built.append(recipe)
        given = recipe.arguments
        self.labels = self.labels or {
            VERSION: given.get("VERSION", ""),
            REVISION: given["REVISION"],
            BUNDLE: given.get("BUNDLE_SHA256", ""),
            RUNTIME: given.get("RUNTIME", "cpu"),
            EXTRAS: given.get("EXTRAS", SERVING),
        }
        return "sha256:" + f"{len(self.built):064x}"

    def inspect(self, image: str) -> Built:
        return Built(self.labels, 400)

    def save(self, image: str, archive: Path) -> None:
        archive.write_text(image, encoding="ascii")

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        for tag in tags:
            self.pushed[f"{name}:{tag}"] = Found(DIGEST, dict(self.labels), 100)
        return DIGEST

    def lookup(self, name: str, tag: str) -> Found | None:
        return self.pushed.get(f"{name}:{tag}")

    def login(self, host: str, user: str, password: str) -> None:
        self.logins.append((host, user, password))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    found = FakeEngine()
    monkeypatch.setattr(image, "choose_builder", lambda: found)
    for name in [name for name in os.environ if name.startswith(FACTS)]:
        monkeypatch.delenv(name)
    return found


@pytest.fixture
def trained(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with version 1.0.0 at HEAD and its bundle in model/, as the working directory."""
    monkeypatch.chdir(project.folder)
    return train_version(project)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says when it refuses; nothing else."""
    with pytest.raises(SystemExit) as ended:
        command(*words)
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)
    assert capsys.readouterr().out == ""
    return str(ended.value)


def command(*words: str) -> None:
    """Run `python -m delivery.image`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["image", *words])
        main()


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("artifacts/image/image.json").read_bytes())
    return found


def test_a_build_gets_the_values_of_its_labels(trained: Project, engine: FakeEngine) -> None:
    command("build", "--version", V1.tag, "--build-arg", "PYTHON_BASE=localhost/base")
    commit = trained.git("rev-parse", "HEAD")
    [recipe] = engine.built
    assert recipe.target == "serve"
    assert recipe.arguments == {
        "PYTHON_BASE": "localhost/base",
        "VERSION": V1.tag,
        "REVISION": commit,
        "BUNDLE_SHA256": GRAPH_SHA256,
        "CREATED": trained.git("show", "--no-patch", "--format=%cI", "HEAD"),
    }
    found = record()
    assert found["image"] == "localhost/landcover"
    assert (found["version"], found["revision"]) == (V1.tag, commit)
    assert (found["bundle_sha256"], found["size"]) == (GRAPH_SHA256, 400)
    assert (found["digest"], found["reference"]) == ("", "")


def test_stale_labels_of_a_build_cache_are_refused(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.labels = {VERSION: V1.tag, REVISION: "of another build", BUNDLE: GRAPH_SHA256}
    said = refusal(capsys, "build", "--version", V1.tag)
    assert "revision is 'of another build', not " in said and "without a cache" in said


def test_build_arguments_come_from_the_environment_too(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_BUILD_ARGS", "PYTHON_BASE=a CML=")
    command("build", "--version", V1.tag, "--build-arg=PYTHON_BASE=b=c")
    assert engine.built[0].arguments["PYTHON_BASE"] == "b=c"
    assert engine.built[0].arguments["CML"] == ""


def test_another_build_of_the_runtime_is_another_image(
    trained: Project,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IMAGE", NAME)
    for runtime, count in (("cpu", 1), ("cuda", 2), ("cuda", 2), ("cpu", 3)):
        engine.labels = {}
        command("build", "--version", V1.tag, f"--build-arg=RUNTIME={runtime}")
        command("push")
        assert len(engine.built) == count and record()["runtime"] == runtime
    capsys.readouterr()
    said = refusal(capsys, "build", "--version", V1.tag, "--build-arg=RUNTIME=gpu")
    assert "RUNTIME 'gpu' is no build of ONNX Runtime: write cpu or cuda" in said


def test_an_image_that_can_do_more_is_another_image(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE", NAME)
    more = f"{SERVING},maps"
    for extras, count in ((SERVING, 1), (more, 2), (more, 2), (SERVING, 3)):
        engine.labels = {}
        command("build", "--version", V1.tag, f"--build-arg=EXTRAS={extras}")
        command("push")
        assert len(engine.built) == count and record()["extras"] == extras


@pytest.mark.parametrize(
    "extras", ["", "maps", "registry,map", "registry,train", "registry,registry", "registry, maps"]
)
def test_extras_that_no_service_has_are_refused(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str], extras: str
) -> None:
    said = refusal(capsys, "build", "--version", V1.tag, f"--build-arg=EXTRAS={extras}")
    assert f"EXTRAS {extras!a}: write registry and what else is to be served" in said
    assert "registry, stream, maps, batch" in said and engine.built == []


def test_the_extras_of_an_image_are_those_of_the_project_and_of_the_dockerfile() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(SERVABLE) <= project["optional-dependencies"].keys()
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert f"ARG EXTRAS={SERVING}" in lines


def test_a_mirror_of_docker_hub_is_given_to_the_build_and_logged_in_to(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "gitlab.example.org:443/team/dependency_proxy/containers/"
    monkeypatch.setenv("IMAGE_PREFIX", prefix)
    for name, value in (("SERVER", "gitlab.example.org:443"), ("USER", "ci"), ("PASSWORD", "key")):
        monkeypatch.setenv(f"CI_DEPENDENCY_PROXY_{name}", value)
    command("build", "--version", V1.tag)
    assert engine.built[0].arguments["IMAGE_PREFIX"] == prefix
    assert engine.logins == [("gitlab.example.org:443", "ci", "key")]
    command("build", "--version", V1.tag, "--build-arg=IMAGE_PREFIX=mirror.example.org/")
    assert engine.built[1].arguments["IMAGE_PREFIX"] == "mirror.example.org/"


def test_a_prefix_that_makes_no_name_is_refused(
    trained: Project,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IMAGE_PREFIX", "mirror.example.org")
    said = refusal(capsys, "build", "--version", V1.tag)
    assert "IMAGE_PREFIX 'mirror.example.org' does not end with a slash: write" in said
    assert engine.built == []


def test_a_build_argument_cannot_change_a_label(trained: Project, engine: FakeEngine) -> None:
    command("build", "--version", V1.tag, "--build-arg=VERSION=landcover@v9.0.0")
    assert engine.built[0].arguments["VERSION"] == V1.tag


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "landcover@v1.0"), "is not a version: write v1.2.0"),
        (("--version", "$(id)"), "is not a version: write v1.2.0"),
        ((), "is not a version: write v1.2.0"),
        (("--version", V1.tag, "--build-arg", "A"), "write NAME=value"),
    ],
)
def test_invalid_build_arguments_are_refused(
    trained: Project,
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    assert said in refusal(capsys, "build", *words)
    assert engine.built == []


def test_a_version_may_be_named_by_its_number(trained: Project, engine: FakeEngine) -> None:
    command("build", "--version", "1.0.0")
    assert record()["version"] == V1.tag


def test_a_pushed_image_is_named_by_its_digest(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    command("build", "--version", V1.tag, "--image", NAME)
    capsys.readouterr()
    command("push")
    assert capsys.readouterr().out == f"{NAME}@{DIGEST}\n"
    assert record()["reference"] == f"{NAME}@{DIGEST}"
    commit = trained.git("rev-parse", "HEAD")
    assert list(engine.pushed) == [f"{NAME}:v1.0.0-{commit[:12]}", f"{NAME}:v1.0.0"]
    command("resolve", "--version", V1.tag, "--image", NAME)
    assert capsys.readouterr().out == f"{NAME}@{DIGEST}\n"
    assert image.find(V1, NAME).bundle_sha256 == GRAPH_SHA256


def test_an_image_in_the_registry_is_neither_built_nor_pushed_again(
    trained: Project, engine: FakeEngine
) -> None:
    for _ in range(2):
        command("build", "--version", V1.tag, "--image", NAME)
        command("push")
    assert len(engine.built) == 1
    assert record()["digest"] == DIGEST


def test_a_commit_that_changes_only_code_gets_an_image_of_its_own(
    trained: Project, engine: FakeEngine
) -> None:
    command("build", "--version", V1.tag, "--image", NAME)
    command("push")
    trained.write("service/new.py", "")
    commit = trained.commit("Change the code")
    engine.labels = {}
    command("build", "--version", V1.tag, "--image", NAME)
    command("push")
    assert len(engine.built) == 2
    assert engine.pushed[f"{NAME}:v1.0.0"].labels[REVISION] == commit


def test_an_older_commit_does_not_overwrite_the_image_of_a_later_one(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    command("build", "--version", V1.tag, "--image", NAME)
    late = dict(engine.labels)
    trained.write("service/new.py", "")
    later = late | {REVISION: trained.commit("Change the code")}
    engine.pushed[f"{NAME}:v1.0.0"] = Found(DIGEST, later, 1)
    capsys.readouterr()
    said = refusal(capsys, "push")
    assert "is outdated" in said and later[REVISION][:12] in said
    assert engine.pushed[f"{NAME}:v1.0.0"].labels == later


def test_an_image_of_an_unknown_commit_may_be_overwritten(
    trained: Project, engine: FakeEngine
) -> None:
    command("build", "--version", V1.tag, "--image", NAME)
    foreign = dict(engine.labels) | {REVISION: "0" * 40}
    engine.pushed[f"{NAME}:v1.0.0"] = Found("sha256:" + "e" * 64, foreign, 1)
    command("push")
    assert record()["digest"] == DIGEST


def test_an_image_labelled_with_another_version_is_refused(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.pushed[f"{NAME}:v1.0.0"] = Found(DIGEST, {VERSION: "landcover@v1.1.0"}, 1)
    said = refusal(capsys, "resolve", "--version", V1.tag, "--image", NAME)
    assert "labelled 'landcover@v1.1.0', not landcover@v1.0.0" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [("localhost/landcover", "set IMAGE=registry/group/name"), (NAME, "run make image VERSION=")],
)
def test_an_image_that_was_never_pushed_is_not_found(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert said in refusal(capsys, "resolve", "--version", V1.tag, "--image", name)


def test_an_image_of_this_machine_is_not_pushed(
    trained: Project, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    command("build", "--version", V1.tag)
    capsys.readouterr()
    assert "is local to this machine" in refusal(capsys, "push")


def test_an_image_without_a_registry_has_the_name_of_the_model(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGE", raising=False)
    assert image_name() == "localhost/landcover"
    Path("params.yaml").write_text("model: {name: crops}\n", encoding="utf-8")
    assert image_name() == "localhost/crops"
    monkeypatch.setenv("IMAGE", NAME)
    assert image_name() == NAME


@pytest.mark.parametrize("what", ["scan", "push"])
@pytest.mark.parametrize("content", [None, "[", "{}", '{"image": "x"}'])
def test_nothing_is_scanned_or_pushed_that_was_not_built(
    trained: Project,
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    what: str,
    content: str | None,
) -> None:
    if content is not None:
        trained.write("artifacts/image/image.json", content)
    assert "python -m delivery.image build" in refusal(capsys, what)


def test_a_job_of_gitlab_logs_in_where_its_image_is(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("", "registry.example.org"), ("_USER", "ci"), ("_PASSWORD", "secret")):
        monkeypatch.setenv(f"CI_REGISTRY{name}", value)
    command("build", "--version", V1.tag, "--image", "registry.example.org.evil.net/x")
    assert engine.logins == []
    command("build", "--version", V1.tag, "--image", NAME)
    assert engine.logins == [("registry.example.org", "ci", "secret")]


def test_the_image_for_jobs_is_tagged_by_its_build_of_torch(
    trained: Project, engine: FakeEngine
) -> None:
    """The tag moves: variables of the project name it."""
    for words, torch in (((), "cuda"), (("--build-arg", "TORCH=cpu"), "cpu")):
        command("build", "--target", "train", "--image", f"{NAME}/jobs", *words)
        command("push")
        assert engine.built[-1].target == "train"
        assert engine.built[-1].arguments["TORCH"] == torch
    assert list(engine.pushed) == [f"{NAME}/jobs:cuda", f"{NAME}/jobs:cpu"]


def test_make_builds_and_pushes_the_image_for_jobs_of_the_named_build() -> None:
    for torch in ("cpu", "cuda"):
        done = run("make", "--dry-run", "job-image", "NO_SETUP=1", f"TORCH={torch}", cwd=ROOT)
        build, push = done.stdout.splitlines()
        assert "delivery.image build --target train" in build
        assert build.endswith(f"--build-arg TORCH='{torch}'")
        assert push.endswith("delivery.image push")
    done = run("make", "--dry-run", "job-image", "NO_SETUP=1", cwd=ROOT, check=False)
    assert done.returncode != 0 and "make job-image TORCH=cpu, or TORCH=cuda" in done.stderr


# An image of the same ingredients is taken, whatever else the commit changes.


def release(trained: Project, engine: FakeEngine) -> None:
    engine.labels = {}
    command("build", "--version", V1.tag, "--image", NAME)
    command("push")


@pytest.mark.parametrize(
    ("file", "built"),
    [
        ("README.md", 1),
        ("docs/registry.md", 1),
        ("k8s/base/kustomization.yaml", 1),
        ("src/delivery/notify.py", 1),
        ("poetry.lock", 1),
        ("service/app.py", 2),
        ("src/contracts/tags.py", 2),
        ("src/delivery/image/slim.py", 2),
        ("constraints.txt", 2),
        ("pyproject.toml", 2),
        ("Dockerfile", 2),
        (".dockerignore", 2),
    ],
)
def test_only_a_change_of_its_ingredients_makes_another_image(
    trained: Project, engine: FakeEngine, file: str, built: int
) -> None:
    """A typo in the README then rolls nothing out: the stages serve this digest."""
    release(trained, engine)
    first = trained.git("rev-parse", "HEAD")
    trained.write(file, "changed")
    commit = trained.commit("Change a file")
    release(trained, engine)
    assert len(engine.built) == built
    assert record()["revision"] == (first if built == 1 else commit)
    assert record()["digest"] == DIGEST


def test_a_change_that_was_taken_back_makes_another_image(
    trained: Project, engine: FakeEngine
) -> None:
    """What counts is the commit of the image that the version's tag names."""
    release(trained, engine)
    for content in ("changed", "changed back"):
        trained.write("service/app.py", content)
        trained.commit("Change the code")
        release(trained, engine)
    assert len(engine.built) == 3


def test_an_image_of_a_commit_that_is_not_known_here_is_not_taken(
    trained: Project, engine: FakeEngine
) -> None:
    release(trained, engine)
    labels = dict(engine.pushed[f"{NAME}:v1.0.0"].labels) | {REVISION: "0" * 40}
    engine.pushed[f"{NAME}:v1.0.0"] = Found(DIGEST, labels, 1)
    release(trained, engine)
    assert len(engine.built) == 2


def test_another_bundle_of_the_same_code_is_another_image(
    trained: Project, engine: FakeEngine
) -> None:
    release(trained, engine)
    labels = dict(engine.pushed[f"{NAME}:v1.0.0"].labels) | {BUNDLE: "0" * 64}
    engine.pushed[f"{NAME}:v1.0.0"] = Found(DIGEST, labels, 1)
    release(trained, engine)
    assert len(engine.built) == 2


def finding(*references: str) -> Callable[..., None]:
    """A scanner that finds something in these images, built or pushed."""

    def scan(found: image.Image, folder: Path) -> None:
        if (found.id or found.digest) in references:
            raise VulnerableError("trivy found known vulnerabilities that updates fix: see above")

    return scan


def test_a_released_image_with_holes_that_updates_fix_is_built_again_without_a_cache(
    trained: Project, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(trained, engine)
    trained.write("README.md", "changed")
    commit = trained.commit("Mend a typo")
    engine.labels = {}
    monkeypatch.setattr(cli, "scan", finding(DIGEST))
    for words in (("build", "--version", V1.tag, "--image", NAME), ("scan",), ("push",)):
        command(*words)
    assert [recipe.fresh for recipe in engine.built] == [False, True]
    assert engine.pushed[f"{NAME}:v1.0.0"].labels[REVISION] == commit


def test_holes_that_a_new_build_does_not_close_are_not_released(
    trained: Project,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    release(trained, engine)
    engine.labels = {}
    command("build", "--version", V1.tag, "--image", NAME)
    monkeypatch.setattr(cli, "scan", finding(DIGEST, "sha256:" + f"{2:064x}"))
    with pytest.raises(SystemExit, match="trivy found known vulnerabilities"):
        command("scan")
    assert len(engine.built) == 2


def test_the_ingredients_are_what_the_dockerfile_copies() -> None:
    """Its second image, `train`, is not served."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("AS train")[0]
    lines = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    copied = {word for words in lines for word in words if not words[0].startswith("--from")}
    assert copied - {"model"} == set(SERVED) - {"Dockerfile", ".dockerignore"}
