"""`make setup`: which packages and which torch it takes, and how it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci.environment import (
    PYTORCH_CPU_INDEX,
    Installer,
    SetupError,
    announce,
    choose_torch,
    explain,
    install,
    locked,
    missing,
    pip_settings_for_uv,
)
from tests.conftest import ROOT, run
from tests.fakes import http as fakes_http

LOCK = ROOT / "poetry.lock"
CUDA = {"nvidia-nccl-cu13", "triton", "cuda-toolkit"}


class Recorder(Installer):
    """Records what would be installed; fails for requirements that contain one of `missing`."""

    def __init__(self, *missing: str) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.missing = missing
        self.said = "error: Failed to fetch: https://mirror.example/\n  cause: dns error"

    def install(self, *requirements: str, quiet: bool = False) -> bool:
        self.calls.append(requirements)
        return not any(part in " ".join(requirements) for part in self.missing)


def test_an_extra_adds_its_packages_to_the_core() -> None:
    core, release = locked(LOCK, [], "cpu"), locked(LOCK, ["registry", "delivery"], "cpu")
    assert {"fastapi", "onnxruntime", "orjson"} <= set(core) < set(release)
    assert {"dvc", "python-gitlab"} <= set(release) - set(core)
    assert not {"torch", "pytest", "pyopenssl"} & set(release)


def test_torch_for_the_cpu_comes_without_cuda_libraries() -> None:
    assert CUDA.isdisjoint(locked(LOCK, ["train"], "cpu"))
    assert set(locked(LOCK, ["train"], "cuda")) >= CUDA


def test_cuda_libraries_stay_out_without_torch() -> None:
    assert CUDA.isdisjoint(locked(LOCK, ["registry", "delivery"], "cuda"))


def test_the_cpu_build_comes_from_the_own_sources_first_and_from_pytorch_second() -> None:
    own = Recorder()
    code = ("--editable", str(ROOT))
    install(own, {"torch": "2.13.0", "numpy": "2.4.6"}, "cpu", *code)
    assert own.calls[0] == ("torch==2.13.0+cpu",)
    assert own.calls[1] == ("numpy==2.4.6", *code)
    other = Recorder("torch")
    with pytest.raises(SetupError):
        install(other, {"torch": "2.13.0"}, "cpu")
    assert other.calls[1] == ("--index-url", PYTORCH_CPU_INDEX, "torch==2.13.0+cpu")


def test_the_cuda_build_is_not_taken_for_the_one_of_the_cpu() -> None:
    recorder = Recorder()
    install(recorder, {"torch": "2.13.0"}, "cuda", "--editable", str(ROOT))
    assert recorder.calls == [("torch===2.13.0", "--editable", str(ROOT))]


def test_an_environment_for_everybody_gets_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image of jobs: neither fewer extras nor a GPU that is not there is a reason."""
    wanted = {"torch": "2.13.0", "types-pyyaml": "6.0", "numpy": "2.4.6"}

    def holding(**versions: str) -> None:
        found = [SimpleNamespace(name=name, version=text) for name, text in versions.items()]
        monkeypatch.setattr("importlib.metadata.distributions", lambda: found)

    for torch, build, lacking in (
        ("2.13.0+cpu", "cpu", []),
        ("2.13.0+cpu", "cuda", ["torch"]),
        ("2.13.0", "cpu", []),
        ("2.13.0+cu130", "cuda", []),
        ("2.12.0+cpu", "cpu", ["torch"]),
    ):
        holding(torch=torch, types_PyYAML="6.0", numpy="2.4.6", more="1")
        assert missing(wanted, build) == lacking, torch
    holding(torch="2.13.0", numpy="2.4.5")
    assert missing(wanted, "cpu") == ["types-pyyaml", "numpy"]


def test_a_complete_environment_elsewhere_installs_nothing_and_runs_this_clones_code(
    project: Path,
) -> None:
    """The project itself is not installed: it is everybody's."""
    venv = project.with_name("venv")
    run(sys.executable, "-m", "venv", str(venv))
    for name in ("pyproject.toml", "ci/environment.py"):
        shutil.copy(ROOT / name, project / name)
    lock = "[[package]]\nname = 'pip'\nversion = '%s'\n[extras]\ntrain = []\n"
    version = run(str(venv / "bin/python"), "-c", "import pip; print(pip.__version__)").stdout
    (project / "poetry.lock").write_text(lock % version.strip(), encoding="utf-8")
    (project / "src").mkdir()
    (project / "src/ours.py").write_text("print('code of this clone')", encoding="utf-8")
    words = (f"VENV={venv}", "EXTRAS=train", "TORCH=cpu", "--eval=ours: setup; @python -m ours")
    done = run("make", "ours", *words, f"--directory={project}", check=False)
    assert done.returncode == 0, done.stderr
    assert "all 1 packages are here" in done.stdout and "code of this clone" in done.stdout


