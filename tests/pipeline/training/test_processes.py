"""Several processes that train one model: one result, whatever the number, or one sentence."""

import hashlib
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import train
from pipeline.data.prepared import read_prepared
from pipeline.errors import ParameterError, TrainingError
from pipeline.params import read_params
from pipeline.tasks import classification
from pipeline.training import processes
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.models import Predictor
from pipeline.training.processes import Group, check, find_place, join, share_of_cores
from tests.conftest import PARAMS, write_params
from tests.make import ranks

STARTED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a-host", "MASTER_PORT": "29500"}


def digest(result: train.Result) -> str:
    """SHA-256 of the weights."""
    state = result.model.network.state_dict()
    content = b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(content).hexdigest()


def learn(dies_after: int = 0) -> dict[str, Any]:
    """Train as one rank, or alone; the first one may die after an epoch."""
    params, prepared = read_params(), read_prepared()
    chips = len(prepared.split("train").labels)
    seen: list[list[int]] = []
    take, save = Batches.batch, Checkpoints.save

    def take_noted(self: Batches, rows: torch.Tensor) -> Any:
        if len(self) == chips:
            seen.append(rows.tolist())
        return take(self, rows)

    def save_and_die(self: Checkpoints, epoch: int, state: dict[str, Any]) -> None:
        save(self, epoch, state)
        if epoch == dies_after:
            raise InterruptedError("the power went")

    with pytest.MonkeyPatch.context() as patch, join(params.train) as group:
        patch.setattr(Batches, "batch", take_noted)
        patch.setattr(Checkpoints, "save", save_and_die)
        result = train.train(params, prepared, group)
        if group.is_first:
            result.checkpoints.clear()
    curve = [
        {name: value for name, value in record.items() if name != "images_per_second"}
        for record in result.history
    ]
    result.model.eval()
    with torch.no_grad():
        test = torch.from_numpy(prepared.split("test").chips).float()
        probabilities = torch.softmax(result.model(test), dim=1)
    return {
        "weights": digest(result),
        "curve": curve,
        "seen": seen,
        "hardware": result.hardware,
        "probabilities": probabilities.tolist(),
    }


THREE = {"processes": 3, "epochs": 2, "batch_size": 15, "zoom": 0.2}


