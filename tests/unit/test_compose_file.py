"""What docker-compose.yml, .env.example and the Dockerfile promise, read off the files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from alexq_schema.settings import Settings
from tests.helpers import compose, dockerfile
from tests.helpers.composed import ALEXQ_IMAGES

FILE = compose.load()
SERVICES: dict[str, Any] = FILE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] in ALEXQ_IMAGES]
SETTINGS = {f"ALEXQ_{name.upper()}" for name in Settings.model_fields}
ONE_SHOTS = {"secrets", "migrate", "first-key", "model-pull"}


def test_every_variable_is_a_setting() -> None:
    given = {name for service in OURS for name in compose.environment(SERVICES[service])}
    in_images = {name for image in dockerfile.images().values() for name in image.env}

    assert {name for name in given | in_images if name.startswith("ALEXQ_")} <= SETTINGS
    assert all(name.startswith("ALEXQ_") for name in given)


def test_every_variable_of_the_files_is_explained_with_its_default() -> None:
    paths = (compose.PATH, compose.ROOT / "deploy/compose/dashboards.yml")
    used = {name: default for path in paths for name, default in compose.VARIABLE.findall(path.read_text())}
    explained = dict(
        line.split("=", 1)
        for line in (compose.ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )

    assert explained == {**used, "COMPOSE_PROFILES": ""}


def test_only_the_gateway_is_published() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert SERVICES["gateway"]["ports"] == ["127.0.0.1:8080:8080"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    image = dockerfile.images().get(ALEXQ_IMAGES.get(service["image"], ""))

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = service.get("user") or (image and image.user)
    assert (user or "an image's own") not in ("root", "0", "0:0")
    if name != "secrets":
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
        assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    if name not in ONE_SHOTS:
        assert (image and image.healthcheck) or service["healthcheck"]["test"]


def test_large_uploads_pass_through_a_disk() -> None:
    assert SERVICES["gateway"]["tmpfs"] == []
    assert compose.mounts(SERVICES["gateway"])["/tmp"] == "spool"


def test_a_worker_can_be_there_many_times() -> None:
    for name in ("worker", "worker-cpu"):
        assert not {"container_name", "ports", "hostname"} & SERVICES[name].keys()


def test_no_worker_starts_without_a_model_or_before_the_tables_are_there() -> None:
    for name in ("worker", "worker-cpu"):
        needs = {other: how["condition"] for other, how in SERVICES[name]["depends_on"].items()}
        assert needs["model-pull"] == needs["migrate"] == "service_completed_successfully"
        assert SERVICES[name]["volumes"][-1] == "models:/data/models:ro"


def test_every_one_shot_is_waited_for_by_what_goes_on() -> None:
    """Else `docker compose up --wait` takes its end for a failure."""
    awaited = {
        needed
        for name, service in SERVICES.items()
        for needed, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully" and name not in ONE_SHOTS
    }

    assert awaited == ONE_SHOTS - {"secrets"}


def test_a_gpu_is_asked_for_unless_the_profile_is_cpu() -> None:
    reserved = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]

    assert reserved == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert compose.environment(SERVICES["worker"])["ALEXQ_DEVICE"] == "cuda"
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]
    assert "reservations" not in SERVICES["worker-cpu"]["deploy"]["resources"]
    assert compose.environment(SERVICES["worker-cpu"])["ALEXQ_DEVICE"] == "cpu"


def test_a_worker_is_given_longer_than_it_takes_to_stop() -> None:
    for name in ("worker", "worker-cpu"):
        grace_s = float(compose.environment(SERVICES[name])["ALEXQ_STOP_GRACE_S"])
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= grace_s + 10


def test_what_is_named_is_declared_and_is_there() -> None:
    for service in SERVICES.values():
        for source in compose.mounts(service).values():
            kind, _, name = source.partition(":")
            if kind in ("secret", "config"):
                assert name in FILE[f"{kind}s"]
            elif "/" not in source:
                assert source in FILE["volumes"]
        assert set(service.get("networks", [])) <= FILE["networks"].keys()
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
    for config in FILE["configs"].values():
        assert (compose.ROOT / config["file"]).is_file()


def test_images_are_made_of_extras_that_exist_and_only_the_workers_has_torch() -> None:
    extras = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    images = dockerfile.images()
    installed = {
        name: re.findall(r"\.\[(\w+)\]", " ".join(images[f"build-{name}"].steps))[0]
        for name in ALEXQ_IMAGES.values()
    }

    assert installed == {name: name for name in ALEXQ_IMAGES.values()}
    with_torch = {name for name in installed if any(each.startswith("torch") for each in extras[name])}
    assert with_torch == {"worker"}
    assert all(
        "-c constraints.txt" in step
        for image in images.values()
        for step in image.steps
        if "pip install" in step
    )


@pytest.mark.parametrize("name", ALEXQ_IMAGES.values())
def test_an_image_runs_as_a_numbered_user_below_tini(name: str) -> None:
    image = dockerfile.images()[name]

    assert re.fullmatch(r"\d{4,}:\d{4,}", image.user)
    assert image.entrypoint == ["/usr/bin/tini", "--", "alexq"]
    assert image.labels.keys() >= {
        f"org.opencontainers.image.{key}"
        for key in ("title", "description", "version", "revision", "licenses")
    }


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)
def test_prometheus_takes_its_configuration_and_finds_the_services(tmp_path: Path) -> None:
    written = (compose.ROOT / FILE["configs"]["prometheus"]["file"]).read_text()
    [key] = re.findall(r"/run/secrets/(\w+)", written)
    assert key in SERVICES["prometheus"]["secrets"]
    (tmp_path / "key").touch()
    (tmp_path / "prometheus.yml").write_text(written.replace(f"/run/secrets/{key}", str(tmp_path / "key")))
    shutil.copy(compose.ROOT / FILE["configs"]["alerts"]["file"], tmp_path / "alerts.yml")

    done = subprocess.run(
        ["promtool", "check", "config", "--lint-fatal", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {each["job_name"]: each for each in yaml.safe_load(written)["scrape_configs"]}
    for job, service, variable in (
        ("alexq-monitor", "monitor", "ALEXQ_MONITOR_PORT"),
        ("alexq-gateway", "gateway", "ALEXQ_GATEWAY_PORT"),
    ):
        port = compose.environment(SERVICES[service])[variable]
        assert jobs[job]["static_configs"] == [{"targets": [f"{service}:{port}"]}]
    [workers] = jobs["alexq-worker"]["dns_sd_configs"]
    assert workers["names"] == ["worker", "worker-cpu"]
    for name in workers["names"]:
        assert compose.environment(SERVICES[name])["ALEXQ_METRICS_PORT"] == str(workers["port"])


def test_what_images_are_made_of_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (compose.ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [step.split()[1:-1] for step in dockerfile.images()["build"].steps if step.startswith("COPY")]

    assert {each for words in copied for each in words} == sent
