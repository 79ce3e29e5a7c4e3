"""Command: play the story of a rollout on a cluster of yours, and report what it did.

    python -m delivery.acceptance.cluster kind-kind --version v1.2.0
    python -m delivery.acceptance.cluster kind-kind --clean conveyor-acceptance-1a2b3c4d

The argument is a context of kubectl. In throw-away namespaces with a random name it deploys an
image under versions of its own, swaps the model by the ConfigMap, rolls a good and a broken version
out, goes back, kills a rollout in its middle, tries the NetworkPolicy from pods, and, where the
cluster has Argo Rollouts, plays a good and a bad canary. It deletes the namespaces at the end, also
after Ctrl-C, and touches no other; after a kill, --clean does. The report is
artifacts/acceptance/cluster.md; the exit code is 1 if a check failed.

The account has to create namespaces, and everything in them. The nodes have to pull the image: it
is the pushed one of --version, by IMAGE as in delivery.image, or --image. With --prometheus, an
address as the cluster's pods know it, the canary is judged by its analysis, which takes half an
hour.
"""

import re
import shutil
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts import commands
from delivery.acceptance.report import FOLDER, Report
from delivery.acceptance.sandbox import Sandbox
from delivery.acceptance.stage import SOON, Stage
from delivery.errors import DeliveryError, RolloutError, command
from delivery.image.image import find
from delivery.rollout.controller import ARGO, TIMEOUTS
from delivery.rollout.manifests import Document, parse_image, to_yaml
from delivery.rollout.preflight import REQUIRED
from delivery.rollout.smoke_test import Expected
from delivery.tags import model_name, parse_version

REPORT = FOLDER / "cluster.md"
UNTESTED = (
    "Not checked here: a way in from outside, TLS, scaling, evictions, alerts, and the rights of "
    "the pipeline's account: this one may do everything."
)
KEPT_OUT, LET_IN = "a pod of another namespace is kept out", "a pod of `callers` is let in"
GOOD, BAD = "a good canary is promoted", "a bad canary is taken back"
NO_ARGO = "the cluster does not know rollouts.argoproj.io: install Argo Rollouts to check this"
NO_POLICIES = (
    "a pod whose policy forbids all connections opened one: the network plugin enforces no policies"
)
MUTE: Document = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "mute"},
    "spec": {"podSelector": {"matchLabels": {"acceptance": "mute"}}, "policyTypes": ["Egress"]},
}
"""No pod `mute` may connect to anything: whether it can shows if policies are enforced."""


