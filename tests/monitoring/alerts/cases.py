"""Series, and the alerts that fire: the table that test_rules.py gives to promtool.

Values are promtool's: `5+2x10` starts at 5 and adds 2 ten times, `_x3` is missing three times. A
series without `job` is one of the service. All alerts of the name are compared: one
that is not listed must not fire.
"""

from collections.abc import Mapping
from typing import NamedTuple

from monitoring.objectives import APP


class Fire(NamedTuple):
    """One alert that fires: its summary, and its labels besides those that every one has."""

    severity: str
    summary: str
    labels: Mapping[str, str] = {}
    job: str | None = APP


class Case(NamedTuple):
    """Series, and which alerts of one name fire at a time."""

    says: str
    series: Mapping[str, str]
    at: str
    fires: tuple[Fire, ...]
    interval: str


def case(says: str, series: Mapping[str, str], at: str, *fires: Fire, interval: str = "1m") -> Case:
    """A row of the table; without `fires` the alert is silent."""
    return Case(says, series, at, fires, interval)


TAG = "landcover@v1.2.0"


def up(**replicas: str) -> dict[str, str]:
    """Whether replicas can be scraped."""
    return {f'up{{instance="{name}"}}': values for name, values in replicas.items()}


UP = up(a="1x3000")
REQUESTS = 'http_requests_total{handler="/predict",status="%s",instance="a"}'
BUCKET = 'http_request_duration_seconds_bucket{handler="/predict",le="0.25",instance="a"}'
COUNT = 'http_request_duration_seconds_count{handler="/predict",instance="a"}'


def answers(ok: str, failed: str) -> dict[str, str]:
    """Requests to /predict; those to the probes are more, and fine."""
    return {
        REQUESTS % "200": ok,
        REQUESTS % "503": failed,
        'http_requests_total{handler="/healthz",status="200",instance="a"}': "0+900x5000",
    }


def times(fast: str, every: str) -> dict[str, str]:
    """Durations of requests to /predict, and how many there are."""
    return {BUCKET: fast, COUNT: every, REQUESTS % "200": every}


def model(metric: str, value: str, **labels: str) -> tuple[str, str]:
    """A series of the model that serves."""
    named = "".join(f',{name}="{text}"' for name, text in labels.items())
    return f'{metric}{{tag="{TAG}",instance="a"{named}}}', value


SHARE = "model_reference_class_share"
CLASSES = dict(
    [model(SHARE, "0.9x200", **{"class": "Forest"}), model(SHARE, "0.1x200", **{"class": "River"})]
)
PREDICTED = "model_predictions_total"


def predicted(forest: str, river: str) -> dict[str, str]:
    """Predictions of two classes, with their shares in the reference."""
    both = (("Forest", forest), ("River", river))
    return CLASSES | dict(model(PREDICTED, value, **{"class": name}) for name, value in both)


def confidence(mean: float, pace: float, reference: float = 0.8) -> dict[str, str]:
    """`pace` predictions a minute with this mean confidence."""
    return dict(
        [
            model("model_confidence_sum", f"0+{mean * pace:g}x60"),
            model("model_confidence_count", f"0+{pace:g}x60"),
            model("model_reference_confidence", f"{reference}x60"),
        ]
    )


def accuracy(
    high: float, answers: int, serves: int = 1, other: tuple[float, int] | None = None
) -> dict[str, str]:
    """The measured accuracy's upper end; replicas read the same database, or `other` its own."""
    found = {}
    for instance, (upper, count) in (("a", (high, answers)), ("b", other or (high, answers))):
        for metric, value in (
            ("model_live_accuracy_high", upper),
            ("model_accuracy_floor", 0.8),
            ("model_feedback_answers", count),
        ):
            found[f'{metric}{{tag="{TAG}",instance="{instance}"}}'] = f"{value}x60"
        found[f'model_info{{tag="{TAG}",sha256="aa",instance="{instance}"}}'] = f"{serves}x60"
    return found


