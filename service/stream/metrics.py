"""Metrics of a stream worker, beside those that every worker of the service has."""

import json
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)  # seconds
SIZES = (1, 2, 4, 8, 16, 32, 64)


class StreamMetrics:
    """Lag, age, rate, drops: what alerts and KEDA ask for."""

    def __init__(self, registry: CollectorRegistry, topic: str) -> None:
        """Register them; `topic` is that of the frames."""
        self._topic = topic
        self._partitions: set[str] = set()
        self.frames = Counter(
            "stream_frames",
            "Frames that were read, by what became of them: answered, dead, dropped.",
            ("result",),
            registry=registry,
        )
        for result in ("answered", "dead", "dropped"):
            self.frames.labels(result)
        self.dead = Counter(
            "stream_dead_letters",
            "Dead letters by the kind of error.",
            ("reason",),
            registry=registry,
        )
        self.age = Histogram(
            "stream_age_seconds",
            "Time from a frame's capture to its answer.",
            buckets=AGES,
            registry=registry,
        )
        self.batch = Histogram(
            "stream_batch_frames", "Frames taken at once.", buckets=SIZES, registry=registry
        )
        self.lag = Gauge(
            "stream_lag",
            "Frames of the topic that this worker still has to answer.",
            ("partition",),
            registry=registry,
        )
        self.connected = Gauge(
            "stream_connected", "1 if a broker can be reached.", registry=registry
        )

    def read_statistics(self, text: str) -> None:
        """Take lag and connection from librdkafka's own statistics."""
        found = json.loads(text)
        states = [broker["state"] for broker in found["brokers"].values() if broker["nodeid"] >= 0]
        self.connected.set("UP" in states)
        partitions = found["topics"].get(self._topic, _NONE)["partitions"]
        lags = {
            name: partition["consumer_lag"]
            for name, partition in partitions.items()
            if partition.get("fetch_state") == "active" and partition["consumer_lag"] >= 0
        }
        for name, value in lags.items():
            self.lag.labels(name).set(value)
        for name in self._partitions - lags.keys():  # another worker has them now
            self.lag.remove(name)
        self._partitions = set(lags)

    def total_lag(self) -> float:
        """Frames that wait in all partitions of this worker."""
        return float(sum(sample.value for sample in next(iter(self.lag.collect())).samples))


_NONE: dict[str, Any] = {"partitions": {}}
