"""The manifests of deploy/kubernetes are what Kubernetes takes, and promise what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from alexq.cli.secret_files import MADE
from alexq_schema.settings import Settings
from tests.helpers import compose, dockerfile
from tests.helpers.composed import ALEXQ_IMAGES
from tests.helpers.kubernetes import (
    ALL,
    FOLDER,
    containers,
    needs_kustomize,
    of_kind,
    pods,
    rendered,
    written,
)

VERSION = "1.37"
SETTINGS = {f"ALEXQ_{name.upper()}" for name in Settings.model_fields}
KEDA = Path(__file__).parents[1] / "schemas/keda-scaledobject.yaml"


def validate(each: dict[str, Any]) -> None:
    """Raise where Kubernetes, or KEDA, would refuse the object."""
    if each["kind"] == "ScaledObject":
        version = yaml.safe_load(KEDA.read_text())["spec"]["versions"][0]
        assert each["apiVersion"] == f"keda.sh/{version['name']}"
        schema = _strict(version["schema"]["openAPIV3Schema"])
        jsonschema_rs.validator_for(schema).validate(each)
        return
    import kubernetes_validate

    kubernetes_validate.validate(each, VERSION, strict=True)


def _strict(schema: Any) -> Any:
    """Return an OpenAPI schema that refuses what it does not name, but in ``metadata``."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(each) for key, each in schema.items()}
    if isinstance(schema.get("properties"), dict):
        strict["additionalProperties"] = False
        strict["properties"].update(
            {"metadata": {}} if "metadata" in schema["properties"] and "spec" in schema["properties"] else {}
        )
    return strict


def test_every_object_as_written_is_valid() -> None:
    seen = 0
    for path, each in written():
        if path.name != "kustomization.yaml":
            validate(each)
            seen += 1
    assert seen > 20


@needs_kustomize
@pytest.mark.parametrize("name", ALL)
def test_every_object_as_put_together_is_valid(name: str) -> None:
    objects = rendered(name)
    for each in objects:
        validate(each)

    assert all(each["kind"] == "Namespace" or each["metadata"]["namespace"] == "alexq" for each in objects)


def test_what_is_misspelt_is_refused() -> None:
    worker = next(each for path, each in written() if path.name == "worker.yaml")
    container = worker["spec"]["template"]["spec"]["containers"][0]
    container["readinesProbe"] = container.pop("readinessProbe")

    with pytest.raises(Exception, match="readinesProbe"):
        validate(worker)


