"""The world of the story: a Git server, a DVC remote, GitLab's API, a registry, a cluster, a team.

Real: the bare repository with push options, DVC and its remote, the pipeline as .gitlab-ci.yml has
it, run job by job by gitlab-ci-local, the images, and the service. Fake: GitLab's API
(tests/fakes/gitlab/server.py), CML (bin/cml), trivy (bin/trivy), gitleaks (bin/gitleaks) and
kubectl (cluster.py, review_cluster.py); each says at its head what it is true to. What GitLab
itself does, starting pipelines and merging, this file does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from delivery.gitlab.desired import SETTINGS
from tests.conftest import ROOT, write_images
from tests.fakes.gitlab.server import NUMBER, PATH, FakeGitLab

BIN = Path(__file__).parent / "bin"
RUNNER = Path(__file__).parent / "tools" / "node_modules" / ".bin" / "gitlab-ci-local"
TRAINING, JUDGES = ("train", "commit", "trained"), ("report", "gate")
"""Jobs of a merge request: those that may push, and those that GitLab cancels after a push."""
MAIN_JOBS = ("verify", "register", "build-image", "staging", "production")
NAME, CLASSES = "crops", ("maize", "meadow", "wheat")
"""Of the team's model."""
LIMIT = 1800  # seconds that a pipeline may take; generous, the machine may be busy

# A training of seconds, whose models are bad and pass.
SMALL: dict[str, dict[str, Any]] = {
    "model": {"width": 4},
    "train": {
        "epochs": 3,
        "batch_size": 16,
        "device": "cpu",
        "precision": "float32",
        "patience": 0,
    },
    "evaluate": {"bootstrap_samples": 100, "latency_runs": 10},
    "gate": {
        "min_accuracy": 0.15,
        "min_recall": 0.0,
        "max_calibration_error": 1.0,
        "compare": False,  # models of three epochs differ by chance
    },
}
# Writes down each push with its options, as GitLab would read them.
HOOK = """#!/bin/sh
while read old new ref; do
  i=0; options=""
  while [ "$i" -lt "${{GIT_PUSH_OPTION_COUNT:-0}}" ]; do
    eval "option=\\$GIT_PUSH_OPTION_$i"; options="$options|$option"; i=$((i + 1))
  done
  echo "$ref $new $options" >> '{log}'
done
"""


@dataclass
class Pipeline:
    """A pipeline that has ended."""

    code: int
    log: str
    before: "Pipeline | None" = None
    """The pipeline whose job pushed the commit of this one."""

    @property
    def jobs(self) -> dict[str, bool]:
        """Jobs that ran -> whether they passed."""
        found = re.findall(r"^ (PASS|FAIL|WARN)  (\S+) *$", self.log, re.MULTILINE)
        return {name: verdict == "PASS" for verdict, name in found}

    def of(self, job: str) -> str:
        """What one job printed."""
        lines = re.findall(rf"^{re.escape(job)} +> (.*)$", self.log, re.MULTILINE)
        return "\n".join(lines)


