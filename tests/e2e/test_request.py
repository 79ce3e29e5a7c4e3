"""The story, first part: a merge request is an experiment, and its report is read there."""

import json
import re
import shutil
from collections.abc import Iterator

import httpx
import pytest
import yaml

from service.auth.roles import new_key
from tests.conftest import write_images
from tests.e2e.world import CLASSES, NAME, World, ingest
from tests.fakes import oidc
from tests.fakes.gitlab.server import NUMBER
from tests.fakes.review_cluster import ReviewCluster
from tests.make.ports import free_port

pytestmark = pytest.mark.step
WIDER, WORSE, BROKEN, DATA = "try-$(>pwned)-wider", "worse", "broken", "more-data"
LEAK = "leak"
SERVICE = f"registry.example.com/team/service@sha256:{'ab' * 32}"
"""Image that the review app runs: the service of this checkout with the model of main."""


@pytest.fixture(scope="module", autouse=True)
def settings(world: World) -> Iterator[None]:
    """The team fills in what its review apps need, before the first merge request."""
    with oidc.issuing() as issuer:
        values = {
            "SERVICE_REPOSITORY": str(world.origin),
            "SERVICE_JWT_ISSUER": oidc.ISSUER,
            "SERVICE_JWT_AUDIENCE": oidc.AUDIENCE,
            "SERVICE_JWT_JWKS": issuer.url,
            "SERVICE_JWT_CLAIMS": json.dumps(
                {"project_id": str(NUMBER), "environment": "review/mr-iid"}
            ),
            "SERVICE_JWT_ROLES": '["deploy", "predict", "view"]',
        }
        path = world.dev / "k8s/overlays/review/settings.env"
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())
        world.commit("Fill in the settings of the review apps")
        world.git("push", "--quiet", "origin", "main")
        yield


@pytest.fixture(scope="module")
def reviews(world: World) -> Iterator[ReviewCluster]:
    """The namespace of the review apps; merge request 1 answers on 127.0.0.1."""
    for program in ("kubectl", "buildah", "skopeo"):  # the job would install them
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: make setup-e2e")
    found = ReviewCluster(world.folder / "reviews")
    port = free_port()
    keys = {"SERVICE_API_KEYS": json.dumps({new_key()[1]: ["view"]})}
    images = {SERVICE: str(world.folder / "main-model")}
    found.configure(stages={f"{NAME}-mr-1": {"port": port, "settings": keys}}, images=images)
    world.path = (str(found.bin),)
    world.variables |= {
        "REVIEW_URL": f"http://127.0.0.{{iid}}:{port}",
        "REVIEW_KUBE_CONTEXT": "team/agents:review",
        "REVIEW_IMAGE": SERVICE,
    }
    world.sh("dvc", "get", "--quiet", "--rev", "main", "--out", images[SERVICE], ".", "model")
    yield found
    found.stop()


def test_a_merge_request_is_trained_tagged_and_reported(world: World) -> None:
    number = world.propose(WIDER, {"model": {"width": 6}}, "Try a wider network; $(touch pwned)")
    pipeline = world.request_pipeline(number)
    assert pipeline.before and pipeline.before.jobs == {"train": True, "commit": True}
    assert "Running stage 'train'" in pipeline.before.of("train")
    assert pipeline.jobs == {"trained": True, "report": True, "gate": True}, pipeline.log
    assert "Running stage 'train'" not in pipeline.log
    comment = world.comment(number)
    assert "the gate is open" in comment
    assert re.search(r"`model.width`.*`4`.*`6`", comment)
    assert re.search(r"accuracy.*\d+\.\d+%", comment)
    pictures = re.findall(r"!\[[^\]]*\]\((?!https://cml)([^)]+)\)", comment)
    assert len(pictures) == 4
    for link in pictures:
        content = httpx.get(link if "://" in link else world.api.web_url + link).content
        assert content.startswith(b"\x89PNG"), f"{link} is no picture"
    assert not list(world.folder.rglob("pwned")), "a name was executed"