@needs_kustomize
@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_restricted(name: str) -> None:
    """By the Pod Security Standard `restricted`, and a read-only root."""
    objects = rendered(name)
    labels = of_kind(objects, "Namespace")["alexq"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(objects).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {kind for volume in pod["volumes"] for kind in volume} - {"name"} <= {
            "configMap",
            "emptyDir",
            "persistentVolumeClaim",
            "secret",
        }
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@needs_kustomize
@pytest.mark.parametrize("name", ALL)
def test_every_variable_is_a_setting_and_no_service_adds_one(name: str) -> None:
    objects = rendered(name)
    settings = next(
        each for each in of_kind(objects, "ConfigMap").values() if "ALEXQ_IMAGES_URL" in each["data"]
    )
    named = set(settings["data"])
    for pod in pods(objects).values():
        assert pod["enableServiceLinks"] is False
        for container in containers(pod):
            variables = [each["name"] for each in container.get("env", [])]
            named |= {each for each in variables if container["image"].startswith("alexq-")}

    assert named <= SETTINGS


def image_of(container: dict[str, Any]) -> str:
    return ALEXQ_IMAGES.get(container["image"].partition(":")[0], "")


@needs_kustomize
def test_pods_run_what_compose_runs() -> None:
    """So that what the test of docker-compose.yml executes is what runs here."""
    services = compose.load()["services"]
    of_service = {
        ("alexq-migrate", "migrate"): "migrate",
        ("alexq-migrate", "first-key"): "first-key",
        ("alexq-gateway", "gateway"): "gateway",
        ("alexq-webhooks", "webhooks"): "webhooks",
        ("alexq-worker", "worker"): "worker-cpu",
        ("alexq-monitor", "monitor"): "monitor",
        ("redis", "redis"): "redis",
        ("postgres", "postgres"): "postgres",
    }
    objects = rendered("overlays/local")
    maps = of_kind(objects, "ConfigMap")
    for (maker, name), service_name in of_service.items():
        container = next(each for each in containers(pods(objects)[maker]) if each["name"] == name)
        service = services[service_name]
        assert container["args"] == service["command"], name
        assert container["image"].partition(":")[0] == service["image"].partition(":")[0]
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        for source in container.get("envFrom", []):
            variables.update(maps[source["configMapRef"]["name"]]["data"])
        given = compose.environment(service)
        differing = {key for key in variables.keys() | given.keys() if variables.get(key) != given.get(key)}
        assert differing <= {
            "ALEXQ_SECRETS_DIR",
            "ALEXQ_PRECISION",
            "ALEXQ_QUEUE",
            "ALEXQ_MONITOR_ADMIN",
            "PGDATA",
            "POSTGRES_PASSWORD_FILE",
        }
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        writable = {path for path in compose.mounts(service) if path.startswith(("/data", "/var"))}
        assert writable <= mounted

    redis = (
        (FOLDER / "components/stores/redis.conf").read_text().replace("/run/secrets/alexq/", "/run/secrets/")
    )
    own = (compose.ROOT / "deploy/compose/redis.conf").read_text()
    assert redis.splitlines()[1:] == own.splitlines()[1:]


@needs_kustomize
@pytest.mark.parametrize("name", ALL)
def test_probes_are_the_images_own_health_checks(name: str) -> None:
    for maker, pod in pods(rendered(name)).items():
        for container in pod["containers"]:
            if not image_of(container) or "readinessProbe" not in container:
                continue
            image = dockerfile.images()[image_of(container)]
            ready, alive = container["readinessProbe"], container["livenessProbe"]
            if "exec" in ready:
                command = ready["exec"]["command"]
                assert alive["exec"]["command"] == [*command[:-1], "--or-starting", command[-1]]
                assert command == image.healthcheck or maker == "alexq-webhooks"
            else:
                port = next(each for each in container["ports"] if each["name"] == alive["httpGet"]["port"])
                url = f"http://127.0.0.1:{port['containerPort']}{alive['httpGet']['path']}"
                assert image.healthcheck[-1] == url


@needs_kustomize
@pytest.mark.parametrize("name", ALL)
def test_names_lead_somewhere(name: str) -> None:
    objects = rendered(name)
    made = pods(objects)
    names = {kind: of_kind(objects, kind) for kind in ("ConfigMap", "PersistentVolumeClaim")}
    claimed = {
        maker: {claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]}
        for maker, each in of_kind(objects, "StatefulSet").items()
    }
    for maker, pod in made.items():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] == "alexq"
                assert {item["key"] for item in volume["secret"]["items"]} <= set(MADE)
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names["PersistentVolumeClaim"]
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"]
        for container in containers(pod):
            assert {
                mount["name"] for mount in container.get("volumeMounts", [])
            } <= volumes.keys() | claimed.get(maker, set())
    for budget in of_kind(objects, "PodDisruptionBudget").values():
        assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in made
    for policy in of_kind(objects, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        chosen = list(selector.get("matchLabels", {}).values())
        chosen += [value for rule in selector.get("matchExpressions", []) for value in rule["values"]]
        assert set(chosen) <= made.keys()


@needs_kustomize
def test_a_worker_has_time_to_drain_and_a_gpu_unless_on_cpus() -> None:
    for name in ALL:
        pod = pods(rendered(name))["alexq-worker"]
        [container] = pod["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert pod["terminationGracePeriodSeconds"] >= float(variables["ALEXQ_STOP_GRACE_S"]) + 10
        has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert (has_gpu, variables["ALEXQ_DEVICE"]) in ((True, "cuda"), (False, "cpu"))
        assert has_gpu == (name in ("base", "overlays/autoscaled"))
        assert "lifecycle" not in container


@needs_kustomize
def test_what_is_not_allowed_is_denied() -> None:
    policies = of_kind(rendered("base"), "NetworkPolicy")

    assert policies["alexq-nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
