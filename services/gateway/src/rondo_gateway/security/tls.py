"""TLS of the HTTP port: a certificate and its key from files, taken anew when they change."""

from __future__ import annotations

import ssl
from pathlib import Path

from rondo.errors import ConfigError
from rondo.service.settings import variable

CERT_SETTING = variable("http_tls_cert")
KEY_SETTING = variable("http_tls_key")


class Tls:
    """The context of all TLS connections; TLS 1.2 or newer.

    Raises:
        ConfigError: a file is missing, is no PEM file, or they do not belong together.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self.paths = (cert, key)
        self.context = self._loaded()

    def load(self) -> None:
        """Takes the files as they are now, for connections to come. See the class."""
        self._loaded()  # a bad pair must not spoil the context that is in use
        self.context.load_cert_chain(*self.paths, password="")

    def _loaded(self) -> ssl.SSLContext:
        cert, key = self.paths
        for path, setting in ((cert, CERT_SETTING), (key, KEY_SETTING)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigError(setting, f"cannot read the file: {error.strerror}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password of its own OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password="")
        except ssl.SSLError as error:
            raise _problem(cert, error) from None
        return context


def _problem(cert: Path, error: ssl.SSLError) -> ConfigError:
    """What is wrong with files that OpenSSL does not take."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return ConfigError(KEY_SETTING, f"is not the key of the certificate of {CERT_SETTING}")
    probe = ssl.create_default_context()
    try:
        probe.load_verify_locations(cert)
    except ssl.SSLError:
        return ConfigError(CERT_SETTING, "the file is no certificate in PEM form")
    return ConfigError(KEY_SETTING, "the file is no private key in PEM form, or needs a password")


def tls_of(cert: str, key: str) -> Tls | None:
    """TLS by the two settings; None where neither is set.

    Raises:
        ConfigError: one of them is missing. See `Tls`.
    """
    if not cert and not key:
        return None
    if not cert or not key:
        missing, other = (CERT_SETTING, KEY_SETTING) if key else (KEY_SETTING, CERT_SETTING)
        raise ConfigError(missing, f"is not set, but {other} is")
    return Tls(Path(cert), Path(key))
