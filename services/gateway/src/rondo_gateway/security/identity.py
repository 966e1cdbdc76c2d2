"""Who sends a request, and what a handler may ask about it: `identity_of(request.scope)`."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from rondo.service.api_keys import SCOPES, Scope
from rondo_gateway.errors import ApiError

_IDENTITY = "rondo.identity"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose key a request came with.

    Attributes:
        key_id: the key's id, never the key; empty where no keys are in use.
        scopes: what it may do.
    """

    key_id: str
    scopes: tuple[Scope, ...]

    def check(self, scope: Scope) -> None:
        """Raises:
        ApiError: 403, the key has not this scope.
        """
        if scope not in self.scopes:
            message = f"This API key may not do that: it has no scope '{scope}'."
            raise ApiError(403, message, type="permission_error", code="insufficient_scope")


#: Everybody, where no keys are in use.
ANYBODY = Identity("", SCOPES)


def identity_of(scope: MutableMapping[str, Any]) -> Identity | None:
    """What the gate found out of a request; None where it has not come through one."""
    identity = scope.get(_IDENTITY)
    return identity if isinstance(identity, Identity) else None


def set_identity(scope: MutableMapping[str, Any], identity: Identity) -> None:
    """For the gate."""
    scope[_IDENTITY] = identity


def no_key() -> ApiError:
    """The 401 for a request without a key, or with one that is none."""
    message = "No valid API key: send one as 'Authorization: Bearer KEY'."
    return ApiError(401, message, code="invalid_api_key")