class Story(Report):
    """One run."""

    def __init__(self, sandbox: Sandbox, minutes: float, prometheus: str) -> None:
        """Play in a sandbox; `minutes` is the time for one step of the cluster."""
        super().__init__()
        self._sandbox, self._minutes, self._prometheus = sandbox, minutes, prometheus
        self._folder = FOLDER / f"cluster-{sandbox.run}"

    def play(self) -> None:
        """Play all of it; what was made is deleted also when something fails."""
        try:
            self.check_rollouts()
            self.check_canary()
        except DeliveryError as error:
            self.check("the story could go on", False, error)
        except KeyboardInterrupt:
            self.check("the story came to its end", False, "it was interrupted")
            raise
        finally:
            self.clean()

    def check_rollouts(self) -> None:
        """Deploy, try versions, and the network."""
        stage = self._stage()
        stage.prepare()
        with stage.forward:
            self._first("a version is deployed", stage)
            self.check_versions(stage)
            self.check_network(stage)

    def check_versions(self, stage: Stage) -> None:
        """Swap, move on, fail, go back, be killed."""
        first, second = stage.version(1).tag, stage.version(2).tag
        self._smoke("the smoke test passes", stage, Expected(first))
        self.check_swap(stage)
        self._is("another version is rolled out", stage.roll_out(2), "rolled-out", second)
        stage.set_broken(True)
        name = "a version that does not start is taken back"
        self._is(name, stage.roll_out(3, seconds=SOON), "rolled-back", second)
        stage.set_broken(False)
        done = stage.roll_out(1)
        self.check("an older version is refused", done["code"] == 1, done["reason"])
        done = stage.roll_out(1, "--allow-older")
        self._is("it comes back when it is asked for", done, "rolled-out", first)
        self.check_killed(stage)

    def check_swap(self, stage: Stage) -> None:
        """The pods serve the ConfigMap's tag without a restart."""
        name, before = "the model is swapped by the ConfigMap", stage.pods()
        tag, sha256 = stage.version(9).tag, stage.serving_sha256()
        stage.swap(1, tag, sha256, datetime.now(UTC).isoformat())
        self._smoke(name, stage, Expected(tag, sha256))
        same = before <= stage.pods()  # the autoscaler may have added some
        self.check("no pod was restarted for it", same, f"{len(before)} pods")

    def check_killed(self, stage: Stage) -> None:
        """A rollout that was killed after its apply is finished by the next one."""
        killed = stage.kill_rollout(4)
        name, tag = "a rollout that was killed is finished by the next one", stage.version(4).tag
        done = stage.roll_out(4)
        if not killed:
            self.skip(name, "it had ended before it could be killed")
            return
        done["result"] = done["result"].replace("unchanged", "rolled-out")
        self._is(name, done, "rolled-out", tag)

    def check_network(self, stage: Stage) -> None:
        """Connections to the pods, from inside and outside of `callers`."""
        outside = self._sandbox.make("outside")
        outside.apply(to_yaml([MUTE]))
        if stage.reach(outside, "mute", *stage.listen(outside)):
            self.skip(KEPT_OUT, NO_POLICIES)
            self.skip(LET_IN, NO_POLICIES)
            return
        service = (f"{stage.cluster.app}.{stage.cluster.namespace}.svc", "80")
        came = stage.reach(outside, "stranger", *service)
        self.check(KEPT_OUT, not came, "its connection was opened" if came else "no connection")
        came = stage.reach(stage.cluster, "caller", *service)
        self.check(LET_IN, came, "connected" if came else "no connection: compare callers")

    def check_canary(self) -> None:
        """A good and a bad canary, judged by its analysis if there is a Prometheus."""
        if not self._sandbox.knows(*REQUIRED["Rollout"][0]):
            self.skip(GOOD, NO_ARGO)
            self.skip(BAD, NO_ARGO)
            return
        stage = self._stage("canary")
        stage.prepare(self._prometheus, canary=True)
        seconds = TIMEOUTS[ARGO] if self._prometheus else 60 * self._minutes
        with stage.forward:
            second = stage.version(2).tag
            self._first("a version is deployed by Argo Rollouts", stage)
            if self._prometheus:
                stage.cluster.apply(to_yaml([stage.traffic()]))
            self._is(GOOD, stage.roll_out(2, seconds=seconds), "rolled-out", second)
            if self._prometheus:  # a canary that no one asks has no data, and never passes
                stage.cluster.call("delete", "pod/traffic", timeout=seconds)
            else:
                stage.set_broken(True)
                seconds = SOON
            self._is(BAD, stage.roll_out(3, seconds=seconds), "rolled-back", second)
        name = "the canary was judged by its analysis"
        if not self._prometheus:
            self.skip(name, "--prometheus was not given: steps without an analysis were played")

    def _stage(self, purpose: str = "") -> Stage:
        cluster = self._sandbox.make(purpose)
        print(f"acceptance: namespace {cluster.namespace}", flush=True)
        return Stage(self._sandbox, cluster, self._folder, self._minutes)

    def _first(self, name: str, stage: Stage) -> None:
        """Roll the first version out.

        Raises:
            RolloutError: it does not serve.
        """
        self._is(name, stage.roll_out(1), "rolled-out", stage.version(1).tag)
        if not self.checks[-1].passed:
            raise RolloutError(f"nothing serves in {stage.cluster.namespace}")

    def _is(self, name: str, done: Any, result: str, serving: str) -> None:
        """Hold the outcome of a rollout to what it should be."""
        passed = (done["result"], done["serving"]) == (result, serving)
        seen = f"{done['result']} in {done['seconds']:g} s, {done['serving']} serves"
        self.check(name, passed, seen if passed else f"{seen}: {done['reason']}")

    def _smoke(self, name: str, stage: Stage, expected: Expected) -> None:
        try:
            self.check(name, True, stage.smoke(expected))
        except RolloutError as error:
            self.check(name, False, error)

    def clean(self) -> None:
        """Delete what was made, whoever types Ctrl-C again; report what is left."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # kubectl inherits it
        print("acceptance: deleting what was made", flush=True)
        try:
            left = self._sandbox.clean()
            cure = f": kubectl describe namespace {left[0]}" if left else "the namespaces are gone"
            self.check("nothing is left", not left, ", ".join(left) + cure)
        except DeliveryError as error:
            self.check("nothing is left", False, f"{error}; later: --clean")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            signal.signal(signal.SIGINT, before)


@command
def main() -> None:
    """Play the story, and write its report."""
    arguments = _parser().parse_args()
    sandbox = _sandbox(arguments)
    server = sandbox.server()
    if arguments.clean:
        sandbox.clean_other(arguments.clean)
        print(f"acceptance: {arguments.clean} is gone")
        return
    if not arguments.image:  # its registry is asked once the cluster is known to be there
        sandbox.image = find(parse_version(arguments.version, sandbox.app)).reference
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    story = Story(sandbox, arguments.minutes, arguments.prometheus)
    begun, started = datetime.now(UTC), time.monotonic()
    try:
        story.play()
    finally:
        took = (time.monotonic() - started) / 60
        about = f"Context {arguments.context}, Kubernetes {server}, {begun:%Y-%m-%d %H:%M} UTC"
        story.write(REPORT, "a cluster", [f"{about}, {took:.1f} minutes.", sandbox.image], UNTESTED)
    if not story.passed:
        sys.exit(1)


def _parser() -> ArgumentParser:
    parser = commands.parser("delivery.acceptance.cluster", __doc__)
    parser.add_argument("context", help="kubectl's context: one of `kubectl config get-contexts`")
    parser.add_argument("--version", default="", help="whose pushed image is played with")
    parser.add_argument("--image", default="", help="name@sha256:..., in its place")
    parser.add_argument("--pull-secret", type=Path, help="config.json for a private registry")
    parser.add_argument("--prometheus", default="", help="its address, for the canary's analysis")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each step (5)")
    parser.add_argument("--clean", default="", metavar="NAMESPACE", help="delete a killed run's")
    return parser


def _sandbox(arguments: Namespace) -> Sandbox:
    """Check the arguments.

    Raises:
        DeliveryError: one of them is invalid.
    """
    name = model_name()
    if arguments.prometheus and not re.match(r"https?://[^/]", arguments.prometheus):
        given = arguments.prometheus[:64]
        raise RolloutError(
            f"PROMETHEUS: {given!a} is no address: write http://prometheus.monitoring.svc:9090"
        )
    if not (arguments.clean or arguments.version or arguments.image):
        raise RolloutError("VERSION: not set: write v1.2.0, of an image that was pushed")
    sandbox = Sandbox(name, arguments.context, arguments.pull_secret)
    if arguments.image:
        sandbox.image = parse_image(arguments.image)
    elif arguments.version:
        parse_version(arguments.version, name)
    return sandbox


if __name__ == "__main__":
    main()