def test_a_cpu_build_that_cannot_be_found_names_the_cures() -> None:
    with pytest.raises(SetupError, match=r"PIP_FIND_LINKS.*TORCH=cuda \(about 4.5 GB\)"):
        install(Recorder("+cpu"), {"torch": "2.13.0"}, "cpu")


def test_packages_that_cannot_be_downloaded_name_the_cure() -> None:
    with pytest.raises(
        SetupError, match="packages could not be installed: Failed.*dns error: check the"
    ):
        install(Recorder("numpy"), {"numpy": "2.4.6"}, "cpu")


class Locked(fakes_http.Handler[None]):
    """An index that wants credentials."""

    def do_GET(self) -> None:
        self.reply(401)


def test_an_installer_that_fails_names_the_cause_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a real uv or pip, which asks for a package that does not exist."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "UV_HTTP_RETRIES": "0", "PIP_RETRIES": "1"}
    settings |= {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "target"), "PYTHONHOME": "/nowhere"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with fakes_http.serving(Locked, None) as locked:
        indexes = {locked: "wants credentials", "http://127.0.0.1:9": "check the network and HTTPS"}
        found = {}
        for index in indexes:
            monkeypatch.setenv("PIP_INDEX_URL", index)
            installer = Installer("uv")
            assert not installer.install("conveyor-is-no-package===1", quiet=True)
            found[index] = explain(installer.said)
    assert {index: text for index, text in found.items() if indexes[index] not in text} == {}
    assert "onnection refused" in found["http://127.0.0.1:9"]
    monkeypatch.setenv("PIP_RETRIES", "0")
    installer = Installer("pip")
    assert not installer.install("conveyor-is-no-package===1", quiet=True)
    assert "No matching distribution" in explain(installer.said)
    assert not (tmp_path / "target").exists()


def test_what_installers_print_is_followed_by_its_cure() -> None:
    outputs = {
        "error: Failed to extract archive\n  cause: No space left on device (os error 28)": (
            "UV_CACHE_DIR"
        ),
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.": "pip cache",
        "error: Hash mismatch for `numpy==2.4.6`": "uv cache clean",
        "error: Failed to fetch: https://x\n  cause: invalid peer certificate: UnknownIssuer": (
            "global.cert FILE"
        ),
        "error: failed to open file `/home/x`: Permission denied (os error 13)": "delete .venv",
        "error: request failed\n  cause: operation timed out": "check the network",
        "": "the installer gave no reason: check the network",
    }
    assert [text for text, cure in outputs.items() if cure not in explain(text)] == []


def test_auto_takes_cuda_where_a_gpu_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_torch("auto") == "cpu"
    for output, build in (("GPU 0: NVIDIA H100", "cuda"), ("", "cpu")):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{output}'\n", encoding="utf-8")
        program.chmod(0o755)
        assert choose_torch("auto") == build
    assert choose_torch("cpu") == "cpu"


def test_the_announcement_warns_of_the_size_of_cuda() -> None:
    packages = {"torch": "2.13.0"}
    assert announce(packages, "cuda", "auto").startswith("warning: ")
    assert "about 4.5 GB" in announce(packages, "cuda", "cuda")
    assert "no NVIDIA GPU" in announce(packages, "cpu", "auto")
    assert "without torch" in announce({"numpy": "2.4.6"}, "cuda", "auto")


