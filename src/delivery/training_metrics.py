"""Command: push the duration of this pipeline and the expiry of its tokens to a pushgateway.

    python -m delivery.training_metrics main     at the end of a pipeline

`PUSHGATEWAY_URL` is its address, `https://user:password@push.example.com` if it requires a login.
Without it nothing is measured. A failed push is reported on stderr and never fails the pipeline.
"""

from contracts import commands
from delivery.errors import command
from delivery.metrics.pipeline import PIPELINES, VARIABLE, is_enabled, watched


@command
def main() -> None:
    """Push the metrics of this pipeline."""
    parser = commands.parser("delivery.training_metrics", __doc__)
    parser.add_argument("pipeline", choices=PIPELINES)
    pipeline = parser.parse_args().pipeline
    if not is_enabled():
        print(f"metrics: nothing is pushed: {VARIABLE} is not set")
        return
    with watched(pipeline):
        pass


if __name__ == "__main__":
    main()
