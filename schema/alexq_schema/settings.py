"""Settings: environment variables with the prefix ``ALEXQ_``, read once in each composition root.

A secret may be in a file instead: ``ALEXQ_SECRETS_DIR`` names the folder, each file is named as its variable.
A running embedded stack (``alexq up``) describes itself in ``stack.json``; commands that are given
no service addresses of their own find it there.

Longer than other modules: it is the one list of all settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from alexq_schema import secret_files
from alexq_schema.errors import SettingsError, StackNotRunningError
from alexq_schema.names import PrecisionChoice
from alexq_schema.queues import QueueName


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_data_dir() -> Path:
    """Return the folder that holds everything alexq keeps, unless ``ALEXQ_DATA_DIR`` names another."""
    return Path(platformdirs.user_data_dir("alexq"))


LogFormat = Literal["console", "json"]
"""Log lines for people, or for machines."""


class Settings(BaseSettings):
    """All settings. Seconds and bytes everywhere."""

    model_config = SettingsConfigDict(env_prefix="ALEXQ_", extra="ignore", frozen=True)

    data_dir: Path = Field(default_factory=default_data_dir)
    """Where the embedded stack keeps its broker, database, images and models."""

    secrets_dir: Path | None = None
    """Folder of secrets, one a file, named as its variable: ``alexq_database_password``."""

    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL: ``postgresql+psycopg://…`` or ``sqlite:////path``."""
    database_password: str = Field(default="", repr=False)
    """Put into ``database_url`` where that has none."""
    broker_url: str = Field(default="", repr=False)
    """``redis://``, ``rediss://`` or ``sentinel://`` URL of Redis ≥ 7 or Valkey."""
    broker_password: str = Field(default="", repr=False)
    """Put into ``broker_url`` where that has none."""
    images_url: str = ""
    """Image store: ``file:///path`` or ``s3://bucket/prefix``; by default ``images`` in the data folder."""
    models_dir: Path = Path()
    """Folder of model versions, ``<name>/<version>``; by default ``models`` in the data folder."""

    queue: QueueName = ""
    """Queue that a worker serves; by default the one without a name."""
    model: str = ""
    """Model version to serve, ``name/version``; by default the one that ``alexq models activate`` chose."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?|cuda:\d+,cuda:\d+|cpu,cpu)$")
    precision: PrecisionChoice = "fp32"
    """Arithmetic of the model; ``auto``: the fastest that the device has and that agrees with fp32."""
    max_batch: int = Field(default=64, ge=1, le=4096)
    """Images in one forward pass, at most."""
    decode_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    fetch_threads: int = Field(default=32, ge=1, le=1024)
    """Images read at once ahead of decoding, where the image store is remote."""

    max_image_bytes: int = Field(default=20 * 2**20, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Width × height above which an image is refused before it is decoded."""

    max_attempts: int = Field(default=5, ge=1)
    """Attempts that end in an error of ours before a job is dead."""
    retry_pause_s: float = Field(default=2.0, gt=0)
    """Pause after a job's first error of ours; four times as long after each further one, with jitter."""
    max_crashes: int = Field(default=3, ge=1)
    """Deaths of the worker process that held a job before the job is dead."""
    pinned_models: int = Field(default=1, ge=1)
    """Model versions that a worker keeps in memory for jobs that name one, beside the active one."""
    heartbeat_s: float = Field(default=2.0, gt=0)
    silent_after_s: float = Field(default=10.0, gt=0)
    """Age of a worker's last sign of progress after which its jobs return to the queue."""
    unhealthy_after_s: float = Field(default=45.0, gt=0)
    """Time without progress, with work at hand, after which a worker reports itself unhealthy and ends."""
    health_file: Path = Path()
    """Rewritten by a healthy worker at every heartbeat; ``{pid}`` in it becomes the process id."""
    stop_grace_s: float = Field(default=30.0, gt=0)
    """Time that a stopping worker gives to the batches in flight."""
    publish_timeout_s: float = Field(default=5.0, gt=0)
    """Time that a producer gives the broker; accepted jobs go out later if it is silent."""

    isolation_timeout_s: float = Field(default=30.0, gt=0)
    """Time for a job that runs alone in a child, because a process died while it held it."""
    isolation_memory_bytes: int = Field(default=2**30, ge=64 * 2**20)
    """Memory that such a child may take for its job, above what the model takes."""

    retain_jobs_s: float = Field(default=30 * 86_400.0, ge=0)
    """Age at which ended jobs are deleted; 0 keeps them for ever."""
    retain_images_s: float = Field(default=7 * 86_400.0, ge=0)
    """Time after a job's end for which its image is kept; 0: as long as the job. A dead job's stays."""

    monitor_address: str = "127.0.0.1"
    monitor_port: int = Field(default=5555, ge=0, le=65535)
    """Port of the Flower dashboard."""
    monitor_login: str = Field(default="", pattern=r"^([^:,]+:[^:,]+)?$", repr=False)
    """``name:password`` that the dashboard asks for, instead of ``FLOWER_BASIC_AUTH``."""
    monitor_admin: bool = False
    """The dashboard may act: redrive, cancel, activate, and what Flower does to workers."""

    scale_min_workers: int = Field(default=0, ge=0)
    scale_max_workers: int = Field(default=20, ge=1)
    """The dashboard wants at least and at most so many workers."""
    scale_drain_s: float = Field(default=60.0, gt=0)
    """Time in which it wants what waits worked off."""
    scale_interactive_drain_s: float = Field(default=10.0, gt=0)
    """The same of what waits in the interactive lane."""
    scale_startup_s: float = Field(default=60.0, ge=0)
    """From the wish for a worker to its first job."""
    scale_down_after_s: float = Field(default=120.0, gt=0)
    """Time for which fewer workers must have been enough before fewer are wanted."""
    scale_rate: float = Field(default=0.0, ge=0)
    """Images/s of one worker, to go by until it is measured; 0: the first worker shows it."""

    gateway_address: str = "127.0.0.1"
    gateway_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the HTTP gateway."""
    gateway_body_timeout_s: float = Field(default=20.0, gt=0)
    """Silence in the middle of a request after which it is cut."""
    image_url_hosts: str = ""
    """Hosts that images given by URL may come from, with commas between: ``example.com``,
    ``*.example.com`` or ``*``; by default none is fetched."""
    image_url_private: bool = False
    """Whether those hosts may be in loopback and private networks."""
    image_url_timeout_s: float = Field(default=10.0, gt=0)
    """Time for one image to be fetched, from the look-up of its host to its last byte."""
    max_submission_bytes: int = Field(default=2 * 2**30, ge=1)
    """Bytes of one upload of many images over HTTP, packed or unpacked."""
    max_submission_images: int = Field(default=10_000, ge=1, le=100_000)
    """Images of one upload over HTTP."""
    gateway_rate: str = ""
    """Images of one tenant over HTTP in a time: ``200/second;10000/minute``; empty: any number."""
    max_queued_jobs_per_tenant: int = Field(default=0, ge=0)
    """Unfinished jobs of one tenant, at most, for more to be accepted over HTTP; 0: any number."""
    max_queued_bytes_per_tenant: int = Field(default=0, ge=0)
    """Bytes of their images; 0: any number."""
    max_drain_s: float = Field(default=0.0, ge=0)
    """Estimated time for what waits above which nothing more is accepted over HTTP; 0: none."""
    dashboard_url: str = Field(default="", pattern=r"^(https?://.*)?$")
    """Where people reach the Flower dashboard; the gateway's page links there."""

    webhook_private: bool = False
    """Whether webhooks may lead to loopback and private networks."""

    server: str = ""
    """Address of the gateway that the HTTP client uses, ``https://host``."""
    api_key: str = Field(default="", repr=False)
    """The key that it sends."""

    metrics_address: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of a worker's metrics; 0: none. Gateway and dashboard have theirs on their own ports."""

    log_format: LogFormat = "console"

    @model_validator(mode="before")
    @classmethod
    def _defaults_in_the_data_folder(cls, values: dict[str, Any]) -> dict[str, Any]:
        data_dir = Path(values.get("data_dir") or default_data_dir()).expanduser().absolute()
        values["data_dir"] = data_dir
        secret_files.put_passwords(values)
        if not values.get("images_url"):
            values["images_url"] = (data_dir / "images").as_uri()
        if not values.get("models_dir"):
            values["models_dir"] = data_dir / "models"
        if not values.get("health_file"):
            values["health_file"] = data_dir / "health" / "{pid}.json"
        return values

    @model_validator(mode="after")
    def _silence_is_longer_than_a_heartbeat(self) -> Self:
        if self.silent_after_s < 2 * self.heartbeat_s:
            raise ValueError(
                f"ALEXQ_SILENT_AFTER_S ({self.silent_after_s}) must be at least twice "
                f"ALEXQ_HEARTBEAT_S ({self.heartbeat_s}), or healthy workers lose their jobs"
            )
        return self

    @model_validator(mode="after")
    def _fewest_workers_are_not_more_than_most(self) -> Self:
        if self.scale_min_workers > self.scale_max_workers:
            raise ValueError(
                f"ALEXQ_SCALE_MIN_WORKERS ({self.scale_min_workers}) is above "
                f"ALEXQ_SCALE_MAX_WORKERS ({self.scale_max_workers})"
            )
        return self

    @model_validator(mode="after")
    def _private_hosts_have_names(self) -> Self:
        if self.image_url_private and "*" in (host.strip() for host in self.image_url_hosts.split(",")):
            raise ValueError(
                "ALEXQ_IMAGE_URL_PRIVATE=true with ALEXQ_IMAGE_URL_HOSTS=* would let every caller reach "
                "every host inside: name the hosts"
            )
        return self

    @model_validator(mode="after")
    def _secrets_are_there(self) -> Self:
        if self.secrets_dir is not None:
            urls = {"database": self.database_url, "broker": self.broker_url}
            secret_files.require_passwords(urls, self.model_fields_set, self.secrets_dir)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from; what an earlier one gives counts."""
        files = secret_files.source(settings_cls)
        return (init_settings, env_settings, *([] if files is None else [files]))

    @property
    def webhooks_health_file(self) -> Path:
        """Rewritten by a webhook worker whenever it looks for work."""
        return self.health_file.with_name(f"webhooks-{self.health_file.name}")

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Return the settings from the environment and ``overrides``.

        Raises:
            SettingsError: a value is malformed, a secret is missing or cannot be read; names the variable.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            problems = "; ".join(
                f"ALEXQ_{'_'.join(map(str, p['loc'])).upper()}{cls._shown(p)}: {p['msg']}"
                if p["loc"]
                else p["msg"].removeprefix("Value error, ")
                for p in error.errors()
            )
            raise SettingsError(f"settings refused: {problems}") from error

    @classmethod
    def _shown(cls, problem: ErrorDetails) -> str:
        """Return the value that was refused, unless it is a secret."""
        field = cls.model_fields.get(str(problem["loc"][0]))
        return "" if field is None or not field.repr else f"={problem.get('input')!r}"

    @classmethod
    def connected(cls, **overrides: Any) -> Self:
        """Return settings that name a database and a broker: given ones, else the running stack's.

        Raises:
            SettingsError: a value is malformed, or one of the two is set without the other.
            StackNotRunningError: neither is set and no embedded stack runs in the data folder.
        """
        settings = cls.load(**overrides)
        if settings.database_url and settings.broker_url:
            return settings
        if settings.database_url or settings.broker_url:
            missing = "ALEXQ_BROKER_URL" if settings.database_url else "ALEXQ_DATABASE_URL"
            raise SettingsError(f"{missing} is not set; set it beside its counterpart, or unset both")
        stack = StackFile.read(settings.data_dir)
        dashboard_url = settings.dashboard_url or stack.monitor_url
        return cls.load(**{**stack.settings(), "dashboard_url": dashboard_url, **overrides})


class StackFile(BaseModel):
    """``stack.json``: how to reach the embedded stack that runs in a data folder (mode 0600)."""

    pid: int
    """The supervisor's process id."""
    database_url: str = Field(repr=False)
    broker_url: str = Field(repr=False)
    images_url: str
    models_dir: Path
    monitor_url: str
    gateway_url: str

    def settings(self) -> dict[str, Any]:
        """Return the fields that override :class:`Settings`."""
        return self.model_dump(include={"database_url", "broker_url", "images_url", "models_dir"})

    @staticmethod
    def path(data_dir: Path) -> Path:
        """Return where a data folder's ``stack.json`` lies."""
        return data_dir / "stack.json"

    @classmethod
    def read(cls, data_dir: Path) -> Self:
        """Return the description of the stack that runs in ``data_dir``.

        Raises:
            StackNotRunningError: there is none, or its supervisor is gone.
        """
        try:
            stack = cls.model_validate_json(cls.path(data_dir).read_bytes())
            os.kill(stack.pid, 0)
        except (OSError, ValidationError) as error:
            raise StackNotRunningError(
                f"no alexq stack runs in {data_dir}: start one with `alexq up`, "
                "or set ALEXQ_DATABASE_URL and ALEXQ_BROKER_URL"
            ) from error
        return stack

    def write(self, data_dir: Path) -> None:
        """Write ``stack.json`` atomically, readable by its owner only."""
        path = self.path(data_dir)
        draft = path.with_suffix(".tmp")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
            file.write(self.model_dump_json(indent=2))
        draft.replace(path)
