"""TLS to NATS: the files that settings name, and the context that they make."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rondo.errors import ConfigError

CA, CERT, KEY = "NATS_CA", "NATS_CERT", "NATS_KEY"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; empty ones are not set.

    ca: who signed the server's certificate; without it, the system's authorities count.
    cert, key: the client's own, where the server asks for one; `cert` may hold the key, too.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> TlsFiles:
        """As the variables NATS_CA, NATS_CERT and NATS_KEY say."""
        return cls(env.get(CA, ""), env.get(CERT, ""), env.get(KEY, ""))

    def __bool__(self) -> bool:
        return bool(self.ca or self.cert or self.key)

    def context(self) -> ssl.SSLContext:
        """Checks the server's certificate and its name; TLS 1.2 at least.

        Raises:
            ConfigError: a file cannot be used; names the setting, and never what is in the file.
        """
        if self.key and not self.cert:
            raise ConfigError(KEY, f"needs {CERT}")
        for setting, path in ((CA, self.ca), (CERT, self.cert), (KEY, self.key)):
            _check_readable(setting, path)
        context = self._trusting()
        if self.cert:
            try:
                # A key with a passphrase is refused; asking for it would block the start.
                context.load_cert_chain(self.cert, self.key or None, password=lambda: b"")
            except (ssl.SSLError, OSError, ValueError) as error:
                own = f"{self.cert} with {KEY}={self.key}" if self.key else self.cert
                problem = f"{own}: no certificate with its own unencrypted key: {_text(error)}"
                raise ConfigError(CERT, problem) from error
        return context

    def _trusting(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except (ssl.SSLError, OSError) as error:
            problem = f"{self.ca}: no certificates in PEM form: {_text(error)}"
            raise ConfigError(CA, problem) from error


def _check_readable(setting: str, path: str) -> None:
    if not path:
        return
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ConfigError(setting, f"{path}: {error.strerror}") from error


def _text(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