def drift(score: str, signal: str = "mean/B02") -> dict[str, str]:
    """A signal's score on one of two replicas, with its threshold; the other has drifted less."""
    labels = f'tag="{TAG}",signal="{signal}",measure="psi"'
    return {
        f'model_drift_score{{{labels},instance="a"}}': score,
        f'model_drift_score{{{labels},instance="b"}}': "0.1x60",
        f'model_drift_threshold{{{labels},instance="a"}}': "0.2x60",
        f'model_drift_threshold{{{labels},instance="b"}}': "0.2x60",
    }


def serving(sha256: str, instance: str, value: str = "4x60", pod: str = "") -> dict[str, str]:
    """Workers of a replica with a model; `pod` is the hash of its template, with Argo Rollouts."""
    rollout = f',rollouts_pod_template_hash="{pod}"' if pod else ""
    return {f'model_info{{tag="{TAG}",sha256="{sha256}",instance="{instance}"{rollout}}}': value}


def unmeasured(reason: str, *signals: str) -> dict[str, str]:
    """Signals that are not measured on either replica, and some traffic."""
    found = {
        f'model_drift_insufficient{{tag="{TAG}",signal="{signal}",reason="{reason}"'
        f',instance="{instance}"}}': "1x900"
        for signal in signals
        for instance in ("a", "b")
    }
    return found | {REQUESTS % "200": "0+1x900"}


def measured(signal: str, instance: str) -> dict[str, str]:
    """A signal that one replica has a score of; it says nothing against it."""
    labels = f'tag="{TAG}",signal="{signal}",measure="psi",instance="{instance}"'
    return {
        f"model_drift_score{{{labels}}}": "0.1x900",
        f"model_drift_threshold{{{labels}}}": "0.2x900",
    }


def without(series: Mapping[str, str], *parts: str) -> dict[str, str]:
    """What is left of series without those whose name or labels have one of these parts."""
    return {key: text for key, text in series.items() if not any(part in key for part in parts)}


def disk(
    free: str, kind: str = "ext4", readonly: int = 0, job: str = "node", host: str = "host:9100"
) -> dict[str, str]:
    """A disk of 100 bytes, with so many free."""
    where = f'job="{job}",instance="{host}",fstype="{kind}",mountpoint="/",device="/dev/sda1"'
    return {
        f"node_filesystem_avail_bytes{{{where}}}": free,
        f"node_filesystem_size_bytes{{{where}}}": "100x500",
        f"node_filesystem_readonly{{{where}}}": f"{readonly}x500",
    }


def ends(days: float) -> str:
    """A moment so many days after the epoch, at which promtool's clock starts."""
    return f"{days * 86400:g}x200"


# 60 requests in half an hour, then none for an hour and a half, and so on; a value each 15 minutes.
SPARSE = " ".join(f"{60 * n} {60 * n + 30} {60 * n + 60}x5" for n in range(20))
PROBE = 'probe_success{job="%s",instance="https://example.com"}'
CERTIFICATE = 'probe_ssl_earliest_cert_expiry{job="certificates",instance="https://example.com"}'
TOKEN = 'conveyor_token_expires_timestamp_seconds{job="conveyor",token="%s",instance="%s"}'
SWAPS = 'model_swaps_total{result="%s",step="%s",instance="%s"}'
UNRECORDED = 'feedback_unrecorded_total{reason="disk_full",instance="a"}'
UNSEEN = Fire("page", "Prometheus can scrape 0 replicas of the service")


def failing(severity: str, percent: float) -> Fire:
    """PredictionsFailing."""
    return Fire(severity, f"{percent}% of the predictions are answered with 5xx")


def slow(severity: str, percent: float) -> Fire:
    """PredictionsSlow."""
    return Fire(severity, f"{percent}% of the predictions take 0.25 s or more")


def unused(count: int) -> Fire:
    """NoTraffic."""
    serve = f"{count} replicas serve, and there was no request for a prediction in an hour"
    return Fire("ticket", serve)