@pytest.fixture(scope="module")
def three(_chips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What three ranks found, undisturbed."""
    folder = tmp_path_factory.mktemp("three") / "copy"
    shutil.copytree(_chips, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params({"train": THREE})
        return ranks.run(learn, WORLD_SIZE="3")


def test_one_seed_and_as_many_ranks_give_one_model_on_every_rank(
    chips: Path, three: list[dict[str, Any]]
) -> None:
    write_params({"train": THREE})
    again = ranks.run(learn, WORLD_SIZE="3")
    assert len({rank["weights"] for rank in three + again}) == 1
    assert three[0]["curve"] == three[2]["curve"] == again[0]["curve"]
    assert three[0]["hardware"].endswith(", 3 processes")
    assert not list(Path("artifacts/checkpoints").rglob("*.pt"))


def test_in_each_epoch_each_chip_is_in_one_rank_once(three: list[dict[str, Any]]) -> None:
    steps = len(three[0]["seen"]) // 2
    for epoch in range(2):
        parts = [rank["seen"][epoch * steps : (epoch + 1) * steps] for rank in three]
        assert sorted(sum(sum(parts, []), [])) == list(range(42))
        sizes = [len(step) for part in parts for step in part]
        assert max(sizes) <= 5 and max(sizes) - min(sizes) <= 1
    assert three[0]["seen"][:steps] != three[0]["seen"][steps:]


def test_ranks_that_lose_one_go_on_and_end_as_if_nothing_had_happened(
    chips: Path, three: list[dict[str, Any]]
) -> None:
    write_params({"train": THREE})
    first, *others = ranks.run(learn, 1, WORLD_SIZE="3")
    assert first == "InterruptedError: the power went"
    for rank, said in enumerate(others, 1):
        assert said.startswith(f"PeerLost: rank {rank} lost another one, or waited 30 minutes")
    resumed = ranks.run(learn, WORLD_SIZE="3")
    assert [rank["weights"] for rank in resumed] == [rank["weights"] for rank in three]
    assert resumed[0]["curve"] == three[0]["curve"]
    assert len(resumed[0]["seen"]) == len(three[0]["seen"]) // 2


def test_two_processes_learn_as_much_as_one(chips: Path) -> None:
    write_params({"train": {"processes": "auto", "epochs": 12}})
    prepared, params = read_prepared(), read_params()
    alone, together = (
        classification.predictions(
            {"probabilities": torch.tensor(found["probabilities"]).numpy()},
            prepared.split("test"),
            prepared.dataset,
            params.evaluate,
        )
        for found in (ranks.run(learn, WORLD_SIZE=size)[0] for size in ("1", "2"))
    )
    compared = classification.compare(alone, together, 1000)
    assert compared is not None and compared.difference.low <= 0 <= compared.difference.high
    assert compared.challenger > 0.6  # chance is a third


def losses() -> tuple[str, list[float]]:
    """Train as one rank; digest of the weights, and the loss of each epoch on training data."""
    params = read_params()
    with join(params.train) as group:
        result = train.train(params, read_prepared(), group)
        if group.is_first:  # which may be writing one still, when the other has ended
            result.checkpoints.clear()
    return digest(result), [record["train_loss"] for record in result.history]


@pytest.mark.parametrize("project", ["found", "mapped"])
def test_detectors_and_maps_train_in_two_processes(
    project: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(project)
    document = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    document["train"] |= {"processes": 2, "epochs": 3, "batch_size": 6, "progressive": False}
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    one, other = ranks.run(losses)
    assert one == other and len(one) == 2, one
    assert one[1][-1] < one[1][0]


def follow_steps() -> list[float]:
    """Train an epoch on chips as they are, with fixed statistics of batch norm."""
    params, prepared = read_params(), read_prepared()
    with pytest.MonkeyPatch.context() as patch, join(params.train) as group:
        patch.setattr(train, "augment", lambda chips, labels, *_: (chips, labels))
        patch.setattr(Predictor, "train", lambda self, mode=True: self)
        run = train.setup(params, prepared, train.open_data(params, prepared), group)
        run.model.network.eval()
        progress = train.Progress(threads=1)
        train.fit(run, progress, Checkpoints("followed", Path("elsewhere")), {})
        weights = run.model.network.state_dict()
    losses = [progress.history[0]["train_loss"], progress.history[0]["validation_loss"]]
    return losses + [float(weight.float().norm()) for weight in weights.values()]


def test_two_processes_and_parts_of_a_batch_step_as_the_whole_batch(chips: Path) -> None:
    # Batch norm, which normalises each part by its own statistics, is held fixed here.
    slow = {"epochs": 1, "progressive": False, "processes": "auto", "learning_rate": 0.002}
    write_params({"train": slow})
    whole = pytest.approx(ranks.run(follow_steps, WORLD_SIZE="1")[0], rel=1e-4, abs=1e-6)
    assert ranks.run(follow_steps)[0] == whole
    write_params({"train": slow | {"accumulate": 2}})
    assert ranks.run(follow_steps, WORLD_SIZE="1")[0] == whole
    write_params({"train": slow | {"learning_rate": 0.0021}})
    assert ranks.run(follow_steps, WORLD_SIZE="1")[0] != whole


def wait_for_the_others(seconds: float = 1.0) -> int:
    """Join, with less patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "ARRIVAL", timedelta(seconds=seconds))
        with join(read_params().train) as group:
            return group.size


def test_a_rank_that_never_comes_is_named(workdir: Path) -> None:
    write_params({"train": {"processes": "auto"}})
    said = ranks.run(wait_for_the_others, only="0", WORLD_SIZE="2")
    assert said[0].startswith(
        "TrainingError: rank 1 of 2 has not come in 0.017 minutes: read its log, and check "
        "that WORLD_SIZE is the number of processes that were started"
    )
    said = ranks.run(wait_for_the_others, only="1", WORLD_SIZE="2")
    assert "rank 1 cannot reach rank 0 at MASTER_ADDR 127.0.0.1, MASTER_PORT" in said[0]
    said = ranks.run(wait_for_the_others, only="0,2", WORLD_SIZE="4")
    assert "ranks 1, 3 of 4 have not come" in said[0]


