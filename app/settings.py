"""Every setting of the service, read from `SECATEUR_*` environment variables and nowhere else."""

import ipaddress
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

GIB = 1024**3
MIB = 1024**2


class Settings(BaseSettings):
    """Settings of the API and of the workers; both read the same ones, so that they agree on home and database."""

    model_config = SettingsConfigDict(env_prefix="SECATEUR_", extra="ignore", frozen=True)

    home: Path = Field(
        default=Path("~/.local/share/secateur"),
        description="Data folder: the SQLite file, uploaded and produced files, scratch space of workers.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL; empty means the file `secateur.db` in `home`. "
        "Postgres: `postgresql+psycopg://user:password@host/database`.",
    )
    store_url: str = Field(
        default="",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.~/-]*)?)?$",
        description="Where files are kept: empty for a folder in `home`, or `s3://bucket/prefix`.",
    )
    store_endpoint: str = Field(
        default="",
        pattern=r"^(https?://.+)?$",
        description="Address of an S3-compatible service; empty: `AWS_ENDPOINT_URL_S3`, or AWS itself.",
    )
    store_region: str = Field(default="", description="Region of the bucket; empty: `AWS_REGION`.")
    store_access_key_id: str = Field(
        default="",
        description="Access key of the bucket; empty: the usual AWS variables, or the role of the machine.",
    )
    store_secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret of that access key.", json_schema_extra={"shown": ""}
    )
    store_allow_http: bool = Field(
        default=False,
        description="Speak plain http with an endpoint that asks for it; keys and files are then readable.",
    )
    store_presign: bool = Field(
        default=False,
        description="Answer downloads of artifacts with a redirect to the bucket (signed, good for 5 minutes) instead of "
        "passing the bytes through. Clients must reach the endpoint; needs an access key, not a role.",
    )
    cache_bytes: int = Field(
        default=16 * GIB,
        ge=0,
        description="Most bytes of files from a bucket that a machine keeps in `home` for its workers.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8117, ge=0, le=65535, description="Port the API listens on; 0 lets the system choose.")
    auth: Literal["off", "keys"] | None = Field(
        default=None,
        description="`keys`: every request needs an API key; `off`: everybody is the administrator, which is refused "
        "where other machines can reach the API. By default `off` on a loopback address, else `keys`.",
        json_schema_extra={"shown": ""},
    )
    max_requests_per_minute: int = Field(
        default=6000,
        ge=0,
        description="Most requests of one key with all that were made with it, or of one client address (of IPv6 a /64) where nobody has "
        "keys, counted by each API process; 0: any.",
    )
    max_uploads_per_hour: int = Field(default=600, ge=0, description="Most uploads of one key or address; 0: any.")
    max_refusals_per_minute: int = Field(
        default=60,
        ge=0,
        description="Requests without a right key from one address (of IPv6 a /64) that get a 401 and an audit row; more get a 429; 0: any.",
    )
    max_active_jobs: int = Field(
        default=0, ge=0, description="Most jobs and table builds of a project that have not ended; 0: any."
    )
    max_stored_bytes: int = Field(
        default=0, ge=0, description="Most bytes of a project's models, datasets and files of jobs; 0: any."
    )
    agent_lease_s: float = Field(
        default=60.0,
        gt=0,
        description="Silence of an agent after which it counts as offline and its measurement goes to another one.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host names, comma-separated, under which clients may reach the API besides the loopback names "
        "and `host`; `*` accepts any.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Web origins, comma-separated (`https://tools.example.com`), whose pages may call the API.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log record that is written."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="`json`: one object a line; `console`: for people."
    )

    otlp_endpoint: str = Field(
        default="",
        description="Address of an OpenTelemetry collector that takes traces over HTTP (`http://127.0.0.1:4318`); "
        "empty: no traces. Headers for it come from `OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    metrics: Literal["api", "port", "off"] = Field(
        default="api",
        description="Where Prometheus metrics are served: at `/metrics` of the API, of a port of their own, or nowhere.",
    )
    metrics_port: int = Field(
        default=9117, ge=0, le=65535, description="Port of the metrics where they have their own."
    )
    metrics_cache_s: float = Field(
        default=5.0, ge=0, description="How long figures read from the database answer further scrapes."
    )

    max_body_bytes: int = Field(default=MIB, ge=1024, description="Largest JSON body of a request.")
    max_model_bytes: int = Field(default=2 * GIB, ge=1024, description="Largest model file.")
    max_dataset_bytes: int = Field(default=8 * GIB, ge=1024, description="Largest dataset zip.")
    max_lut_bytes: int = Field(
        default=64 * MIB, ge=1024, description="Largest latency table that is imported, and largest result of an agent."
    )
    keep_jobs_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after which a job that has ended goes, with its events and files; 0: never.",
    )
    keep_checkpoints_hours: float = Field(
        default=24.0,
        ge=0,
        description="Hours after which the checkpoints and step results of a job that succeeded go; nobody else needs them.",
    )
    keep_audit_days: float = Field(
        default=365.0, ge=0, description="Days after which a row of the audit trail goes; 0: never."
    )
    gc_every_s: float = Field(
        default=3600.0, gt=0, description="How often one of the API's processes removes what is no longer needed."
    )
    gc_margin_s: float = Field(
        default=3600.0,
        ge=60,
        description="Age of a stored file that nothing names, and of an abandoned temporary one, at which it goes.",
    )
    uploads_hours: float = Field(
        default=24.0,
        gt=0,
        description="How long an upload in several pieces waits for its next one before it is forgotten.",
    )
    max_zip_entries: int = Field(default=500_000, ge=1, description="Most files a dataset zip may hold.")
    max_zip_bytes: int = Field(default=32 * GIB, ge=1024, description="Most bytes a dataset zip may unpack to.")
    max_zip_ratio: float = Field(
        default=100.0, gt=1, description="Most times larger an unpacked zip may be than its file (zip bombs)."
    )
    max_image_pixels: int = Field(default=50_000_000, ge=1, description="Most pixels one image may decode to.")
    worker_wait_s: float = Field(
        default=10.0, ge=0, description="How long an upload waits for a first worker to appear before it is refused."
    )
    inspect_timeout_s: float = Field(
        default=120.0, gt=0, description="How long an upload or a preflight waits for a worker to check it."
    )
    idempotency_hours: float = Field(
        default=24.0, gt=0, description="How long an `Idempotency-Key` answers with its first answer."
    )
    events_poll_s: float = Field(
        default=0.5,
        gt=0,
        description="How often an API process looks for new events, for all its open streams at once.",
    )
    events_heartbeat_s: float = Field(
        default=15.0,
        gt=0,
        description="Silence after which an event stream sends a comment to keep proxies from closing it.",
    )

    queue_version: str = Field(
        default="1",
        min_length=1,
        description="Version stamped on queued work; workers take only their own. Change it only when the steps of a "
        "running job could not be continued by the new code: when the last worker of a version is gone, its jobs begin anew.",
    )
    worker_heartbeat_s: float = Field(default=1.0, gt=0, description="How often a worker says that it lives.")
    worker_timeout_s: float = Field(
        default=6.0,
        gt=0,
        description="Silence after which a worker is declared dead and its job goes to another; at least three heartbeats.",
    )
    worker_cut_off_s: float = Field(
        default=45.0,
        gt=0,
        le=50,
        description="How long a worker that cannot reach the database keeps its job and its device before it ends, to be "
        "started again; longer than the database takes to restart.",
    )
    stall_timeout_s: float = Field(
        default=900.0, gt=0, description="Silence of a job's own process after which it is stopped and tried again."
    )
    drain_timeout_s: float = Field(
        default=20.0,
        ge=0,
        description="How long a process that is told to stop takes at most: the API for requests it is answering, a "
        "worker for the running step to come to its next checkpoint.",
    )
    measure_s: float = Field(
        default=1.0,
        ge=0.01,
        le=600,
        description="Least time for which a worker runs each network that it measures while it searches for a plan; twice that "
        "for the verdict. More is steadier on a restless device.",
    )
    train_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes of a worker's machine that train a job's network together, each on a share of every batch.",
    )
    train_device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="What networks are trained on; with `cuda` each of those processes has a GPU of its own.",
    )
    max_attempts: int = Field(
        default=3, ge=1, description="How many workers may be lost to one job before it is failed as `poison_job`."
    )
    lock_folder: Path = Field(
        default=Path(tempfile.gettempdir()) / f"secateur-{os.getuid()}",
        description="Folder of the locks that keep two processes off one device or worker slot; "
        "every service on the machine should use the same one.",
        json_schema_extra={"shown": "<temporary folder>/secateur-<user id>"},
    )

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_patient(self) -> "Settings":
        if self.worker_timeout_s < 3 * self.worker_heartbeat_s:
            raise ValueError(
                "worker_timeout_s must be at least three times worker_heartbeat_s, or nobody would be sure who lives"
            )
        return self

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @cached_property
    def url(self) -> str:
        """SQLAlchemy URL of the database, the default filled in."""
        url = self.database_url or f"sqlite:///{self.home / 'secateur.db'}"
        for plain in ("postgres://", "postgresql://"):
            if url.startswith(plain):
                return "postgresql+psycopg://" + url.removeprefix(plain)
        return url

    @property
    def blobs_folder(self) -> Path:
        """Where files are kept by their SHA-256."""
        return self.home / "blobs"

    @property
    def asks_for_keys(self) -> bool:
        """True when requests need an API key."""
        return self.auth == "keys" or (self.auth is None and self.listens_beyond_loopback)

    @property
    def listens_beyond_loopback(self) -> bool:
        """True when another machine could reach the API."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() != "localhost"
