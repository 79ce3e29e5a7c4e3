"""Command: start or stop the review app of a merge request.

    python -m delivery.review start     landcover-mr-12 in the namespace landcover-review
    python -m delivery.review stop      delete the objects that start created, and nothing else

Nothing of the merge request is built: the review app runs the image of staging. The service starts
with that version and then fetches the candidate by its tag, as in any stage. The candidate is the
tag of this pipeline's training (artifacts/experiment/experiment.json), else an earlier experiment
of the merge request, or a version, with the model that dvc.lock names.

Environment: CI_MERGE_REQUEST_IID; REVIEW_KUBE_CONTEXT, a context of kubectl that reaches only that
namespace. `start` needs REVIEW_URL, such as https://mr-{iid}.review.example.com, and
SERVICE_ID_TOKEN, the job's token for the service. REVIEW_IMAGE, name@sha256:..., replaces the image
of staging, which is found as `delivery.image` does.
"""

from contracts import commands
from delivery.errors import command
from delivery.review.app import ReviewApp, open_cluster, read_iid, start, stop
from delivery.tags import model_name


@command
def main() -> None:
    """Start or stop."""
    parser = commands.parser("delivery.review", __doc__)
    parser.add_argument("action", choices=("start", "stop"))
    action = parser.parse_args().action
    app = ReviewApp(model_name(), read_iid())
    cluster = open_cluster(app)
    if action == "stop":
        stop(app, cluster)
    else:
        start(app, cluster)


if __name__ == "__main__":
    main()