def unscraped(count: int, job: str = APP) -> Fire:
    """MetricsStale of single targets."""
    return Fire("ticket", f"Prometheus cannot scrape {count} targets of {job}", job=job)


def low(percent: int) -> Fire:
    """LiveAccuracyLow."""
    summary = f"Live accuracy of {TAG} is at most {percent}%, below the floor of its gate"
    return Fire("page", summary, {"tag": TAG})


def unknown(count: int, reason: str) -> Fire:
    """DriftUnmeasured."""
    summary = f"Drift of {count} signals of {TAG} is not measured: {reason}"
    return Fire("ticket", summary, {"tag": TAG, "reason": reason})


def swaps(count: int) -> Fire:
    """SwapFailing."""
    return Fire("ticket", f"{count} swaps of the model failed on one replica in half an hour")


def left(severity: str, summary: str, job: str = "node", host: str = "host:9100") -> Fire:
    """DiskFilling, of the disk of `disk`."""
    labels = {"instance": host, "mountpoint": "/", "fstype": "ext4", "device": "/dev/sda1"}
    return Fire(severity, summary, labels, job=job)


CASES: dict[str, list[Case]] = {}
CASES["PredictionsFailing"] = [
    case(
        "8 % of 1000 requests a minute fail: a page, and no ticket yet",
        answers("0+920x60", "0+80x60"),
        "10m",
        failing("page", 8),
    ),
    case(
        "4 % fail for two hours: the slower windows page, and there is a ticket",
        answers("0+96x120", "0+4x120"),
        "2h",
        failing("page", 4),
        failing("ticket", 4),
    ),
    case(
        "2 % fail for hours: a ticket",
        answers("0+490x50", "0+10x50"),
        "4h",
        failing("ticket", 2),
        interval="5m",
    ),
    case(
        "0.8 % fail for hours: a ticket by the longest windows",
        answers("0+4960x290", "0+40x290"),
        "7h",
        failing("ticket", 0.8),
        interval="5m",
    ),
    case(
        "8 % fail for an hour after six good ones: only the fastest windows page",
        answers("0+100x360 36092+92x60", "0x360 8+8x60"),
        "7h",
        failing("page", 8),
        failing("ticket", 1.143),
    ),
    case(
        "7 % fail for an hour after six good ones: a ticket alone",
        answers("0+100x360 36093+93x60", "0x360 7+7x60"),
        "7h",
        failing("ticket", 1),
    ),
    case("0.4 % fail", answers("0+996x300", "0+4x300"), "2h"),
    case("all of 90 an hour fail", answers("0x60", "0+1.5x60"), "1h"),
    case(
        "it was over 40 minutes ago: the page has ended, the ticket stays",
        answers("0+100x90", "0+100x20 2000x70"),
        "60m",
        failing("ticket", 25),
    ),
    case(
        "people send what is no image",
        {REQUESTS % "422": "0+100x60", REQUESTS % "200": "0+10x60"},
        "30m",
    ),
    case("there are no requests", answers("9x60", "9x60"), "30m"),
]
CASES["PredictionsSlow"] = [
    case("a fifth is slow: a page", times("0+80x60", "0+100x60"), "10m", slow("page", 20)),
    case(
        "8 % are slow: the slower windows page, and there is a ticket",
        times("0+92x120", "0+100x120"),
        "2h",
        slow("page", 8),
        slow("ticket", 8),
    ),
    case(
        "2 % are slow for hours: a ticket",
        times("0+490x290", "0+500x290"),
        "4h",
        slow("ticket", 2),
        interval="5m",
    ),
    case("0.8 % are slow", times("0+992x300", "0+1000x300"), "2h"),
    case("all of 90 an hour are slow", times("0x60", "0+1.5x60"), "1h"),
]
CASES["NoTraffic"] = [
    case(
        "two replicas were never asked, and the series do not exist",
        up(a="1x60", b="1x60"),
        "30m",
        unused(2),
    ),
    case(
        "they were asked, and not any more",
        up(a="1x90") | {REQUESTS % "200": "0+5x10 50x80"},
        "90m",
        unused(1),
    ),
    case("one request half an hour ago", up(a="1x90") | {REQUESTS % "200": "0x60 1x30"}, "90m"),
    case("it has just started", up(a="1x60"), "10m"),
    case("it is down: that is another alert", up(a="0x60"), "30m"),
]
CASES["MetricsStale"] = [
    case("no replica answers", up(a="0x60", b="0x60"), "15m", UNSEEN, unscraped(2)),
    case("the targets are gone", up(a="1x20 _x100"), "70m", UNSEEN),
    case("the targets have been gone for hours", up(a="1x20 _x400"), "5h", UNSEEN),
    case("one of two does not answer", up(a="0x60", b="1x60"), "15m", unscraped(1)),
    case(
        "the exporter of the machine is away",
        {**UP, 'up{job="node",instance="host:9100"}': "0x60"},
        "15m",
        unscraped(1, "node"),
    ),
    case(
        "parts of kube-prometheus are away, by the names that it gives them",
        {
            **UP,
            'up{job="node-exporter",instance="node-1"}': "0x60",
            'up{job="prometheus-k8s",instance="10.0.0.1:9090"}': "0x60",
            'up{job="alertmanager-main",instance="10.0.0.2:9093"}': "0x60",
        },
        "15m",
        *[unscraped(1, job) for job in ("node-exporter", "prometheus-k8s", "alertmanager-main")],
    ),
    case("a restart", up(a="1x10 0x3 1x50"), "14m"),
    case("a neighbour's job", {**UP, 'up{job="other"}': "0x60"}, "30m"),
]
CASES["ModelDrift"] = [
    case(
        "a signal is above its threshold for half a minute",
        drift("0.1 0.1 0.36x60"),
        "75s",
        Fire(
            "ticket",
            f"mean/B02 of {TAG} has drifted: psi is 1.8 times its threshold",
            {"tag": TAG, "signal": "mean/B02", "measure": "psi"},
        ),
        interval="15s",
    ),
    case("at the threshold", drift("0.2x60"), "10m"),
    case("for a moment", drift("0.1 0.4 0.1x60"), "45s", interval="15s"),
    case("measured no more", drift("0.4x10 _x50"), "20m"),
]
CASES["ClassVanished"] = [
    case(
        "300 predictions, and no River, of which 30 were to be expected",
        predicted("0+5x90", "0x90"),
        "80m",
        Fire(
            "ticket",
            f"{TAG} has not predicted River for an hour, 30 were expected",
            {"tag": TAG, "class": "River"},
        ),
    ),
    case("one River in an hour", predicted("0+5x90", "0x60 1x30"), "80m"),
    case("too few predictions to expect one", predicted("0+3x90", "0x90"), "80m"),
]
CASES["ConfidenceCollapsed"] = [
    case(
        "the mean is 52 %, 80 % is the reference",
        confidence(0.52, 20),
        "30m",
        Fire(
            "ticket",
            f"Mean confidence of {TAG} is 52%, less than 75 % of its reference",
            {"tag": TAG},
        ),
    ),
    case("61 % of 80 %", confidence(0.61, 20), "30m"),
    case("few predictions", confidence(0.3, 13), "30m"),
]
CASES["LiveAccuracyLow"] = [
    case("the whole interval is below the floor", accuracy(0.79, 50), "10m", low(79)),
    case("the interval reaches the floor", accuracy(0.8, 50), "10m"),
    case("few answers", accuracy(0.5, 49), "10m"),
    case(
        "another replica has a database of its own, and one right answer in it",
        accuracy(0.45, 500, other=(1.0, 1)),
        "10m",
        low(45),
    ),
    case(
        "many answers are right, and few of another replica's wrong",
        accuracy(0.9, 500, other=(0.3, 10)),
        "10m",
    ),
    case("it does not serve any more", accuracy(0.5, 500, serves=0), "10m"),
    case("the bundle names no floor", without(accuracy(0.5, 500), "floor"), "10m"),
]
CASES["ReplicasDisagree"] = [
    case(
        "two models for a quarter of an hour",
        serving("aa", "a") | serving("bb", "b"),
        "15m",
        Fire("ticket", "2 models serve at once in one release", {"cause": "several"}),
    ),
    case(
        "three workers cannot follow",
        serving("aa", "a") | {'model_wanted_mismatch{instance="a"}': "3x60"},
        "15m",
        Fire("ticket", "3 workers do not serve the desired model", {"cause": "not-wanted"}),
    ),
    case(
        "a swap, and what served before",
        serving("aa", "a", "4x5 0x60") | serving("bb", "a", "0x5 4x60"),
        "20m",
    ),
    case(
        "a canary serves another one on purpose",
        serving("aa", "a", pod="7bf8") | serving("bb", "b", pod="6d4c"),
        "20m",
    ),
]
CASES["SwapFailing"] = [
    case(
        "a follower tries again and again",
        {SWAPS % ("failed", "fetch", "a"): "0x5 1 2 4x50"},
        "10m",
        swaps(4),
    ),
    case(
        "a counter that was there goes on",
        {SWAPS % ("failed", "load", "a"): "7x40 8+1x10 18x50"},
        "1h",
        swaps(11),
    ),
    case(
        "somebody mistyped a tag, others were refused while a swap ran",
        {
            SWAPS % ("failed", "fetch", "a"): "0x5 1x50",
            SWAPS % ("failed", "lock", "a"): "0x5 9x50",
            SWAPS % ("done", "switch", "a"): "0x5 9x50",
        },
        "10m",
    ),
    case(
        "three times on one replica, each time at another step",
        {
            SWAPS % ("failed", step, "a"): f"0x{when} 1x50"
            for step, when in (("fetch", 3), ("verify", 5), ("load", 7))
        },
        "10m",
        swaps(3),
    ),
    case(
        "one blip of the network, once on each of three replicas",
        {SWAPS % ("failed", "fetch", name): "0x5 1x50" for name in "abc"},
        "10m",
    ),
    case("long ago", {SWAPS % ("failed", "fetch", "a"): "9x90"}, "1h"),
    case(
        "long ago, and one scrape was missed half an hour ago",
        {SWAPS % ("failed", "fetch", "a"): "9x9 stale 9x60"},
        "40m",
    ),
]
CASES["FeedbackNotRecorded"] = [
    case(
        "the disk has no room for the first time",
        {UNRECORDED: "0x5 12x60"},
        "12m",
        Fire(
            "ticket",
            "12 predictions of 15 minutes were not recorded: disk_full",
            {"reason": "disk_full"},
        ),
    ),
    case("it happened an hour ago", {UNRECORDED: "0x5 12x90"}, "1h"),
    case(
        "long ago, and the replica was not scraped for a while",
        {UNRECORDED: "7x9 stale _x8 7x60"},
        "31m",
    ),
]
CASES["DriftUnmeasured"] = [
    case(
        "few samples for half a day, while there is traffic",
        unmeasured("few_samples", "mean/B02", "confidence", "nodata/B02"),
        "13h",
        unknown(2, "few_samples"),
        interval="15m",
    ),
    case(
        "all images are the same for more than an hour",
        unmeasured("constant", "mean/B02"),
        "75m",
        unknown(1, "constant"),
    ),
    case(
        "few samples all day, from requests that come every two hours",
        unmeasured("few_samples", "mean/B02") | {REQUESTS % "200": SPARSE},
        "13h",
        unknown(1, "few_samples"),
        interval="15m",
    ),
    case(
        "one replica has too little, and another one measures the signal",
        without(unmeasured("few_samples", "mean/B02"), 'instance="b"') | measured("mean/B02", "b"),
        "13h",
        interval="15m",
    ),
    case(
        "one replica gets the same image all the time, and another one measures the signal",
        without(unmeasured("constant", "mean/B02"), 'instance="b"') | measured("mean/B02", "b"),
        "3h",
        interval="5m",
    ),
    case(
        "of two signals only the other one is measured",
        unmeasured("constant", "mean/B02") | measured("mean/B03", "b"),
        "75m",
        unknown(1, "constant"),
    ),
    case("a night", unmeasured("few_samples", "mean/B02"), "11h", interval="15m"),
    case("all pixels have data", unmeasured("constant", "nodata/B02"), "3h", interval="5m"),
    case(
        "there are no requests",
        unmeasured("not_finite", "mean/B02") | {REQUESTS % "200": "5x900"},
        "3h",
        interval="5m",
    ),
]
CASES["DiskFilling"] = [
    case("nearly full", disk("2x100"), "10m", left("page", "2% of / on host:9100 is left")),
    case(
        "nearly full, as kube-prometheus names its job",
        disk("1x100", job="node-exporter", host="node-1"),
        "10m",
        left("page", "1% of / on node-1 is left", "node-exporter", "node-1"),
    ),
    case(
        "full within a day",
        disk("20-0.125x500"),
        "7h30m",
        left("ticket", "8.75% of / on host:9100 is left, and it is full within a day"),
        interval="5m",
    ),
    case("5 % that stay", disk("5x500"), "7h", interval="5m"),
    case("it fills, and half is left", disk("80-0.4x500"), "6h", interval="5m"),
    case("an image that is mounted", disk("0x500", readonly=1), "2h"),
    case("memory that looks like a disk", disk("1x500", "tmpfs"), "2h"),
]
CASES["CertificateExpiring"] = [
    case(
        "ten days are left",
        {CERTIFICATE: ends(10)},
        "2h",
        Fire(
            "ticket",
            "The certificate of https://example.com expires in 9.9 days",
            {"instance": "https://example.com"},
            job=None,
        ),
    ),
    case("fifteen days are left", {CERTIFICATE: ends(15)}, "2h"),
]
CASES["ProbeFailing"] = [
    case(
        "the certificate has ended: the probe no longer says when, and fails",
        {CERTIFICATE: "600x9 stale", PROBE % "certificates": "1x9 0x60"},
        "30m",
        Fire(
            "page",
            "0 probes of https://example.com succeed",
            {"instance": "https://example.com"},
            job="certificates",
        ),
    ),
    case("for some minutes", {PROBE % "certificates": "1x9 0x8 1x60"}, "20m"),
    case("all is well", {PROBE % "certificates": "1x60"}, "30m"),
    case("it is probed no more", {PROBE % "certificates": "0x5 stale"}, "30m"),
    case("a neighbour's probe", {PROBE % "other": "0x60"}, "30m"),
]
CASES["TokenExpiring"] = [
    case(
        "ten days are left",
        {TOKEN % ("BOT_TOKEN", "a"): ends(10), TOKEN % ("RELEASE_TOKEN", "a"): ends(40)},
        "2h",
        Fire("ticket", "The token BOT_TOKEN expires in 9.9 days", {"token": "BOT_TOKEN"}, job=None),
    ),
    case(
        "it was renewed, and the old date is still there",
        {TOKEN % ("BOT_TOKEN", "a"): ends(10), TOKEN % ("BOT_TOKEN", "b"): ends(300)},
        "2h",
    ),
]
CASES["Watchdog"] = [
    case("always", UP, "1m", Fire("none", "Alerting works: this always fires (1)", job=None))
]


