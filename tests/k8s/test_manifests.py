"""The manifests fit the service, and each other."""

import json
import os
import re
import shutil
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.errors import RolloutError, TagError
from delivery.rollout.controller import ARGO as ROLLOUT
from delivery.rollout.controller import TIMEOUTS
from delivery.rollout.manifests import APPLIED, Document, build, for_version, render
from service.auth.roles import ROLES
from service.secrets import FEEDBACK, KEYS, PASSWORD, USERNAME, MountedSecrets
from service.server.supervisor import GRACE
from service.settings import Settings, read_settings
from tests.conftest import ROOT
from tests.k8s.conftest import (
    ARGO,
    IMAGE,
    K8S,
    NAME,
    OVERLAYS,
    SHIPPED,
    VERSION,
    namespace,
    one,
    rendered,
    workload,
)
from tests.make.manifests import STRATEGIES, copy_manifests
from tests.make.mounts import mount

LABEL = {"app.kubernetes.io/name": NAME}
SECRETS = {
    "landcover-keys": {"api-keys": json.dumps({"0" * 64: ["predict"]})},
    "landcover-git": {"username": "gitlab+deploy-token-1", "password": "a-token"},
    "landcover-remote": {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "its-secret"},
    "landcover-feedback": {"url": "postgresql://landcover:password@postgres/landcover"},
}
"""The secrets of a stage's pods: docs/kubernetes.md lists their keys."""
UNITS = {"Mi": 2**20, "Gi": 2**30, "m": 2**20}


def test_a_stage_has_every_object_in_its_namespace(objects: list[Document]) -> None:
    kinds = {item["kind"] for item in objects}
    assert kinds >= (SHIPPED if "Deployment" in kinds else SHIPPED - {"Deployment"} | ARGO)
    assert namespace(objects) in spaces()


def spaces() -> dict[str, Any]:
    """The namespaces of the stages, which the administrator applies."""
    found = build(K8S / "setup", NAME) if rendered("staging") else []
    return {item["metadata"]["name"]: item for item in found if item["kind"] == "Namespace"}


