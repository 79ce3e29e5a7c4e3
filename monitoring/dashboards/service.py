"""The dashboard "Service": whether requests succeed, how fast, and what is running short."""

from monitoring import objectives
from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import (
    NAMESPACE,
    OWN,
    OWN_STREAM,
    Dashboard,
    Query,
    Threshold,
    chart,
    section,
    stat,
)
from monitoring.dashboards.model import RELEASES, SWAPS
from monitoring.dashboards.promql import RATE, largest, largest_of, or_zero, quantile, rate
from monitoring.objectives import AVAILABILITY, DAYS, QUICK, percent

PREDICT = f"{OWN},{objectives.PREDICT}"
FIRING = f'ALERTS{{{NAMESPACE},alertstate="firing",severity!="none"}}'
ROUTES, LOOK_BACK = 8, "6h"
"""The panels of routes show this many, the largest in this time; each has its own colour."""
SHARES = ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))


def succeeded(labels: str, window: str = RATE) -> str:
    """Share of requests without a 5xx; no series without requests."""
    failed = or_zero(rate("http_requests_total", f"{labels},{objectives.FAILED}", "", window))
    return f"1 - {failed} / {rate('http_requests_total', labels, '', window)}"


def quantiles(metric: str, labels: str) -> tuple[Query, ...]:
    """Median, 90 % and 99 % of a latency."""
    return tuple(Query(quantile(share, metric, labels), name) for share, name in SHARES)


def by_route(window: str = RATE) -> str:
    """The 90 % quantile of the latency of each route."""
    return quantile(0.9, "http_request_duration_seconds", OWN, "handler", window)


NOW = section(
    "Now",
    stat(
        "Successful predictions",
        "Share of predictions that were not answered with 5xx.",
        "percentunit",
        Query(succeeded(PREDICT), "now"),
        (Threshold(0.99, "orange"), Threshold(AVAILABILITY.target, "green")),
        "red",
    ),
    stat(
        "Error budget left",
        f"{percent(AVAILABILITY.budget)} of the predictions of {DAYS} days may fail: the share "
        "that is left, of fewer days if Prometheus keeps fewer.",
        "percentunit",
        Query(
            f"1 - (1 - ({succeeded(PREDICT, f'{DAYS}d')})) / {AVAILABILITY.budget}", f"{DAYS} days"
        ),
        (Threshold(0, "orange"), Threshold(0.25, "green")),
        "red",
    ),
    stat(
        "Predictions",
        "Images answered a second, by all replicas.",
        "ops",
        Query(rate("model_predictions_total", OF), "now"),
    ),
    stat(
        "Latency, 90 %",
        "90 % of the predictions are faster; the objective is "
        f"{percent(objectives.LATENCY.target)} below {QUICK} s.",
        "s",
        Query(quantile(0.9, "http_request_duration_seconds", PREDICT), "/predict"),
        (Threshold(QUICK, "orange"), Threshold(1, "red")),
    ),
    stat(
        "Replicas that answer",
        "Replicas whose metrics Prometheus can read.",
        "short",
        Query(or_zero(f"count(up{{{OWN}}} == 1)"), "replicas"),
        (Threshold(1, "green"),),
        "red",
    ),
    stat(
        "Alerts",
        "How many alerts fire; the table below names them.",
        "short",
        Query(or_zero(f"count({FIRING})"), "firing"),
        (Threshold(1, "red"),),
    ),
)

REQUESTS = section(
    "Requests",
    chart(
        "Share of successful requests",
        "Requests that were not answered with 5xx, beside the objective.",
        "percentunit",
        Query(succeeded(PREDICT), "/predict"),
        Query(succeeded(OWN), "all routes"),
        Query(f"vector({AVAILABILITY.target})", "objective", "limit"),
        width=12,
        minimum=None,
        maximum=1,
    ),
    chart(
        "Requests by route",
        "Requests to the eight busiest routes.",
        "reqps",
        Query(
            largest_of(
                ROUTES,
                rate("http_requests_total", OWN, "handler"),
                rate("http_requests_total", OWN, "handler", LOOK_BACK),
            ),
            "{{handler}}",
        ),
        width=12,
    ),
    chart(
        "Predictions",
        "Images answered, by the model that answered.",
        "ops",
        Query(rate("model_predictions_total", OF, "tag"), "{{tag}}"),
    ),
    chart(
        "Bytes",
        "What comes in as uploads, and what goes out as answers.",
        "Bps",
        Query(rate("http_request_size_bytes_sum", OWN), "in"),
        Query(rate("http_response_size_bytes_sum", OWN), "out"),
    ),
    chart(
        "Alerts that fire",
        "What fires now; docs/runbook.md has a page for each.",
        "short",
        Query(f"count by (alertname, severity) ({FIRING})", "times"),
        kind="table",
    ),
)

