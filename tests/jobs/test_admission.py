"""What is checked before a job queues: data, parameters by the commit's own code, rules."""

import json
from pathlib import Path

import pytest

from jobs.admission import Admission
from jobs.data import is_there
from jobs.errors import Denied, Refused
from jobs.request import Request, parse
from tests.make.jobs import JobProject

MD5 = "0123456789abcdef0123456789abcdef.dir"
CHECK = """
import sys
value = open("params.yaml").read().partition("batch_size: ")[2].partition(" ")[0]
sys.exit(None if value.isdecimal() else f"error: train.batch_size is {value}, wanted a number")
"""


@pytest.fixture
def project(tmp_path: Path) -> JobProject:
    return JobProject(tmp_path / "project", {"quota": {"unfinished": 2, "cpus": 4}})


def submit(project: JobProject, text: str) -> str:
    return Admission(project.store, project.settings).submit(parse(text.encode()), "ada")[0].id


def test_data_that_nobody_has_are_refused(project: JobProject) -> None:
    project.write("data.dvc", f"outs:\n- md5: {MD5}\n  path: data\n")
    project.write(".dvc/config", "[cache]\n    dir = ../elsewhere\n")
    project.commit()
    with pytest.raises(Refused, match="0123456789ab, which is neither in DVC's cache nor"):
        submit(project, "{name: a}")
    project.write(f"elsewhere/files/md5/{MD5[:2]}/{MD5[2:]}", "[]")
    assert submit(project, "{name: a}").startswith("a-1-")


def test_a_remote_that_is_a_folder_is_looked_into(
    project: JobProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("data.dvc", f"outs:\n- md5: {MD5}\n  path: data\n")
    config = "[core]\n    remote = shelf\n['remote \"shelf\"']\n    url = ../shelf\n"
    project.write(".dvc/config", config)
    project.commit()
    project.write(f"shelf/files/md5/{MD5[:2]}/{MD5[2:]}", "[]")
    monkeypatch.setattr("subprocess.run", None)  # nobody is asked
    assert is_there(MD5, project.folder)


def test_parameters_are_judged_by_the_code_of_the_commit(project: JobProject) -> None:
    project.write("src/check.py", CHECK)
    settings = {"check": ["python", "-m", "check"]}
    project.write("jobs/settings.yaml", json.dumps(settings))
    project.commit()
    project.write("src/check.py", "raise SystemExit('error: of the working copy')")
    with pytest.raises(Refused, match="parameters: train.batch_size is many, wanted a number"):
        submit(project, "{name: a, parameters: {train.batch_size: many}}")
    with pytest.raises(Refused, match="train.batch is not in params.yaml: correct the name"):
        submit(project, "{name: a, parameters: {train.batch: 8}}")
    submit(project, "{name: a, parameters: {train.batch_size: 8}}")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{when: nan, parameters: {train.rate: /10}}", "train.rate is not in params.yaml"),
        ("{when: nan, parameters: {train.device: /2}}", "the value is 'auto'"),
        ("{when: no_gpu, executor: mainframe}", "'mainframe' is not one here"),
        ("{when: out_of_memory, memory: 9999GB}", "over the quota"),
    ],
)
def test_a_rule_that_could_never_help_is_refused_at_once(
    rule: str, said: str, project: JobProject
) -> None:
    with pytest.raises(Refused, match=said):
        submit(project, f"{{name: a, on_failure: [{rule}]}}")
    assert project.store.jobs() == []


def test_one_person_does_not_fill_the_queue(project: JobProject) -> None:
    admission = Admission(project.store, project.settings)
    for name in "ab":
        admission.submit(Request(name=name), "ada")
    with pytest.raises(Denied, match="2 jobs of yours have not ended, the quota is 2"):
        admission.submit(Request(name="c"), "ada")
    admission.submit(Request(name="c"), "grace")


def test_more_than_this_machine_has_is_refused(project: JobProject) -> None:
    with pytest.raises(Refused, match="resources.nodes: 2, and executor local is one machine"):
        submit(project, "{name: a, resources: {nodes: 2}}")
    with pytest.raises(Denied, match="resources.cpus: 5 is over the quota of 4"):
        submit(project, "{name: a, resources: {cpus: 5}}")


def test_a_wrong_setting_is_named(project: JobProject) -> None:
    project.write("jobs/settings.yaml", "quota: {gpu: 1}")
    done = project.jobs("submit", str(project.request()), check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "error: jobs/settings.yaml: quota.gpu: it is not known here: correct it (docs/jobs.md)\n"
    )
