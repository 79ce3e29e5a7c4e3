"""The report says which job trained the model, what that cost, and where the budgets stand."""

from pathlib import Path

import pytest

from contracts.jobs import JOB, Account, JobReport
from pipeline.reporting.costs import job_section

MODEL = "0" * 64
MONTH = Account(scope="month", name="2026-11", used=90.0, held=5.0, limit=100.0)
REQUEST = Account(scope="merge_request", name="12", used=0.0, held=0.0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    JOB.parent.mkdir()


def write(gpus: int = 2) -> None:
    found = JobReport(
        job="train-17",
        attempt="train-17.1",
        model=MODEL,
        seconds=600.0,
        gpus=gpus,
        accounts=(MONTH, REQUEST),
    )
    JOB.write_text(found.model_dump_json(), encoding="utf-8")


def test_the_job_its_gpu_minutes_and_each_budget_are_shown() -> None:
    write()
    text = " ".join(job_section(MODEL).split())
    assert "Trained by `train-17` in 10.0 min, 20.0 GPU minutes." in text
    assert "| `month 2026-11` | 90.0 | 5.0 | ⚠️ 110.0 | 100 |" in text
    assert "| `merge request 12` | 0.0 | 0.0 | 20.0 | none |" in text


def test_a_job_without_a_gpu_draws_on_no_budget() -> None:
    write(gpus=0)
    assert job_section(MODEL) == "## Job\n\nTrained by `train-17` in 10.0 min, no GPU."


def test_the_job_of_another_model_is_not_shown() -> None:
    assert job_section(MODEL) == ""
    write()
    assert job_section("1" * 64) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"job": 1}', '{"seconds": NaN}'])
def test_what_is_no_such_document_is_named(text: str) -> None:
    JOB.write_text(text, encoding="utf-8")
    assert job_section(MODEL).startswith("## Job\n\n`reports/job.json: ")