def test_the_namespaces_enforce_the_restricted_standard() -> None:
    for item in spaces().values():
        for mode in ("enforce", "warn", "audit"):
            assert item["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_the_pod_keeps_to_the_restricted_standard(objects: list[Document]) -> None:
    pod, container = spec(objects), containers(objects)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds == {"emptyDir", "secret"}
    assert all(volume.get("emptyDir", {}).get("sizeLimit", "1") for volume in pod["volumes"])


def test_the_folders_that_the_service_writes_to_are_writable_volumes(
    objects: list[Document],
) -> None:
    mounts = containers(objects)["volumeMounts"]
    mounted = {item["mountPath"] for item in mounts if not item.get("readOnly")}
    assert mounted == {"/tmp", environment(objects)["SERVICE_STATE"]}
    assert spec(objects)["securityContext"]["fsGroup"]


def test_the_service_starts_with_these_settings(
    objects: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SERVICE_")]:
        monkeypatch.delenv(name)
    for name, value in environment(objects).items():
        if name.startswith("SERVICE_"):
            monkeypatch.setenv(name, value)
    # Where the pod mounts its secrets, those of a test are mounted.
    monkeypatch.setenv("SERVICE_SECRETS", str(mounted(objects, tmp_path, SECRETS)))
    settings = read_settings()
    assert settings.api_keys.keys() == {"0" * 64}
    assert settings.feedback.get_secret_value() == SECRETS["landcover-feedback"]["url"]
    assert settings.host == "0.0.0.0" and settings.roles_open_to_everybody() == frozenset()
    assert settings.port == containers(objects)["ports"][0]["containerPort"]
    assert settings.tag == "landcover@v1.2.0" and settings.release == "landcover-v1.2.0"
    assert settings.configmap == f"{namespace(objects)}/wanted-model"


def mounted(objects: list[Document], folder: Path, secrets: dict[str, dict[str, str]]) -> Path:
    """Mount secrets as the pod does; returns the folder that stands for SERVICE_SECRETS."""
    top = environment(objects)["SERVICE_SECRETS"]
    names = {
        it["name"]: it["secret"]["secretName"] for it in spec(objects)["volumes"] if "secret" in it
    }
    for item in containers(objects)["volumeMounts"]:
        if item["name"] in names:
            relative = Path(item["mountPath"]).relative_to(top)
            mount(folder, str(relative), secrets.get(names[item["name"]], {}))
    return folder


def test_pods_read_every_secret_as_files_and_as_no_variable(
    objects: list[Document], tmp_path: Path
) -> None:
    """A file follows the Secret while the pod runs; a variable would need another pod."""
    found = MountedSecrets(str(mounted(objects, tmp_path, SECRETS)))
    assert all(found.read(name) for name in (KEYS, FEEDBACK, USERNAME, PASSWORD))
    assert found.variables() == SECRETS["landcover-remote"]
    container = containers(objects)
    assert [list(item) for item in container["envFrom"]] == [["configMapRef"]]
    assert not any("valueFrom" in item for item in container["env"])
    volumes = [it["secret"] for it in spec(objects)["volumes"] if "secret" in it]
    # Readable by the group of the pod alone; YAML 1.1 reads 0440 as octal.
    assert {volume["defaultMode"] for volume in volumes} == {0o440}
    assert all(volume["optional"] for volume in volumes)
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_external_secrets_make_the_secrets_that_the_pods_mount() -> None:
    objects = rendered("production", chosen=["external-secrets"])
    made = {it["spec"]["target"]["name"]: it for it in objects if it["kind"] == "ExternalSecret"}
    volumes = [it["secret"]["secretName"] for it in spec(objects)["volumes"] if "secret" in it]
    assert set(volumes) == made.keys() == SECRETS.keys()
    for name, item in made.items():
        assert item["metadata"]["name"] == name
        assert item["spec"]["secretStoreRef"] == {"kind": "SecretStore", "name": "secrets"}
        (source,) = item["spec"]["dataFrom"]
        assert source["extract"]["key"] == f"landcover-production/{name.removeprefix('landcover-')}"


@pytest.mark.parametrize("missing", ["git.yaml", "feedback.yaml"])
def test_a_line_less_is_a_secret_less(tmp_path: Path, missing: str) -> None:
    rendered("staging")  # skips without kustomize
    copied = copy_manifests(tmp_path, chosen=["external-secrets"])
    path = copied / "components" / "external-secrets" / "kustomization.yaml"
    path.write_text(path.read_text().replace(f"  - {missing}\n", ""))
    kinds = [it["kind"] for it in render("staging", NAME, copied / "overlays")]
    assert kinds.count("ExternalSecret") == len(SECRETS) - 1


def test_only_with_its_component_a_rollout_may_write_external_secrets(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    setup = copy_manifests(tmp_path) / "setup"

    def groups() -> set[str]:
        role = by_kind(build(setup, NAME), "ClusterRole")
        return {group for rule in role["rules"] for group in rule["apiGroups"]}

    assert "external-secrets.io" not in groups()
    path = setup / "kustomization.yaml"
    path.write_text(path.read_text().replace("#components:\n#  -", "components:\n  -"))
    assert "external-secrets.io" in groups()


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_cert_manager_is_asked_for_the_certificate_that_the_ingress_names(stage: str) -> None:
    annotation = "cert-manager.io/cluster-issuer"
    plain = one(rendered(stage), "Ingress")
    asked = one(rendered(stage, chosen=["cert-manager"]), "Ingress")
    assert annotation not in plain["metadata"]["annotations"]
    assert asked["metadata"]["annotations"].pop(annotation) == "letsencrypt"
    assert asked == plain


def test_a_merge_request_cannot_order_a_certificate() -> None:
    """Its Ingress could name the host of production in `tls`, and get the key to it."""
    items = build(K8S / "overlays" / "review" / "namespace", NAME) if rendered("staging") else []
    policy = next(it for it in items if it["metadata"]["name"] == "landcover-review-hosts")
    assert "cert-manager" not in json.dumps(policy)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "review"])
def test_pods_trust_the_cas_of_a_file_in_git_and_roll_out_when_it_changes(overlay: str) -> None:
    objects = rendered(overlay, chosen=["private-ca"])
    (volume,) = [item for item in spec(objects)["volumes"] if "configMap" in item]
    name = volume["configMap"]["name"]
    (content,) = [it["data"] for it in objects if it["metadata"]["name"] == name]
    (variable,) = [
        it["value"] for it in containers(objects)["env"] if it["name"] == "SERVICE_CA_FILE"
    ]
    (folder,) = [
        it["mountPath"]
        for it in containers(objects)["volumeMounts"]
        if it["name"] == volume["name"]
    ]
    assert content[Path(variable).name] == "a certificate\n" and Path(variable).parent == Path(
        folder
    )
    assert re.fullmatch(r"landcover-ca(-mr-iid)?-[0-9a-z]{10}", name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rules_of_the_traffic_are_a_file_in_git_that_pods_follow(overlay: str) -> None:
    objects = rendered(overlay, chosen=["routing"])
    data = one(objects, "ConfigMap", "landcover-routing")["data"]
    (volume,) = [it for it in spec(objects)["volumes"] if it["name"] == "routing"]
    assert volume["configMap"]["name"] == "landcover-routing", "no hash: a change starts no rollout"
    (mount,) = [it for it in containers(objects)["volumeMounts"] if it["name"] == "routing"]
    (path,) = [it["value"] for it in containers(objects)["env"] if it["name"] == "SERVICE_ROUTING"]
    assert "subPath" not in mount and Path(path).parent == Path(mount["mountPath"])
    assert yaml.safe_load(data[Path(path).name])["arms"] == {
        "default": 0.9,
        f"{NAME}#staging": 0.1,
    }


def test_without_its_file_the_component_of_rules_is_an_error_that_names_it(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    copied = copy_manifests(tmp_path, chosen=["routing"])
    (copied / "components" / "routing" / "routing.yaml").unlink()
    with pytest.raises(RolloutError, match="routing/routing.yaml is not there: write it"):
        render("staging", NAME, copied / "overlays")


def test_without_its_file_the_component_of_cas_is_an_error_that_names_it(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    copied = copy_manifests(tmp_path, chosen=["private-ca"])
    (copied / "components" / "private-ca" / "ca.crt").unlink()
    with pytest.raises(RolloutError, match="private-ca/ca.crt is not there: write it"):
        render("staging", NAME, copied / "overlays")


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_the_settings_that_are_offered_exist(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "k8s" / "overlays" / stage / "settings.env").read_text(encoding="utf-8")
    offered = dict(re.findall(r"(?m)^#?(SERVICE_\w+)=(.*)$", text))
    assert {"SERVICE_REPOSITORY", "SERVICE_JWT_ISSUER", "SERVICE_JWT_CLAIMS"} <= offered.keys()
    for name, value in offered.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings.jwt_claims["environment"] == stage
    assert "predict" in settings.jwt_roles, "the smoke test of a rollout"


def test_the_image_is_named_by_its_digest(objects: list[Document]) -> None:
    assert containers(objects)["image"] == IMAGE


def test_probes_ask_open_routes_on_the_named_port(objects: list[Document]) -> None:
    container = containers(objects)
    for probe, route in (("startup", "healthz"), ("liveness", "healthz"), ("readiness", "readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/{route}", "port": "http"}
        assert ROLES["GET", f"/{route}"] is None


def test_a_pod_has_the_time_to_drain_and_to_finish(objects: list[Document]) -> None:
    drain = float(environment(objects)["SERVICE_DRAIN"])
    upload = Settings.model_fields["upload_timeout"].default
    assert spec(objects)["terminationGracePeriodSeconds"] > drain + max(GRACE, upload)


def test_uploads_of_all_workers_fit_into_the_memory(objects: list[Document]) -> None:
    values = environment(objects)
    uploads = int(values["SERVICE_WORKERS"]) * int(values["SERVICE_UPLOAD_MEMORY"])
    assert uploads <= size(containers(objects)["resources"]["limits"]["memory"]) / 4
    assert int(values["SERVICE_UPLOAD_MEMORY"]) >= Settings.model_fields["max_upload"].default


def test_a_rolling_update_loses_no_capacity(objects: list[Document]) -> None:
    found = workload(objects)["spec"]
    if rolling := found["strategy"].get("rollingUpdate", found["strategy"].get("canary")):
        assert (rolling["maxSurge"], rolling["maxUnavailable"]) == (1, 0)
    assert "replicas" not in found  # the autoscaler's
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_scales_what_runs_the_pods(objects: list[Document]) -> None:
    target = one(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    found = workload(objects)
    assert target == {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "name": found["metadata"]["name"],
    }


def test_every_selector_matches_the_pods_of_the_service(objects: list[Document]) -> None:
    template = workload(objects)["spec"]["template"]
    assert LABEL.items() <= template["metadata"]["labels"].items()
    selectors = [
        one(objects, "Service")["spec"]["selector"],
        workload(objects)["spec"]["selector"]["matchLabels"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"],
        *(
            item["labelSelector"]["matchLabels"]
            for item in spec(objects)["topologySpreadConstraints"]
        ),
    ]
    assert all(selector == LABEL for selector in selectors)
    service = one(objects, "Service")
    assert LABEL.items() <= service["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["name"] == "http"
    assert one(objects, "ServiceMonitor")["spec"]["endpoints"][0]["port"] == "http"


@pytest.mark.parametrize("overlay", [*OVERLAYS, "review"])
def test_both_ways_in_lead_to_every_route_but_the_metrics(overlay: str) -> None:
    rule = by_kind(rendered(overlay), "Ingress")["spec"]["rules"][0]
    assert_leads({(item["path"], item["pathType"]) for item in rule["http"]["paths"]})
    assert {item["backend"]["service"]["port"]["name"] for item in rule["http"]["paths"]} == {
        "http"
    }
    objects = rendered(overlay, "gateway")
    service = by_kind(objects, "Service")
    rules = by_kind(objects, "HTTPRoute")["spec"]["rules"]
    paths = [match["path"] for item in rules for match in item["matches"]]
    assert_leads({(path["value"], path["type"].removeprefix("Path")) for path in paths})
    back = {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    assert all(item["backendRefs"] == [back] for item in rules)
    assert not any(item["kind"] == "Ingress" for item in objects)


def assert_leads(paths: set[tuple[str, str]]) -> None:
    """Exact paths and prefixes lead to every route but /metrics, and to nothing else."""
    exact = {path for path, kind in paths if kind == "Exact"}
    prefixes = {path for path, kind in paths if kind == "Prefix"}

    def leads(route: str) -> bool:
        return route in exact or any(f"{route}/".startswith(f"{item}/") for item in prefixes)

    routes = {template for _, template in ROLES}
    assert {route for route in routes if not leads(route)} == {"/metrics"}
    assert exact <= routes


def test_the_ways_in_let_the_service_refuse_for_itself() -> None:
    fetch = Settings.model_fields["fetch_timeout"].default
    annotations = one(rendered("staging"), "Ingress")["metadata"]["annotations"]
    times = [
        int(text)
        for name in annotations
        if "time" in name
        for text in [annotations[name].strip("s")]
    ]
    assert len(times) == 6 and min(times) > fetch
    sizes = [size(text) for name, text in annotations.items() if "size" in name]
    assert len(sizes) == 2 and min(sizes) > Settings.model_fields["max_upload"].default
    rules = one(rendered("staging", "gateway"), "HTTPRoute")["spec"]["rules"]
    swap, rest = (int(rule["timeouts"]["request"].strip("s")) for rule in rules)
    assert [it["path"]["value"] for it in rules[0]["matches"]] == ["/replace_ml_model"]
    assert swap > fetch and rest > Settings.model_fields["upload_timeout"].default


def test_the_values_of_an_overlay_are_written_into_its_objects(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    choices = ("external-secrets", "cert-manager")
    overlays = copy_manifests(tmp_path, "ingress", choices, {"production": "canary"}) / "overlays"
    for stage in ("staging", "production"):
        values = overlays / stage / "values.yaml"
        values.write_text(VALUES, encoding="utf-8")
    objects = render("staging", NAME, overlays)
    ingress = one(objects, "Ingress")["spec"]
    assert ingress["ingressClassName"] == "haproxy" and ingress["rules"][0]["host"] == "a.test"
    assert ingress["tls"] == [{"hosts": ["a.test"], "secretName": "landcover-tls"}]
    issuer = one(objects, "Ingress")["metadata"]["annotations"]["cert-manager.io/cluster-issuer"]
    assert issuer == "company"
    external = one(objects, "ExternalSecret", "landcover-git")["spec"]
    assert external["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
    assert external["dataFrom"] == [{"extract": {"key": "g"}}]
    policy = one(objects, "NetworkPolicy")["spec"]
    assert callers(policy) == {"haproxy"}
    assert policy["egress"][2]["ports"] == [{"port": 8443}, {"port": 53, "protocol": "UDP"}]
    scaler = one(objects, "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (5, 6)
    labels = one(objects, "ServiceMonitor")["metadata"]["labels"]
    assert (
        labels["release"] == "prom" and labels["team"] == "eo" and LABEL.items() <= labels.items()
    )
    (address,) = [
        item["value"]
        for item in one(render("production", NAME, overlays), "AnalysisTemplate")["spec"]["args"]
        if item["name"] == "prometheus"
    ]
    assert address == "http://prom:9090"
    (overlays / "staging" / "values.yaml").write_text(VALUES.replace("ingressClass", "ingresClass"))
    with pytest.raises(RolloutError, match="overlays/staging: .*ingressClass"):
        render("staging", NAME, overlays)


VALUES = """
apiVersion: conveyor/v1
kind: Values
metadata: {name: values}
host: a.test
ingressClass: haproxy
gateway: {name: edge, namespace: edges}
callers: [haproxy]
egress: [{port: 8443}, {port: 53, protocol: UDP}]
monitorLabels: {release: prom, team: eo}
secrets: {store: {kind: ClusterSecretStore, name: vault}, keys: k, git: g, remote: r, feedback: f}
clusterIssuer: company
replicas: {least: 5, most: 6}
prometheus: http://prom:9090
"""


def test_openshift_chooses_the_user_of_the_pods() -> None:
    fixed = {"runAsUser", "runAsGroup", "fsGroup"}
    assert fixed <= spec(rendered("staging"))["securityContext"].keys()
    free = spec(rendered("staging", chosen=["openshift"]))["securityContext"]
    assert not fixed & free.keys() and free["runAsNonRoot"] is True


def test_pods_may_read_and_change_the_wanted_model_and_nothing_else(
    objects: list[Document],
) -> None:
    assert one(objects, "Role")["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["wanted-model"],
            "verbs": ["get", "patch"],
        }
    ]
    binding = one(objects, "RoleBinding")
    account = one(objects, "ServiceAccount")["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert binding["roleRef"]["kind"] == "Role" and binding["roleRef"]["name"] == NAME
    assert spec(objects)["serviceAccountName"] == account["name"]
    assert spec(objects)["automountServiceAccountToken"] is True


def test_an_apply_owns_no_key_of_the_wanted_model(objects: list[Document]) -> None:
    wanted = one(objects, "ConfigMap", "wanted-model")
    assert not {"data", "binaryData", "immutable"} & wanted.keys()


def policies() -> list[Any]:
    """Those of the stages, and of all review apps."""
    shared = build(K8S / "overlays" / "review" / "namespace", NAME)
    found = [rendered(overlay) for overlay in OVERLAYS]
    return [by_kind(objects, "NetworkPolicy")["spec"] for objects in (*found, shared)]


def callers(policy: Any) -> set[str]:
    """Namespaces whose pods reach the service."""
    (entry,) = policy["ingress"]
    (peer,) = entry["from"]
    (chosen,) = peer["namespaceSelector"]["matchExpressions"]
    assert (chosen["key"], chosen["operator"]) == ("kubernetes.io/metadata.name", "In")
    assert [port["port"] for port in entry["ports"]] == [8000]
    return set(chosen["values"])


def test_pods_are_reached_from_the_namespaces_of_their_values() -> None:
    folders = [*(overlay.partition("-")[0] for overlay in OVERLAYS), "review/namespace"]
    for folder, policy in zip(folders, policies(), strict=True):
        values = yaml.safe_load((K8S / "overlays" / folder / "values.yaml").read_text("utf-8"))
        assert callers(policy) == set(values["callers"])
        assert policy["egress"][2]["ports"] == values["egress"]


def test_pods_ask_for_names_wherever_a_cluster_answers() -> None:
    """NodeLocal DNSCache, GKE's Cloud DNS, OpenShift's pods, IPv6."""
    both = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    for policy in policies():
        anywhere, openshift, _ = policy["egress"]
        assert anywhere == {"ports": both}  # no `to`: at any address of both families
        assert {port["port"] for port in openshift["ports"]} == {5353}
        (peer,) = openshift["to"]
        assert peer["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": "openshift-dns"
        }


def test_pods_reach_both_families_but_not_the_clouds_credentials() -> None:
    for policy in policies():
        rule = policy["egress"][2]
        blocks = [ip_network(peer["ipBlock"]["cidr"]) for peer in rule["to"]]
        assert [block.prefixlen for block in blocks] == [0, 0]
        holes = [ip_network(hole) for peer in rule["to"] for hole in peer["ipBlock"]["except"]]
        for address in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254"):
            assert any(ip_address(address) in hole for hole in holes), address


def test_pod_identity_opens_its_agent_alone() -> None:
    plain = one(rendered("staging"), "NetworkPolicy")["spec"]["egress"]
    opened = one(rendered("staging", chosen=["pod-identity"]), "NetworkPolicy")["spec"]["egress"]
    assert opened[:-1] == plain
    blocks = [peer["ipBlock"]["cidr"] for peer in opened[-1]["to"]]
    assert blocks == ["169.254.170.23/32", "fd00:ec2::23/128"]
    assert opened[-1]["ports"] == [{"protocol": "TCP", "port": 80}]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_argo_rollouts_changes_nothing_but_who_runs_the_pods(strategy: str) -> None:
    """The pods too are those of the Deployment: the settings' name with its hash among them."""
    plain, argo = rendered("production"), rendered(f"production-{strategy}")
    assert spec(plain) == spec(argo)
    ours = {"Deployment", "Rollout", "AnalysisTemplate", "HorizontalPodAutoscaler"}

    def rest(objects: list[Document]) -> list[str]:
        return sorted(json.dumps(item) for item in objects if item["kind"] not in ours)

    assert rest(plain) == rest(argo)
    kinds = [item["kind"] for item in argo]
    assert "Deployment" not in kinds
    assert kinds.index("AnalysisTemplate") < kinds.index("Rollout")  # which is invalid without it
    assert one(argo, "Rollout")["apiVersion"] == "argoproj.io/v1alpha1"
    assert "workloadRef" not in one(argo, "Rollout")["spec"]


def test_the_canary_is_judged_twice() -> None:
    objects = rendered("production-canary")
    canary = one(objects, "Rollout")["spec"]["strategy"]["canary"]
    analyses = [step["analysis"] for step in canary["steps"] if "analysis" in step]
    template = one(objects, "AnalysisTemplate")
    given = {item["name"] for item in template["spec"]["args"] if "value" not in item}
    assert len(analyses) == 2
    for analysis in analyses:
        assert analysis["templates"] == [{"templateName": template["metadata"]["name"]}]
        assert {item["name"] for item in analysis["args"]} == given


def test_an_analysis_looks_back_at_nothing_but_the_pods_it_judges() -> None:
    metrics = one(rendered("production-canary"), "AnalysisTemplate")["spec"]["metrics"]
    windows = [re.findall(r"\[(\d+m)\]", it["provider"]["prometheus"]["query"]) for it in metrics]
    window = max(seconds(text) for texts in windows for text in texts)
    delays = {seconds(item["initialDelay"]) for item in metrics}
    assert min(delays) > window


def test_blue_green_changes_the_service_over_and_is_judged_against_the_time_before() -> None:
    objects = rendered("production-blue-green")
    rollout = one(objects, "Rollout")["spec"]
    found = rollout["strategy"]["blueGreen"]
    assert found["activeService"] == one(objects, "Service")["metadata"]["name"]
    assert "scaleDownDelaySeconds" not in found  # the old pods stay until it has passed
    analysis = found["postPromotionAnalysis"]
    template = one(objects, "AnalysisTemplate")
    assert analysis["templates"] == [{"templateName": template["metadata"]["name"]}]
    needed = {item["name"] for item in template["spec"]["args"] if "value" not in item}
    assert {item["name"] for item in analysis["args"]} == needed | {"ago"}
    (ago,) = [item["value"] for item in analysis["args"] if item["name"] == "ago"]
    delay = max(seconds(item["initialDelay"]) for item in template["spec"]["metrics"])
    assert seconds(ago) > delay and rollout["progressDeadlineSeconds"] > delay


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rollout_waits_longer_than_its_steps_and_their_pods_take(strategy: str) -> None:
    found = one(rendered(f"production-{strategy}"), "Rollout")["spec"]
    analysis = one(rendered(f"production-{strategy}"), "AnalysisTemplate")["spec"]["metrics"]
    delay = max(seconds(item.get("initialDelay", "0s")) for item in analysis)
    steps = found["strategy"].get("canary", {}).get("steps", [{"analysis": {}}])
    judged = sum(delay for step in steps if "analysis" in step)
    moves = 1 + sum("setWeight" in step for step in steps)
    assert judged + moves * found["progressDeadlineSeconds"] <= TIMEOUTS[ROLLOUT]


def seconds(text: str) -> int:
    """A duration of Argo Rollouts: `6m`, `30s`."""
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def test_other_settings_are_another_pod_template(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    settings = tmp_path / "k8s" / "base" / "settings.env"
    settings.write_text(settings.read_text(encoding="utf-8") + "SERVICE_QUEUE=32\n")
    changed = for_version(render("staging", NAME, tmp_path / "k8s/overlays"), VERSION, IMAGE)
    assert spec(changed) != spec(rendered("staging"))


def test_a_version_changes_only_the_workload() -> None:
    before = render("staging", NAME, K8S / "overlays") if rendered("staging") else []
    after = for_version(before, VERSION, IMAGE)
    assert [item for item in after if item["kind"] != "Deployment"] == [
        item for item in before if item["kind"] != "Deployment"
    ]
    assert containers(before)["image"] == NAME  # the original is left alone
    for labelled in (one(after, "Deployment"), one(after, "Deployment")["spec"]["template"]):
        assert labelled["metadata"]["labels"]["app.kubernetes.io/version"] == "v1.2.0"


def test_the_mark_of_what_is_applied_changes_with_anything_that_is() -> None:
    objects = rendered("staging")

    def mark(objects: list[Document], image: str = IMAGE) -> str:
        found: str = one(for_version(objects, VERSION, image), "Deployment")["metadata"][
            "annotations"
        ][APPLIED]
        return found

    first = render("staging", NAME, K8S / "overlays")
    second = json.loads(json.dumps(first))
    one_ingress = next(item for item in second if item["kind"] == "Ingress")
    one_ingress["spec"]["rules"][0]["host"] = "elsewhere.example.com"
    assert (
        mark(first) == mark(first) == one(objects, "Deployment")["metadata"]["annotations"][APPLIED]
    )
    assert len({mark(first), mark(second), mark(first, IMAGE.replace("group", "other"))}) == 3


def test_broken_overlays_are_errors_that_name_the_fault(tmp_path: Path) -> None:
    rendered("staging")  # skips without kustomize
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    overlays = tmp_path / "k8s" / "overlays"
    with pytest.raises(TagError, match="stage: 'canary' is not a stage"):
        render("canary", NAME, overlays)
    without = [item for item in render("staging", NAME, overlays) if item["kind"] != "Deployment"]
    with pytest.raises(RolloutError, match="no Deployment has a container service"):
        for_version(without, VERSION, IMAGE)
    found = render("staging", NAME, overlays)
    containers(found)["env"].clear()
    with pytest.raises(RolloutError, match="has no SERVICE_RELEASE"):
        for_version(found, VERSION, IMAGE)
    (overlays / "staging" / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(RolloutError, match="overlays/staging: .*missing.yaml"):
        render("staging", NAME, overlays)


def test_each_stage_has_a_namespace_of_its_own() -> None:
    assert namespace(rendered("staging")) != namespace(rendered("production"))


def test_the_page_describes_every_object_that_ships() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    page = page.split("## The objects")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\| ([A-Z][\w, `.-]+?) \|", page)
    described = {kind.split()[0] for row in rows for kind in row.split(", ")}
    assert described == SHIPPED | ARGO | {"HTTPRoute"}
    canary = {item["kind"] for item in rendered("production-canary")}
    assert SHIPPED | ARGO <= canary | {"Deployment"}


def test_the_pipeline_has_the_rights_of_a_rollout_and_can_delete_nothing() -> None:
    rendered("staging")  # skips without kustomize
    objects = build(K8S / "setup", NAME)
    (role,) = [item for item in objects if item["kind"] == "ClusterRole"]
    bindings = [item for item in objects if item["kind"] == "RoleBinding"]
    rights: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            rights.setdefault(resource, set()).update(rule["verbs"])
    plurals = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}
    for kind in SHIPPED | ARGO | {"HTTPRoute"}:
        assert {"get", "patch", "create"} <= rights[plurals.get(kind, kind.lower() + "s")]
    assert {"replicasets", "pods"} <= rights.keys()
    assert not {"delete", "deletecollection", "update", "escalate", "bind", "*"} & set().union(
        *rights.values()
    )
    assert not {"secrets", "pods/exec", "namespaces"} & rights.keys()
    assert {binding["metadata"]["namespace"] for binding in bindings} == spaces().keys()
    assert spaces().keys() == {namespace(rendered(overlay)) for overlay in OVERLAYS}


def by_kind(objects: list[Document], kind: str) -> Any:
    """The one object of a kind."""
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def spec(objects: list[Document]) -> Any:
    """The pod."""
    return workload(objects)["spec"]["template"]["spec"]


def containers(objects: list[Document]) -> Any:
    """The one container."""
    (container,) = spec(objects)["containers"]
    return container


def environment(objects: list[Document]) -> dict[str, str]:
    """Its variables, as a cluster resolves them."""
    container = containers(objects)
    (name,) = [item["configMapRef"]["name"] for item in container["envFrom"]]
    found = dict(one(objects, "ConfigMap", name)["data"])
    return found | {item["name"]: item["value"] for item in container["env"]}


def size(text: str) -> int:
    """Bytes."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]
