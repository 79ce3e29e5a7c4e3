"""A frame of the stream names its model, as a request does."""

import json
from pathlib import Path

from contracts.frames import texts
from tests.make import kafka
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.kafka import headers, sequences, working
from tests.service.models.conftest import BANDS_OF_SHIPS, SHIPS, V1, V2

CHIP = npy(make_chip(1))
MODELS = ("", V1, V2, "landcover#staging", "ships", "landcover@v9.9.9")


def test_frames_are_answered_by_the_models_that_they_name(
    bundle: Path, registry: Path, tmp_path: Path
) -> None:
    ships = npy(make_chip(1, bands=len(BANDS_OF_SHIPS)))
    frames = []
    for number, model in enumerate(MODELS):
        content = ships if model == "ships" else CHIP
        frames.append((content, headers("file", number, **({"model": model} if model else {}))))
    with kafka.broker(tmp_path) as brokers:
        topics = kafka.topics(brokers)
        topics.send(frames)
        with working(topics, bundle, tmp_path, repository=registry / "project"):
            found = topics.read("results", lambda found: len(found) >= 5)
            [dead] = topics.read("dead", lambda found: len(found) >= 1)
    answers = dict(zip(sequences(found), (one.value() or b"" for one in found), strict=True))
    tags = [json.loads(answers[number])["model"]["tag"] for number in range(5)]
    assert tags == ["local", V1, V2, V2, SHIPS]
    letter = texts(dead.headers())
    assert letter["dead-kind"] == "NotFound" and "landcover@v9.9.9" in letter["dead-reason"]
