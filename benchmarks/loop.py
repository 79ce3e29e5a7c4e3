"""What a merge request costs beside its training.

    python -m benchmarks.loop

Plays the first merge request of the story (tests/e2e) as GitLab would: `train` and `commit`, the
bot's push, then `trained`, `report` and `gate`. The overhead is the longest way through these jobs
without the seconds in which the model learns. The jobs find their programs and packages installed,
as in an image that has everything; GitLab's own waits and the pull of the image are not in it.
"""

import json
import re
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from benchmarks import machine
from tests.e2e.world import Pipeline, World, adopt
from tests.fakes.gitlab.server import serving


def main() -> None:
    """Print the seconds of each job, and the overhead."""
    ArgumentParser(prog="python -m benchmarks.loop", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, serving() as api:
        folder = Path(name)
        (folder / "trained").mkdir()
        adopt(folder / "trained")
        (folder / "world").mkdir()
        world = World(folder / "world", api, folder / "trained")
        number = world.propose("wider", {"model": {"width": 6}}, "Try a wider network")
        last = world.request_pipeline(number)
        assert last.before and last.code == 0, last.log
        run = world.folder / "runs" / "101"
        manifest = json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))
        learning = float(manifest["training"]["seconds"])
    first, second = seconds(last.before), seconds(last)
    print(machine.line())
    for job, took in (first | second).items():
        print(f"{job:8} {took:6.1f} s")
    way = first["train"] + first["commit"] + second["trained"]
    way += max(second["report"], second["gate"])
    print(f"overhead {way - learning:6.1f} s beside {learning:.1f} s of training")


def seconds(pipeline: Pipeline) -> dict[str, float]:
    """Duration of each job, as gitlab-ci-local logs it."""
    found = re.findall(r"(?m)^(\S+) +finished in ([\d.]+) (ms|s|min)", pipeline.log)
    units = {"ms": 0.001, "s": 1.0, "min": 60.0}
    return {job: float(number) * units[unit] for job, number, unit in found}


if __name__ == "__main__":
    main()
