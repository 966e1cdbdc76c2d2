"""Settings: frozen structs, read once from the environment. A bad value stops the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec

from rondo.bus import tls
from rondo.bus.subjects import check_id
from rondo.errors import ConfigError

T = TypeVar("T", bound="BaseSettings")

_OWN_NAMES = {
    "nats_url": "NATS_URL",
    "nats_ca": tls.CA,
    "nats_cert": tls.CERT,
    "nats_key": tls.KEY,
}


class BaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of every program."""

    nats_url: Annotated[
        str, msgspec.Meta(description="NATS servers, comma separated, e.g. nats://127.0.0.1:4222")
    ] = "nats://127.0.0.1:4222"
    nats_ca: Annotated[
        str,
        msgspec.Meta(description="PEM file of who signs the servers' certificates; asks for TLS"),
    ] = ""
    nats_cert: Annotated[str, msgspec.Meta(description="PEM file of our own certificate")] = ""
    nats_key: Annotated[
        str, msgspec.Meta(description="PEM file of its key, where the certificate's lacks it")
    ] = ""
    http_host: Annotated[str, msgspec.Meta(description="address of the HTTP port")] = "127.0.0.1"
    http_port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="HTTP port; 0 takes a free one")
    ] = 0
    state_file: Annotated[
        str, msgspec.Meta(description="file to write the HTTP port to, once it is bound")
    ] = ""
    log_level: Annotated[
        str, msgspec.Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="how much to log")
    ] = "INFO"
    vllm_metrics: Annotated[
        bool, msgspec.Meta(description="metrics under vLLM's names, too, where they mean the same")
    ] = False
    traces: Annotated[
        str,
        msgspec.Meta(
            pattern="^(off|on)$",
            description="OpenTelemetry traces, to where the OTEL_* variables say: off or on",
        ),
    ] = "off"

    def nats_tls(self) -> tls.TlsFiles:
        """The files for TLS to NATS."""
        return tls.TlsFiles(self.nats_ca, self.nats_cert, self.nats_key)


def variable(field: str) -> str:
    """The environment variable of a field."""
    return _OWN_NAMES.get(field, f"RONDO_{field.upper()}")


def from_env(cls: type[T], env: Mapping[str, str]) -> T:
    """Reads the settings of a program.

    Raises:
        ConfigError: names the variable and says what is wrong with its value.
    """
    values: dict[str, Any] = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        name = variable(field.name)
        text = env.get(name)
        if text is None or text == "":
            if field.required:
                raise ConfigError(name, "is not set")
            continue
        try:
            values[field.name] = msgspec.convert(text, hints[field.name], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(name, f"{text!r}: {error}") from error
    return cls(**values)


def describe(cls: type[BaseSettings]) -> str:
    """A table of the program's variables, for --help."""
    lines = []
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        metadata = getattr(hints[field.name], "__metadata__", ())
        text = next((m.description for m in metadata if m.description), "")
        default = "required" if field.required else f"default {field.default!r}"
        lines.append(f"  {variable(field.name):28} {text} ({default})")
    return "\n".join(lines)


def valid_id(name: str, value: str) -> str:
    """An id setting, checked.

    Raises:
        ConfigError: it cannot be part of a subject.
    """
    try:
        return check_id(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from error