ARM = {"rule": "trial", "arm": "landcover@v1.3.0"}
OF_ARM = 'routing_%s{job="' + APP + '",instance="%s",rule="trial",arm="landcover@v1.3.0"}'
REFUSED = 'routing_refused{job="' + APP + '",instance="%s"}'
CASES["RoutingRefused"] = [
    case(
        "one replica of two has a broken file",
        {REFUSED % "a": "1x60", REFUSED % "b": "0x60"},
        "30m",
        Fire("ticket", "routing.yaml does not hold on at least 1 replica"),
    ),
    case("it is corrected within minutes", {REFUSED % "a": "0x5 1x4 0x60"}, "30m"),
    case("all is well", {REFUSED % "a": "0x60"}, "30m"),
]
CASES["ArmCutOff"] = [
    case(
        "one replica of two cuts it off",
        {OF_ARM % ("cut", "a"): "0x5 1x60", OF_ARM % ("cut", "b"): "0x60"},
        "30m",
        Fire(
            "ticket",
            "landcover@v1.3.0 of trial is cut off by its guard on at least 1 replica",
            ARM,
        ),
    ),
    case("none does", {OF_ARM % ("cut", "a"): "0x60"}, "30m"),
]
CASES["PromotionProposed"] = [
    case(
        "every replica proposes it",
        {OF_ARM % ("proposed", name): "1x60" for name in ("a", "b")},
        "30m",
        Fire("ticket", "The labels of trial speak for landcover@v1.3.0 (1)", ARM),
    ),
    case("none does", {OF_ARM % ("proposed", "a"): "0x60"}, "30m"),
]


