"""The components: every input is declared and described, and reaches the jobs."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, run
from tests.make import ci

NAMES = [path.stem for path in ci.COMPONENTS]


def spec(name: str) -> dict[str, dict[str, str]]:
    text = (ROOT / "templates" / f"{name}.yml").read_text(encoding="utf-8")
    inputs: dict[str, dict[str, str]] = yaml.safe_load(text.partition("\n---\n")[0])["spec"][
        "inputs"
    ]
    return inputs


def test_a_clone_includes_every_component_from_its_own_files() -> None:
    included = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))["include"]
    assert sorted(row["local"] for row in included) == [f"templates/{name}.yml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_described_has_a_default_and_is_used(name: str) -> None:
    text = (ROOT / "templates" / f"{name}.yml").read_text(encoding="utf-8")
    for key, about in spec(name).items():
        assert about["description"].endswith("."), key
        assert "default" in about and f"$[[ inputs.{key} ]]" in text, key


def previewed(folder: Path, inputs: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The pipeline of a project that includes the components with these inputs."""
    if not ci.RUNNER.exists():
        pytest.skip("gitlab-ci-local is not installed: make setup-e2e")
    ci.checkout(folder)
    includes = [
        {"local": f"templates/{name}.yml", "inputs": inputs.get(name, {})} for name in NAMES
    ]
    text = yaml.safe_dump({"include": includes})
    (folder / ".gitlab-ci.yml").write_text(text, encoding="utf-8")
    shown = run(str(ci.RUNNER), "--preview", "--no-color", cwd=folder).stdout
    found: dict[str, dict[str, object]] = yaml.load(shown, ci.Loader)
    return found


@pytest.mark.parametrize("context", ["", "team/agents:cluster"])
def test_environments_show_the_cluster_when_there_is_an_agent(tmp_path: Path, context: str) -> None:
    if not ci.RUNNER.exists():
        pytest.skip("gitlab-ci-local is not installed: make setup-e2e")
    ci.checkout(tmp_path)
    line = (str(ci.RUNNER), "--preview", "--no-color", f"--variable=KUBE_CONTEXT={context}")
    pipeline = yaml.load(run(*line, cwd=tmp_path).stdout.partition("---\n")[2], ci.Loader)
    for stage in ("staging", "production"):
        found = pipeline[stage]["environment"]
        assert (found["name"], found["deployment_tier"]) == (stage, stage)
        cluster = {"agent": "$KUBE_CONTEXT", "namespace": f"landcover-{stage}"}
        assert found.get("kubernetes") == (cluster if context else None)


def test_inputs_reach_the_jobs(tmp_path: Path) -> None:
    stages = ["mine", *ci.MAIN["stages"]]
    given: dict[str, dict[str, object]] = {
        "base": {"train-runner-tag": "a100", "timeout": "7 minutes", "stages": stages},
        "train": {"timeout": "24 hours"},
        "deploy": {"timeout": "3 hours"},
    }
    pipeline = previewed(tmp_path, given)
    assert pipeline["stages"][1:-1] == stages  # type: ignore[index]
    assert pipeline["variables"]["TRAIN_RUNNER_TAG"] == "a100"
    assert pipeline["train"]["timeout"] == "24 hours"
    assert pipeline["staging"]["timeout"] == "3 hours"
