"""Settings of a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from rondo.errors import ConfigError
from rondo.service.settings import BaseSettings


class GatewaySettings(BaseSettings, frozen=True, kw_only=True):
    """Models, default objectives and limits."""

    models: Annotated[
        str, Meta(description="models served: folder, or name=folder; several with commas")
    ]
    http_fd: Annotated[
        int,
        Meta(ge=0, description="inherited socket that listens for the API; 0: the port alone"),
    ] = 0
    drain_timeout_s: Annotated[
        float, Meta(ge=0, description="how long a stopping gateway lets its answers finish")
    ] = 30.0
    demo: Annotated[bool, Meta(description="the console may make load and hurt instances")] = False
    gateway_id: Annotated[str, Meta(description="id on the bus; a random one by default")] = ""
    slo_ttft_ms: Annotated[
        float, Meta(gt=0, description="TTFT objective of requests that name none")
    ] = 5000.0
    slo_tpot_ms: Annotated[
        float, Meta(gt=0, description="TPOT objective of requests that name none")
    ] = 100.0
    slo_classes: Annotated[
        str, Meta(description="objectives by name for requests: name=ttft_ms/tpot_ms, with commas")
    ] = "interactive=1000/50, batch=60000/1000"
    tool_parser: Annotated[
        Literal["", "hermes", "mistral", "llama3_json"],
        Meta(description="how models call tools; by their chat templates if empty"),
    ] = ""
    lengths: Annotated[
        str,
        Meta(
            description="trained predictors of answer lengths: file, or name=file, with commas; "
            "by default rondo/lengths.safetensors in a model's folder; off: none"
        ),
    ] = ""
    record_lengths: Annotated[
        str, Meta(description="file to log prompts and the lengths of their answers in; holds them")
    ] = ""
    record_lengths_max_bytes: Annotated[
        int, Meta(ge=1, description="size at which that file takes no more")
    ] = 2**28
    max_body_bytes: Annotated[int, Meta(ge=1024, description="largest HTTP body")] = 4 * 2**20
    file_max_mib: Annotated[int, Meta(ge=1, description="largest file of a batch")] = 200
    files_max_mib: Annotated[int, Meta(ge=1, description="all files of batches together")] = 1024
    batch_lines: Annotated[
        int, Meta(ge=1, le=4096, description="lines of a batch that run side by side")
    ] = 256
    keys: Annotated[str, Meta(description="file of API keys; none: everybody may come in")] = ""
    allow_no_keys: Annotated[
        bool, Meta(description="others may reach this gateway although it has no keys")
    ] = False
    http_tls_cert: Annotated[
        str, Meta(description="PEM file of the HTTP port's certificate chain; none: no TLS")
    ] = ""
    http_tls_key: Annotated[str, Meta(description="PEM file of its private key")] = ""
    cors_origins: Annotated[
        str, Meta(description="sites whose pages may call the API, with commas; *: all")
    ] = ""
    metrics_access: Annotated[
        Literal["admin", "open"],
        Meta(description="who may read /metrics: keys with scope admin, or everybody"),
    ] = "admin"
    max_connections: Annotated[
        int, Meta(ge=1, description="connections at once; the one idle longest makes room")
    ] = 16_384
    idle_timeout_s: Annotated[
        float, Meta(gt=0, description="how long a connection may be without a request")
    ] = 75.0
    head_timeout_s: Annotated[
        float, Meta(gt=0, description="how long the headers of a request may take")
    ] = 10.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, description="how long the body of a request may take")
    ] = 60.0
    admission_timeout_s: Annotated[
        float, Meta(gt=0, description="how long to wait for admission in all")
    ] = 90.0
    no_coordinator_timeout_s: Annotated[
        float, Meta(gt=0, description="how long to wait for a coordinator to be there at all")
    ] = 10.0
    max_attempts: Annotated[
        int, Meta(ge=1, description="instances that may be tried for one answer; 1: no resuming")
    ] = 10
    resume_timeout_s: Annotated[
        float,
        Meta(gt=0, description="how long to look for one that goes on with an answer"),
    ] = 30.0
    stall_s: Annotated[
        float, Meta(gt=0, description="silence of a stream after which its worker is asked")
    ] = 3.0
    patience_s: Annotated[
        float, Meta(gt=0, description="how long a stream may go without a new token")
    ] = 300.0

    def model_folders(self) -> dict[str, Path]:
        """Name -> folder.

        Raises:
            ConfigError: no model, or two of one name.
        """
        folders: dict[str, Path] = {}
        for entry in filter(None, (part.strip() for part in self.models.split(","))):
            name, separator, folder = entry.partition("=")
            path = Path(folder if separator else name)
            name = name if separator else path.resolve().name
            if name in folders:
                raise ConfigError("RONDO_MODELS", f"model {name!r} is there twice")
            folders[name] = path
        if not folders:
            raise ConfigError("RONDO_MODELS", "names no model")
        return folders
