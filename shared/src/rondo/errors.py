"""One tree of errors; each carries its fields. Only the gateway maps them to HTTP."""

from __future__ import annotations


class RondoError(Exception):
    """Base of everything Rondo raises on purpose."""


class ConfigError(RondoError):
    """A setting or a command-line value is wrong; the program must not start.

    Args:
        setting: the name of the setting, as the user wrote it.
        problem: what is wrong with it, in one sentence.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class ModelError(ConfigError):
    """A model folder lacks something or holds an architecture we do not support."""


class PeerError(RondoError):
    """Another program of the cluster did not do its part."""


class BusUnavailable(PeerError):
    """The bus cannot be reached, or not in time."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"bus {url}: {problem}")
        self.url = url
        self.problem = problem


class NoResponder(PeerError):
    """Nobody is subscribed to the subject of a request."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}")
        self.subject = subject


class RequestTimeout(PeerError):
    """A request on the bus was not answered in time."""

    def __init__(self, subject: str, timeout_s: float) -> None:
        super().__init__(f"no answer on {subject} within {timeout_s:g} s")
        self.subject = subject
        self.timeout_s = timeout_s


class MessageTooLarge(PeerError):
    """A message is larger than the bus takes; it was not sent."""

    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"message of {size_bytes} bytes on {subject}: the limit is {limit_bytes}")
        self.subject = subject
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class DecodeError(PeerError):
    """Bytes from the bus are no message of ours."""


class RevisionConflict(PeerError):
    """A compare-and-set on a key-value bucket lost against another writer."""

    def __init__(self, bucket: str, key: str, revision: int) -> None:
        super().__init__(f"{bucket}/{key} is no longer at revision {revision}")
        self.bucket = bucket
        self.key = key
        self.revision = revision


class InstanceLost(PeerError):
    """The instance that ran a request is gone."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"instance {instance_id} was lost")
        self.instance_id = instance_id


class CapacityError(RondoError):
    """The cluster refuses a request for want of capacity.

    Args:
        reason: a stable word, e.g. ``queue_full``.
        retry_after_s: when a new try has a chance; None when never.
    """

    def __init__(self, reason: str, detail: str, retry_after_s: float | None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


class EngineError(RondoError):
    """The engine failed in a step; names the requests that were in it."""

    def __init__(self, problem: str, request_ids: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.request_ids = request_ids


class InvariantError(RondoError):
    """A policy found its own state inconsistent; a bug."""
