"""A detector that was trained, its service, what people confirm there, and the next training."""

from pathlib import Path

import httpx
import numpy as np

from pipeline import load, preprocess, train
from pipeline.data.boxes import boxes_of, read_objects
from pipeline.data.dataset import SPLITS, image_files
from pipeline.data.images import decode
from pipeline.data.prepared import read_prepared
from pipeline.ingest import ingest
from pipeline.sources.feedback import Feedback
from tests.make import images
from tests.make.feedback import everything
from tests.make.processes import until
from tests.make.server import serving


def test_what_people_confirmed_trains_the_next_detector(found: Path, tmp_path: Path) -> None:
    known = decode("a.png", Path("data/images/porta_001.png").read_bytes()).pixels
    with serving(found / "model", tmp_path / "service", workers=1, keep_images=8) as server:
        content = images.npy(np.ascontiguousarray(known[:, ::-1, :24]))  # of another size
        answer = httpx.post(f"{server.url}/predict", files={"file": content}, timeout=60)
        there = [{"class": "ship", "box": [3, 5, 19.5, 20]}]
        body = {"request_id": answer.json()["request_id"], "objects": there}
        given = httpx.post(f"{server.url}/feedback", json=body, timeout=60).json()
        assert given["found"] + given["missed"] == 1
        until(lambda: everything(server, labelled="true")[0]["image"], "the image")
        ingest(Feedback(server.url, ""))
    (path,) = [it for it in image_files(Path("data")) if it.startswith("images/feedback-")]
    assert [item.box for item in read_objects(Path("data") / boxes_of(path)).objects] == [
        (3, 5, 19.5, 20)
    ]
    for stage in (load, preprocess):
        stage.main([])
    prepared = read_prepared()
    in_split = {name: [row.path for row in prepared.split(name).rows] for name in SPLITS}
    assert path in in_split["train"]
    assert path not in in_split["validation"] + in_split["test"]
    train.main([])