WORKERS = f"{APP}-stream"
FRAMES = f'stream_frames_total{{job="{WORKERS}",instance="%s",result="%s"}}'


def waiting(lag: str, answered: str) -> dict[str, str]:
    """Frames that wait in two partitions of one worker, and those that it answers."""
    found = {
        f'stream_lag{{job="{WORKERS}",instance="a",partition="{number}"}}': lag
        for number in range(2)
    }
    return found | {FRAMES % ("a", "answered"): answered}


def working(up: str, connected: str) -> dict[str, str]:
    """A worker of the stream: whether it can be scraped, and reaches a broker."""
    return {
        f'up{{job="{WORKERS}",instance="a"}}': up,
        f'stream_connected{{job="{WORKERS}",instance="a"}}': connected,
    }


def letters(dead: str, answered: str) -> dict[str, str]:
    """Frames that died, and others."""
    return {FRAMES % ("a", "dead"): dead, FRAMES % ("b", "answered"): answered}


def behind(count: int) -> Fire:
    """StreamBehind."""
    summary = f"{count} frames wait, more than the workers answer in 300 s"
    return Fire("ticket", summary, job=WORKERS)


DOWN = Fire("page", "0 workers of the stream are up and reach Kafka", job=WORKERS)
DYING = "frames of 15 minutes became dead letters, more than 5 %"
CASES["StreamBehind"] = [
    case(
        "it answers 60 a minute, and 1,000 wait", waiting("500x60", "0+60x60"), "30m", behind(1000)
    ),
    case("nothing is answered, and 200 wait", waiting("100x60", "0x60"), "30m", behind(200)),
    case("1,000 wait, and are answered in a minute", waiting("500x60", "0+1000x60"), "30m"),
    case("nothing is answered, and 20 wait", waiting("10x60", "0x60"), "30m"),
]
CASES["StreamDown"] = [
    case("no worker is up", working("0x60", "_x60"), "30m", DOWN),
    case("no broker can be reached", working("1x60", "0x60"), "30m", DOWN),
    case("a broker was away for two minutes", working("1x60", "1x10 0x2 1x60"), "13m"),
    case("all is well", working("1x60", "1x60"), "30m"),
]
CASES["StreamFramesDying"] = [
    case(
        "one of ten dies",
        letters("0+10x60", "0+90x60"),
        "30m",
        Fire("ticket", f"150 {DYING}", job=WORKERS),
    ),
    case("one of a hundred dies", letters("0+10x60", "0+990x60"), "30m"),
    case(
        "all of ten in 15 minutes die",
        letters("0+1x60", "0x60") | {FRAMES % ("a", "dead"): "0x20 10x40"},
        "30m",
    ),
]