def test_the_sources_of_pip_reach_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more wheels".replace(" wheels", "-wheels"))
    monkeypatch.setenv("UV_FIND_LINKS", "/own")
    settings = pip_settings_for_uv()
    assert settings["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert "UV_FIND_LINKS" not in settings, "uv's own setting wins"
    monkeypatch.delenv("UV_FIND_LINKS")
    assert pip_settings_for_uv()["UV_FIND_LINKS"] == "/wheels,/more-wheels"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--torch", "gpu"], "error: TORCH=gpu: choose cpu, cuda or auto"),
        (["trian"], "error: EXTRAS: trian is not an extra of pyproject.toml: choose of batch"),
        (["", "--installer", "conda"], "error: INSTALLER=conda: choose uv or pip"),
    ],
)
def test_a_misspelt_choice_is_refused_with_the_right_ones(words: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "ci" / "environment.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(message)


def test_a_python_that_is_too_old_is_refused_by_name(tmp_path: Path) -> None:
    """In a folder whose name has a space, as people have them."""
    clone = tmp_path / "my clone"
    clone.mkdir()
    old = tmp_path / "python3.8"
    version = "type('V', (tuple,), {})((3, 8, 18))"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        f"\"import sys; sys.version_info = {version}; sys.version = '3.8.18 (main)'; $2\"\n",
        encoding="utf-8",
    )
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "poetry.lock"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "setup", f"PYTHON={old}", "NO_SETUP="]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: Python 3.11, 3.12 or 3.13 is needed, this is 3.8.18" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile in a folder with a blank, where installing only prints."""
    folder = tmp_path / "my clone"
    (folder / "ci").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "poetry.lock"):
        (folder / name).touch()
    (folder / "ci/environment.py").write_text("print('installing')", encoding="utf-8")
    return folder


def make_setup(folder: Path) -> str:
    done = run("make", "setup", f"PYTHON={sys.executable}", f"--directory={folder}", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_half_made_environment_is_completed(project: Path) -> None:
    """What `python -m venv` leaves behind where Debian's python3-venv is missing has no pip."""
    run(sys.executable, "-m", "venv", "--without-pip", ".venv", cwd=project)
    assert "installing" in make_setup(project)
    run(str(project / ".venv/bin/python"), "-m", "pip", "--version")
    assert "installing" not in make_setup(project)


def test_a_copied_clone_installs_its_own_code(project: Path) -> None:
    run(sys.executable, "-m", "venv", ".venv", cwd=project)
    make_setup(project)
    copy = shutil.copytree(project, project.with_name("copy"), symlinks=True)
    said = make_setup(copy)
    assert f".venv was made for {project}/.venv: it is made anew" in said and "installing" in said
    assert str(copy) in run(str(copy / ".venv/bin/pip"), "--version").stdout
    assert "installing" not in make_setup(copy)


def test_a_moved_clone_has_an_environment_again(project: Path) -> None:
    run(sys.executable, "-m", "venv", ".venv", cwd=project)
    make_setup(project)
    moved = project.rename(project.with_name("moved"))
    assert "it is made anew" in make_setup(moved)
    assert str(moved) in run(str(moved / ".venv/bin/pip"), "--version").stdout


def test_an_environment_on_another_disk_is_kept(project: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "disk"))
    (project / ".venv").symlink_to(tmp_path / "disk")
    assert "made anew" not in make_setup(project)
    assert (project / ".venv").is_symlink()


def test_a_python_that_cannot_make_environments_is_reported_with_the_package(
    project: Path,
) -> None:
    """As Debian's Python without python3-venv."""
    python = project / "python"
    python.write_text('#!/bin/sh\ntest "$2" != venv || exit 1\n', encoding="utf-8")
    python.chmod(0o755)
    done = run("make", "setup", "PYTHON=./python", cwd=project, check=False)
    assert done.returncode != 0
    assert "no virtual environment could be made" in done.stdout
    assert "apt-get install python3-venv" in done.stdout


def test_a_download_without_history_is_reported_with_the_cure(project: Path) -> None:
    done = run("make", "train-sample", "NO_SETUP=1", cwd=project, check=False)
    assert done.returncode != 0
    assert "DVC and the report need a Git repository" in done.stdout
    assert "not a git repository" in done.stderr


def test_an_environment_elsewhere_is_found_from_every_clone(tmp_path: Path) -> None:
    """The image `train` has one; a clone's own environment installs that clone's code."""
    marks: dict[str, set[str]] = {"/opt/venv": set(), ".venv": set()}
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "ci").mkdir(parents=True)
        for file in ("Makefile", "pyproject.toml", "poetry.lock", "ci/environment.py"):
            shutil.copy(ROOT / file, folder / file)
        for venv, found in marks.items():
            words = (
                "make",
                "--silent",
                f"VENV={venv}",
                "--eval=show: ; @echo $(INSTALLED)",
                "show",
            )
            found.add(run(*words, cwd=folder).stdout.strip())
    assert (len(marks["/opt/venv"]), len(marks[".venv"])) == (1, 2)