def test_two_that_say_they_are_one_rank_are_refused(workdir: Path) -> None:
    write_params({"train": {"processes": "auto", "batch_size": 15}})
    said = ranks.run(wait_for_the_others, 5.0, only="0,1,1", WORLD_SIZE="3")
    assert any("two processes say that they are rank 1" in str(one) for one in said)


def learn_from_other_code() -> dict[str, Any]:
    """Train as one rank, on a machine that has another commit than the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "code_digest", lambda: f"as of rank {os.environ['RANK']}")
        return learn()


def test_ranks_with_other_code_data_or_parameters_are_named(chips: Path) -> None:
    write_params({"train": {"processes": 2}})
    expected = "TrainingError: rank 1 of 2 has not what rank 0 has of params.yaml, artifacts/chips,"
    for said in ranks.run(learn_from_other_code):
        assert said.startswith(expected)


def test_more_processes_than_the_data_feed_are_refused(chips: Path) -> None:
    write_params({"train": {"processes": 3, "batch_size": 6, "accumulate": 2}})
    said = ranks.run(learn, WORLD_SIZE="3")[0]
    assert said == (
        "DataError: 42 training chips in batches of 6 leave 1 for some of the 3 processes x "
        "train.accumulate 2, and 2 are needed: lower these, or raise train.batch_size"
    )


def test_the_names_of_torchrun_and_of_slurm_are_understood() -> None:
    place = find_place(STARTED | {"LOCAL_RANK": "1"})
    assert place and (place.rank, place.size, place.local_rank) == (1, 2, 1)
    assert (place.address, place.port) == ("a-host", 29500)
    step = {
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_ID": "0",
    }
    step["SLURM_NTASKS"] = "8"  # of the job, whose step has fewer
    place = find_place(step | {"MASTER_ADDR": "a-host", "MASTER_PORT": "29500"})
    assert place and (place.rank, place.size, place.local_rank) == (3, 4, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        STARTED | {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},  # a batch script
    ],
)
def test_elsewhere_a_process_is_alone(environment: dict[str, str]) -> None:
    assert find_place(environment) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2: ranks are 0 to 1"),
        ({"RANK": "-1"}, "RANK is '-1' in the environment: write a whole number"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment: write a whole number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http' in the environment"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2, but the environment has no MASTER_ADDR: start"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(said)):
        find_place(STARTED | changes)


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({"processes": 2}, 3, "train.processes is 2 and train.nodes is 1, but WORLD_SIZE says 3"),
        ({"processes": 1}, 2, "train.processes is 1 and train.nodes is 1, but WORLD_SIZE says 2"),
        ({"processes": 2, "nodes": 2}, 2, "train.nodes is 2, but WORLD_SIZE says 2"),
        ({"processes": "auto", "nodes": 2}, 3, "train.nodes is 2, but WORLD_SIZE says 3"),
    ],
)
def test_parameters_that_do_not_fit_the_ranks_are_refused(
    changes: dict[str, Any], size: int, said: str
) -> None:
    params = read_params(PARAMS).train.model_copy(update=changes)
    with pytest.raises(ParameterError, match=re.escape(said)):
        check(params, size)


def test_alone_nothing_is_sent_and_torch_draws_as_before() -> None:
    group = Group(torch.device("cpu"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert group.draw(5) is None
    assert torch.equal(torch.rand(3), expected)
    assert group.share({"a": 1}) == {"a": 1}


def test_ranks_draw_apart_but_for_what_they_draw_alike() -> None:
    drawn = []
    for rank in range(3):
        alike = Group(torch.device("cpu"), rank, 3).draw(5)
        drawn.append((torch.rand(()).item(), torch.rand((), generator=alike).item()))
    assert len({own for own, _ in drawn}) == 3
    assert len({common for _, common in drawn}) == 1


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, 4),
        ({"LOCAL_WORLD_SIZE": "3"}, 2),
        ({"LOCAL_WORLD_SIZE": "99"}, 1),
        ({"SLURM_CPUS_PER_TASK": "6"}, 6),
        ({}, 1),
    ],
)
def test_ranks_share_the_cores_of_a_machine(environment: dict[str, str], threads: int) -> None:
    assert share_of_cores(8, environment) == threads
