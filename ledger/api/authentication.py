"""Token authentication in one indexed look-up, and never a 500 for a strange header."""

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.models import get_token_model
from rest_framework.exceptions import AuthenticationFailed


class LedgerTokenAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox is untyped
    """``Authorization: Bearer TOKEN``; the database knows only the token's hash."""

    def authenticate_credentials(self, token: bytes) -> tuple[Any, Any]:
        """The user and the token row.

        Raises:
            AuthenticationFailed: unknown, revoked, expired, or not a token at all.
        """
        if not (token.isalnum() and len(token) <= 128):
            raise AuthenticationFailed("Invalid token.")
        digest = hash_token(token.decode("ascii"))
        row = get_token_model().objects.select_related("user").filter(digest=digest).first()
        now = datetime.now(UTC)  # noqa: TID251  (an edge; expiry is not a ledger time)
        if row is None or (row.expiry is not None and row.expiry <= now):
            raise AuthenticationFailed("Invalid token.")
        user, _ = self.validate_user(row)
        return user, row


class _Scheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped there
    """Names the scheme in the OpenAPI document."""

    target_class = "ledger.api.authentication.LedgerTokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """RFC 6750."""
        return {"type": "http", "scheme": "bearer"}