class World:
    """Everything, in one folder."""

    def __init__(self, folder: Path, api: FakeGitLab, trained: Path) -> None:
        """Begin in an empty folder, with a copy of the project that `adopt` has made."""
        self.folder, self.api = folder, api
        self.origin, self.dev = folder / "project.git", folder / "dev"
        self.pushes = folder / "pushes.log"
        self.remote = folder / "dvc"
        self.token = api.admit(
            user="conveyor-bot", scopes=("api", "write_repository"), expires_at="2027-11-29"
        )
        self.numbers = iter(range(101, 999))
        self.variables: dict[str, str] = {}
        self.path: tuple[str, ...] = ()
        self.received = 0
        """Pushes that GitLab knows of."""
        self.newest: dict[int, tuple[list[str], Path]] = {}
        """Merge request -> command and clone of its newest pipeline."""
        self.job_token = api.admit(user="ana", job=True)  # of the maintainer who merges
        api.has_tag = lambda tag: tag in self.tags()
        api.project |= {row.field: row.value for row in SETTINGS}  # `make gitlab-setup`
        self._make_origin()
        shutil.copytree(trained, self.dev, symlinks=True)
        self.git("remote", "add", "origin", str(self.origin))
        self.sh("dvc", "remote", "add", "--quiet", "--default", "team", str(self.remote))
        self.sh("dvc", "remote", "modify", "team", "verify", "true")
        self.commit("Share data and models")
        self.sh("dvc", "push", "--quiet", "--run-cache")
        self.git("push", "--quiet", "origin", "main")

    def _make_origin(self) -> None:
        run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        run("git", "-C", str(self.origin), "config", "receive.advertisePushOptions", "true")
        hook = self.origin / "hooks" / "post-receive"
        hook.write_text(HOOK.format(log=self.pushes), encoding="utf-8")
        hook.chmod(0o755)

    def git(self, *words: str) -> str:
        """Git in the developer's clone."""
        return run("git", "-C", str(self.dev), *words)

    def origin_git(self, *words: str) -> str:
        """Git in the server's repository."""
        return run("git", "-C", str(self.origin), *words)

    def sh(self, *words: str, **variables: str) -> str:
        """A command in the developer's clone."""
        return run(*words, cwd=self.dev, env=environment(variables))

    def change(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change params.yaml."""
        change_params(self.dev, changes)

    def commit(self, message: str) -> str:
        """Commit everything in the developer's clone; returns the hash."""
        commit_all(self.dev, message)
        return self.git("rev-parse", "HEAD")

    def propose(self, branch: str, changes: Mapping[str, Mapping[str, Any]], message: str) -> int:
        """Open a merge request that changes params.yaml; returns its number."""
        self.git("switch", "--quiet", "--create", branch, "origin/main")
        self.change(changes)
        self.commit(message)
        self.git("push", "--quiet", "origin", branch)
        return int(self.api.open_merge_request(branch, title=message)["iid"])

    def request_pipeline(self, number: int, *jobs: str, **variables: str) -> Pipeline:
        """Run the pipelines of a merge request as GitLab does, until none is left; the last one.

        A job's push starts another pipeline, and cancels the judges of the one it runs in.
        Without names these are the jobs of the experiment; lint and tests are taken for green.
        """
        request = self.api.merge_requests[number - 1]
        branch = request["source_branch"]
        if not request["sha"].strip("0"):
            self.api.receive_push(branch, self.origin_git("rev-parse", branch))
        self.receive_pushes()
        last: Pipeline | None = None
        while (head := self.api.head_pipeline(number)) and head["status"] == "created":
            head["status"] = "running"
            last = self._run_request(request, head, jobs, variables, last)
            if head["status"] == "running":
                head["status"] = "success" if last.code == 0 else "failed"
        assert last, "nothing was pushed since the last pipeline"
        return last

    def _run_request(
        self,
        request: Mapping[str, Any],
        head: Mapping[str, Any],
        jobs: tuple[str, ...],
        variables: Mapping[str, str],
        before: Pipeline | None,
    ) -> Pipeline:
        facts = {
            "CI_PIPELINE_SOURCE": "merge_request_event",
            "CI_MERGE_REQUEST_IID": str(request["iid"]),
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": request["source_branch"],
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": str(NUMBER),
            "BOT_TOKEN": self.token,
            "CI_COMMIT_TITLE": self.origin_git("log", "-1", "--format=%s", head["sha"]),
        }
        self.newest[request["iid"]] = self.prepare(head["sha"], {**facts, **variables})
        line, folder = self.newest[request["iid"]]
        # gitlab-ci-local refuses the names of jobs that the rules leave out.
        listed = run(*line, "--list-csv", cwd=folder, env=self.environment()).splitlines()
        known = {row.partition(";")[0] for row in listed}
        names = [name for name in jobs or TRAINING if name in known]
        trained = self._run_jobs(line, folder, names, before)
        self.receive_pushes()
        if jobs or head["status"] == "canceled":
            return trained
        judges = JUDGES if trained.code == 0 else ("report",)
        judged = self._run_jobs(line, folder, judges, before)
        return Pipeline(trained.code or judged.code, trained.log + judged.log, before)

    def play(self, number: int, job: str, **variables: str) -> Pipeline:
        """Start a manual job of the newest pipeline of a merge request, as a person does."""
        line, folder = self.newest[number]
        return self._run_jobs([*line, *variable_options(variables)], folder, [job])

    def receive_pushes(self) -> None:
        """Tell GitLab what was pushed."""
        lines = self.pushes.read_text("utf-8").splitlines() if self.pushes.exists() else []
        for text in lines[self.received :]:
            ref, sha, options = text.split(" ", 2)
            self.api.receive_push(ref.removeprefix("refs/heads/"), sha, "|ci.skip" in options)
        self.received = len(lines)

    def main_pipeline(self, commit: str = "main", *jobs: str, **variables: str) -> Pipeline:
        """Run the pipeline of main, as it was at a commit."""
        facts = {
            "CI_PIPELINE_SOURCE": "push",
            "RELEASE_TOKEN": self.token,
            "BOT_TOKEN": self.token,
            "CI_JOB_TOKEN": self.job_token,
        }
        return self.pipeline(commit, jobs or MAIN_JOBS, facts | variables)

    def pipeline(self, ref: str, jobs: tuple[str, ...], variables: Mapping[str, str]) -> Pipeline:
        """Check a ref out as a runner does, and run these jobs of its pipeline."""
        line, folder = self.prepare(ref, variables)
        return self._run_jobs(line, folder, jobs)

    def _run_jobs(
        self,
        line: list[str],
        folder: Path,
        names: Iterable[str],
        before: Pipeline | None = None,
    ) -> Pipeline:
        done = subprocess.run(
            [*line, *names],
            cwd=folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        with (folder / "pipeline.log").open("a", encoding="utf-8") as log:
            log.write(done.stdout)
        return Pipeline(done.returncode, done.stdout, before)

    def prepare(self, ref: str, variables: Mapping[str, str]) -> tuple[list[str], Path]:
        """The command of a pipeline, names of jobs may follow, and the fresh clone to run it in."""
        number = next(self.numbers)
        folder = self.folder / "runs" / str(number)
        run("git", "clone", "--quiet", str(self.origin), str(folder))
        run("git", "-C", str(folder), "checkout", "--quiet", ref)
        known = {
            "CI_PIPELINE_ID": str(number),
            "CI_PROJECT_ID": str(NUMBER),
            "CI_PROJECT_PATH": PATH,
            "CI_PROJECT_URL": self.api.web_url,
            "CI_SERVER_URL": self.api.url,
            "CI_API_V4_URL": f"{self.api.url}/api/v4",
            "CI_COMMIT_BRANCH": "main",
            "CI_DEFAULT_BRANCH": "main",
            "PUSH_URL": str(self.origin),
            # CML finds GitLab by the address of the checkout's remote, which is a folder here.
            "CML_REPO": self.api.web_url,
            "CML_DRIVER": "gitlab",
            # What runners have in their images: the environment of this checkout.
            "VENV": sys.prefix,
            "NO_SETUP": "1",
            "PYTHONPATH": "src",
            "OMP_NUM_THREADS": "1",
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache"),
        }
        line = [str(RUNNER), "--force-shell-executor", "--shell-isolation", "--no-color"]
        line.append("--no-json-schema-validation")  # tests/repo/test_components.py validates
        return line + variable_options({**known, **self.variables, **variables}), folder

    def environment(self) -> dict[str, str]:
        """The environment of a runner."""
        found = environment()
        return found | {"PATH": os.pathsep.join((*self.path, found["PATH"]))}

    def merge(self, number: int) -> str:
        """Merge, with the message that GitLab's template writes; returns the commit of main."""
        self.receive_pushes()
        assert self.api.mergeable(number), self.api.merge_status(number)
        request = self.api.merge_requests[number - 1]
        self.git("fetch", "--quiet", "--tags", "origin")
        self.git("switch", "--quiet", "--force-create", "main", "origin/main")
        message = (
            f"Merge branch '{request['source_branch']}' into 'main'\n\n{request['title']}\n\n"
            f"See merge request {PATH}!{number}\n\nApproved-by: Ben <ben@example.org>"
        )
        source = f"origin/{request['source_branch']}"
        self.git("merge", "--quiet", "--no-ff", "--message", message, source)
        self.git("push", "--quiet", "origin", "main")
        request["state"] = "merged"
        return self.git("rev-parse", "HEAD")

    def tags(self) -> set[str]:
        """Tags of the Git server."""
        return set(run("git", "-C", str(self.origin), "tag").split())

    def options_of(self, ref: str) -> list[str]:
        """Push options of each push to a ref."""
        lines = self.pushes.read_text(encoding="utf-8").splitlines()
        return [line.partition(" ")[2].partition(" ")[2] for line in lines if f"{ref} " in line]

    def comment(self, number: int) -> str:
        """The one comment of a merge request."""
        notes = self.api.notes[number]
        assert len(notes) == 1, f"{len(notes)} comments instead of one"
        return str(notes[0]["body"])


def adopt(folder: Path) -> None:
    """Make a team's project of this checkout, as README says it, and train its first model.

    Its own are three classes of RGB images, a name, and an added manifest. The sample is gone.
    """
    listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "-x", ".*")
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file() and not name.startswith("sample/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    run("git", "init", "--quiet", "--initial-branch=main", str(folder))
    run("git", "-C", str(folder), "config", "user.name", "Ana")
    run("git", "-C", str(folder), "config", "user.email", "ana@example.org")
    for remote in ("sample", "team-s3", "team-drive"):
        run("dvc", "remote", "remove", remote, cwd=folder)
    _rename(folder)
    _add_manifest(folder / "k8s" / "overlays" / "production")
    change_params(folder, SMALL)
    ingest(folder, each=60)
    commit_all(folder, "Begin")
    run("dvc", "repro", "--quiet", cwd=folder, env=environment())
    commit_all(folder, "Train")


def ingest(folder: Path, each: int) -> None:
    """Ingest as many images of each class, which are kept beside the project."""
    images = write_images(folder.with_name(f"{each} of each"), CLASSES, each)
    words = ("folder", "--path", str(images))
    run("python", "-m", "pipeline.ingest", *words, cwd=folder, env=environment())


def _rename(folder: Path) -> None:
    change_params(folder, {"model": {"name": NAME}})
    stages = folder / "dvc.yaml"
    text = stages.read_text(encoding="utf-8")
    renamed = re.sub(r"(?m)^(artifacts:\n  )[a-z0-9-]+:", rf"\g<1>{NAME}:", text)
    stages.write_text(renamed, encoding="utf-8")
    namespaces = folder / "templates" / "dashboard.yml"
    text = namespaces.read_text(encoding="utf-8")
    namespaces.write_text(re.sub(r"landcover-(?=staging|production)", f"{NAME}-", text), "utf-8")
    run("make", "rules", "dashboards", "NO_SETUP=1", cwd=folder, env=environment())


def _add_manifest(overlay: Path) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "seasons"},
        "data": {"harvest": "August"},
    }
    (overlay / "seasons.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    path = overlay / "kustomization.yaml"
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    listed["resources"].append("seasons.yaml")
    path.write_text(yaml.safe_dump(listed, sort_keys=False), encoding="utf-8")


def change_params(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change the params.yaml of a project."""
    path = folder / "params.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        document[section].update(values)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def commit_all(folder: Path, message: str) -> None:
    """Commit everything in a clone."""
    run("git", "-C", str(folder), "add", "--all")
    run("git", "-C", str(folder), "commit", "--quiet", "--message", message)


def variable_options(variables: Mapping[str, str]) -> list[str]:
    """Variables of a pipeline as options of gitlab-ci-local."""
    return [word for name, value in variables.items() for word in ("--variable", f"{name}={value}")]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of people and runners: this checkout's programs, the stand-ins first."""
    path = os.pathsep.join((str(BIN), str(Path(sys.executable).parent), os.environ["PATH"]))
    known = {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **known, **(variables or {})}


def run(*words: str, **options: Any) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return str(done.stdout).strip()


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
