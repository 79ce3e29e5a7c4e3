"""The revision that a bundle names."""

from collections.abc import Callable
from pathlib import Path

from pipeline import repository as git


def test_a_model_names_the_commit_when_only_results_of_the_pipeline_differ(
    repository: Path, commit: Callable[[str], str]
) -> None:
    (repository / "reports").mkdir()
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    (repository / "reports/metrics.json").write_text("{}")
    made = commit("before")
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # as `dvc repro` does
    (repository / "reports/metrics.json").write_text('{"accuracy": 1}')

    assert git.revision() == made


def test_a_model_says_dirty_when_an_input_of_the_training_differs(
    repository: Path, commit: Callable[[str], str]
) -> None:
    made = commit("before")
    with (repository / "params.yaml").open("a") as file:
        file.write("# changed\n")

    assert git.revision() == f"{made}-dirty"
