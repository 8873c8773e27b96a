"""Token authentication in at most one look-up a second, and never a 500 for a strange header."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.models import get_token_model
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from ledger.roles import actions_of


class LedgerTokenAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox is untyped
    """``Authorization: Bearer TOKEN``; the database knows only the token's hash."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        """The user and the token row; None without a bearer token, so that a session may speak."""
        scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.authenticate_credentials(token.strip())

    def authenticate_credentials(self, token: str) -> tuple[Any, Any]:
        """The user and the token row.

        Raises:
            AuthenticationFailed: unknown, revoked, expired, or not a token at all.
        """
        if not (token.isascii() and token.isalnum() and len(token) <= 128):
            raise AuthenticationFailed("Invalid token.")
        row = _look_up(hash_token(token), int(time.monotonic()))
        now = datetime.now(UTC)  # noqa: TID251  (an edge; expiry is not a ledger time)
        if row.expiry is not None and row.expiry <= now:
            raise AuthenticationFailed("Invalid token.")
        user, _ = self.validate_user(row)
        return user, row


@lru_cache(maxsize=4096)
def _look_up(digest: str, _second: int) -> Any:
    """The token's row with its user and what they may do, kept until the clock's next second.

    So a revoked token or a changed role counts within a second in every process, and a request
    under load costs no query of its own. Unknown tokens raise and are not kept.
    """
    row = get_token_model().objects.select_related("user").filter(digest=digest).first()
    if row is None:
        raise AuthenticationFailed("Invalid token.")
    actions_of(row.user)
    return row


class _Scheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped there
    """Names the scheme in the OpenAPI document."""

    target_class = "ledger.api.authentication.LedgerTokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """RFC 6750."""
        return {"type": "http", "scheme": "bearer"}