LATENCY = section(
    "Latency",
    chart(
        "Latency of predictions",
        "Time in the service of /predict; slow ones raise PredictionsSlow.",
        "s",
        *quantiles("http_request_duration_seconds", PREDICT),
        thresholds=(Threshold(QUICK, "orange"),),
    ),
    chart(
        "Latency of all requests",
        "Time in the service, finer in its steps than by route.",
        "s",
        *quantiles("http_request_duration_highr_seconds", OWN),
    ),
    chart(
        "Latency by route, 90 %",
        "Which of the routes is slow: the eight slowest.",
        "s",
        Query(largest_of(ROUTES, by_route(), by_route(LOOK_BACK)), "{{handler}}"),
    ),
)

ERRORS = section(
    "Errors",
    chart(
        "Errors by status",
        "4xx is the caller's fault, 5xx the service's.",
        "reqps",
        Query(rate("http_requests_total", f'{OWN},status=~"[45].."', "status"), "{{status}}"),
        width=12,
    ),
    chart(
        "Refused uploads by reason",
        "Why uploads were refused; many with one reason point to a broken client.",
        "reqps",
        Query(rate("uploads_refused_total", OWN, "reason"), "{{reason}}"),
        width=12,
    ),
)

SATURATION = section(
    "Saturation",
    chart(
        "CPU",
        "Cores that a replica keeps busy; near its limit everything waits.",
        "suffix: cores",
        Query(rate("process_cpu_seconds_total", OWN, "instance"), "{{instance}}"),
    ),
    chart(
        "Wait for the model",
        "How long a chip waits for the runtime; it grows before requests fail.",
        "s",
        *quantiles("model_queue_seconds", OWN),
    ),
    chart(
        "Time in the model",
        "How long the runtime needs for a chip.",
        "s",
        *quantiles("model_inference_seconds", OF),
    ),
    chart(
        "Memory",
        "Memory of all workers of a replica.",
        "bytes",
        Query(largest("process_resident_memory_bytes", OWN, "instance"), "{{instance}}"),
    ),
    chart(
        "Open files",
        "Share of the files that a replica may open; at 100 % it takes no connection.",
        "percentunit",
        Query(
            f"max by (instance) (process_open_fds{{{OWN}}} " f"/ process_max_fds{{{OWN}}})",
            "{{instance}}",
        ),
        thresholds=(Threshold(0.8, "orange"),),
    ),
    chart(
        "Workers",
        "Processes that answer requests; at a gap a worker died and was restarted.",
        "short",
        Query(largest("service_workers", OWN, "instance"), "{{instance}}"),
    ),
    chart(
        "Feedback on disk",
        "Images kept for labelling, and predictions that wait for the database.",
        "bytes",
        Query(largest("feedback_image_bytes", OWN), "images"),
        Query(f"sum({largest('feedback_spool_bytes', OWN, 'instance')})", "waiting"),
        width=12,
    ),
    chart(
        "Images kept",
        "Number of images kept, by the reason.",
        "short",
        Query(largest("feedback_images", OWN, "kind"), "{{kind}}"),
        width=12,
    ),
)

STREAM = section(
    "Stream",
    chart(
        "Frames by result",
        "Frames that were answered, died with a reason, or were left out for a newer one.",
        "ops",
        Query(rate("stream_frames_total", OWN_STREAM, "result"), "{{result}}"),
        needs="stream",
    ),
    chart(
        "Frames that wait",
        "How many frames all workers still have to answer.",
        "short",
        Query(f"sum(stream_lag{{{OWN_STREAM}}})", "waiting"),
        needs="stream",
    ),
    chart(
        "Age of a frame at its answer",
        "Time from the capture of a frame to its answer.",
        "s",
        *quantiles("stream_age_seconds", OWN_STREAM),
        needs="stream",
    ),
    chart(
        "Dead letters by reason",
        "Why frames were not answered; the letters say it in a sentence.",
        "ops",
        Query(rate("stream_dead_letters_total", OWN_STREAM, "reason"), "{{reason}}"),
        width=12,
        needs="stream",
    ),
    chart(
        "Frames at once",
        "How many frames a worker takes at once, on average; near the most it is always busy.",
        "short",
        Query(
            f"{rate('stream_batch_frames_sum', OWN_STREAM)}"
            f" / {rate('stream_batch_frames_count', OWN_STREAM)}",
            "frames",
        ),
        width=12,
        needs="stream",
    ),
)

SERVICE = Dashboard(
    name="service",
    title="Service",
    description="Whether requests succeed, how fast they are, and what is running short.",
    variables=("namespace", "tag"),
    sections=(NOW, REQUESTS, LATENCY, ERRORS, SATURATION, STREAM),
    annotations=(SWAPS, RELEASES),
)