def test_the_bots_commit_is_judged_once_and_can_be_merged(world: World) -> None:
    assert [row["status"] for row in world.api.pipelines] == ["canceled", "success"]
    assert world.api.merge_requests[0]["sha"] == world.origin_git("rev-parse", WIDER)
    assert world.api.mergeable(1)
    assert "experiment/1-101" in world.tags()
    world.git("fetch", "--quiet", "--tags", "origin")
    changed = world.git("diff", "--name-only", f"origin/{WIDER}~1", f"origin/{WIDER}").split()
    assert "dvc.lock" in changed and "reports/metrics.json" in changed
    lock = yaml.safe_load(world.git("show", f"origin/{WIDER}:dvc.lock"))
    assert lock["stages"]["train"]["params"]["params.yaml"]["model"]["width"] == 6


def test_the_candidate_is_served_under_its_own_address(
    world: World, reviews: ReviewCluster
) -> None:
    token = oidc.token(ref_protected="false", environment="review/mr-1", project_id=str(NUMBER))
    pipeline = world.play(1, "review", **world.variables, SERVICE_ID_TOKEN=token)
    assert pipeline.jobs == {"review": True}, pipeline.log
    address = world.variables["REVIEW_URL"].format(iid=1)
    assert httpx.get(f"{address}/version").json()["model"]["tag"] == "experiment/1-101"
    assert f"deployment/{NAME}-mr-1" in reviews.objects


def test_the_review_app_ends_with_the_merge_request(world: World, reviews: ReviewCluster) -> None:
    pipeline = world.play(1, "review-stop", **world.variables)
    assert pipeline.jobs == {"review-stop": True}, pipeline.log
    assert reviews.objects == {}
    with pytest.raises(httpx.TransportError):
        httpx.get(world.variables["REVIEW_URL"].format(iid=1))


def test_the_training_is_a_run_of_gitlabs_experiments(world: World) -> None:
    (run,) = world.api.runs
    assert (run["info"]["run_name"], run["info"]["status"]) == ("experiment/1-101", "FINISHED")
    assert {"key": "model.width", "value": "6"} in run["data"]["params"]
    assert {"accuracy", "train/loss"} <= {metric["key"] for metric in run["data"]["metrics"]}
    assert run["job"]


def test_a_second_push_trains_nothing_and_updates_the_comment(world: World) -> None:
    world.git("switch", "--quiet", "--force-create", WIDER, f"origin/{WIDER}")
    (world.dev / "NOTES.md").write_text("Wider is better.\n", encoding="utf-8")
    world.commit("Say why")
    world.git("push", "--quiet", "origin", WIDER)
    pipeline = world.request_pipeline(1)
    jobs = {"train": True, "commit": True, "report": True, "gate": True}
    assert pipeline.jobs == jobs and pipeline.before is None, pipeline.log
    assert "Running stage 'train'" not in pipeline.of("train")
    assert "Nothing was trained" in world.comment(1)
    assert "experiment/1-103" not in world.tags() and len(world.api.runs) == 1
    assert world.api.mergeable(1)


def test_a_push_that_skips_its_pipeline_can_not_be_merged(world: World) -> None:
    (world.dev / "NOTES.md").write_text("Trust me.\n", encoding="utf-8")
    world.commit("Say less")
    world.git("push", "--quiet", "--push-option=ci.skip", "origin", WIDER)
    world.receive_pushes()
    assert world.api.merge_status(1) == "ci_must_pass"


def test_code_that_lint_refuses_can_not_be_merged(world: World) -> None:
    (world.dev / "src" / "pipeline" / "broken.py").write_text("x=( 1)\n", encoding="utf-8")
    world.commit("Write in a hurry")
    world.git("push", "--quiet", "origin", WIDER)
    pipeline = world.request_pipeline(1, "lint")
    assert pipeline.jobs == {"lint": False}, pipeline.log
    assert world.api.merge_status(1) == "ci_must_pass"


def test_the_title_of_the_bots_commit_lets_no_untrained_model_through(world: World) -> None:
    world.git("rm", "--quiet", "src/pipeline/broken.py")
    world.change({"train": {"epochs": 2}})
    world.commit("Experiment of merge request 1")
    world.git("push", "--quiet", "origin", WIDER)
    pipeline = world.request_pipeline(1)
    assert pipeline.jobs == {"trained": False, "report": True}, pipeline.log
    assert "dvc.lock is not current (train: train of params.yaml has changed)" in pipeline.log
    assert "give yours another title" in world.comment(1)
    assert world.api.merge_status(1) == "ci_must_pass"


