"""One model object, three doors: HTTP, stream and batch answer alike, byte for byte."""

import re
from pathlib import Path

import httpx
import pyarrow.parquet as pq

from tests.make import batches, server
from tests.make.bundles import CLASSES, make_chip
from tests.make.images import npy
from tests.make.kafka import Topics, headers, sequences, working

IMAGES = 1000
OCTETS = {"content-type": "application/octet-stream"}
ID = re.compile(rb'"request_id":"[^"]*"')


def test_a_thousand_images_get_the_same_bytes_by_http_stream_and_batch(
    topics: Topics, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    folder.mkdir()
    contents = [npy(make_chip(number, size=16)) for number in range(IMAGES)]
    for number, content in enumerate(contents):
        (folder / f"{number:04d}.npy").write_bytes(content)
    topics.send((content, headers("file", n)) for n, content in enumerate(contents))
    with working(topics, small, tmp_path):
        found = topics.read("results", lambda found: len(found) >= IMAGES)
    streamed = dict(zip(sequences(found), (one.value() for one in found), strict=True))
    assert batches.batch(folder, tmp_path / "out.parquet", small).returncode == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    with (
        server.serving(small, tmp_path / "service", workers=1, feedback="off") as running,
        httpx.Client(base_url=running.url) as client,
    ):
        for number, (content, row) in enumerate(zip(contents, rows, strict=True)):
            answer = client.post("/predict", content=content, headers=OCTETS)
            assert ID.sub(b"", answer.content) == ID.sub(b"", streamed[number] or b"")
            probabilities = {name: row[f"probability_{name}"] for name in CLASSES}
            assert answer.json()["probabilities"] == probabilities
            assert (row["class"], row["probability"]) == (
                answer.json()["class"],
                answer.json()["probability"],
            )