def test_a_worse_model_closes_the_gate_and_the_report_says_why(world: World) -> None:
    gate = {"min_accuracy": 0.9, "compare": True}
    worse = {"train": {"learning_rate": 1e-06, "epochs": 1}, "gate": gate}
    number = world.propose(WORSE, worse, "Learn less")
    pipeline = world.request_pipeline(number)
    assert pipeline.jobs == {"trained": True, "report": True, "gate": False}, pipeline.log
    assert world.api.merge_status(number) == "ci_must_pass"
    comment = world.comment(number)
    assert "the gate is closed" in comment
    assert re.search(r"`accuracy`.*missed.*wanted at least 0.9", comment)
    assert re.search(r"no loss against the model of the base`.*missed.*accuracy -\d+", comment)


def test_a_failed_training_is_reported_with_log_and_cure(world: World) -> None:
    number = world.propose(BROKEN, {"train": {"epochs": -1}}, "Train backwards")
    pipeline = world.request_pipeline(number)
    assert pipeline.jobs == {"train": False, "report": True}, pipeline.log
    assert not world.api.mergeable(number)
    assert world.api.runs[-1]["info"]["status"] == "FAILED"
    comment = world.comment(number)
    assert "Training failed" in comment
    assert "train.epochs" in comment.partition("```")[2]
    assert "What to do" in comment


def test_a_secret_can_not_be_merged_although_the_next_commit_removes_it(world: World) -> None:
    number = world.propose(LEAK, {"train": {"seed": 7}}, "Try another seed")
    notes = world.dev / "NOTES.md"
    notes.write_text("password: " + "3f9Kq" + "81LmZx" + "07TyBv\n", encoding="utf-8")
    world.commit("Note it down")
    notes.unlink()
    world.commit("Take it away")
    world.git("push", "--quiet", "origin", LEAK)
    pipeline = world.request_pipeline(number, "secrets")
    assert pipeline.jobs == {"secrets": False}, pipeline.log
    assert "NOTES.md" in pipeline.of("secrets") and "81LmZx" not in pipeline.log
    assert world.api.merge_status(number) == "ci_must_pass"


def test_a_change_of_the_data_is_reported_by_class(world: World) -> None:
    world.git("switch", "--quiet", "--create", DATA, "origin/main")
    ingest(world.dev, each=70)
    world.commit("Add fields")
    world.git("push", "--quiet", "origin", DATA)
    number = int(world.api.open_merge_request(DATA)["iid"])
    world.sh("dvc", "push", "--quiet", "data.dvc")
    pipeline = world.request_pipeline(number)
    assert pipeline.jobs["trained"] and pipeline.jobs["report"], pipeline.log
    section = world.comment(number).partition("## Data changes")[2].partition("\n## ")[0]
    assert "added" in section and "**all**" in section
    assert "+0" not in section.splitlines()[-1]


def test_a_schedule_retrains_once_on_new_data(world: World) -> None:
    world.git("switch", "--quiet", "--force-create", "main", "origin/main")
    facts = {"CI_PIPELINE_SOURCE": "schedule", "TASK": "retrain", "RELEASE_TOKEN": world.token}
    quiet = world.pipeline("main", ("retrain",), facts)
    assert "nothing is new" in quiet.of("retrain"), quiet.log
    images = write_images(world.folder / "incoming", CLASSES, each=65)
    (world.dev / "ci" / "ingest.txt").write_text(f"folder --path '{images}'\n", encoding="utf-8")
    world.commit("Ingest what comes in")
    world.git("push", "--quiet", "origin", "main")
    assert world.pipeline("main", ("retrain",), facts).jobs == {"retrain": True}
    (options,) = world.options_of("refs/heads/retrain")
    assert "merge_request.create" in options and "merge_request.target=main" in options
    changed = world.git("ls-remote", "--heads", "origin", "retrain")
    assert changed
    again = world.pipeline("main", ("retrain",), facts)
    assert "one is open" in again.of("retrain"), again.log
    assert len(world.options_of("refs/heads/retrain")) == 1
