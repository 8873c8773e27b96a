"""From error to RFC 9457 problem: one table, one exception handler, JSON for every status."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from ledger import errors

log = logging.getLogger(__name__)

STATUS: Mapping[type[errors.LedgerError], int] = {
    errors.AccountNotFound: 404,
    errors.TransactionNotFound: 404,
    errors.AccountAlreadyOpen: 409,
    errors.AlreadyReversed: 409,
    errors.HoldFinished: 409,
    errors.Rejected: 422,
    errors.InvalidInputError: 400,
    errors.WrongExpectedVersionError: 412,
    errors.IdempotencyKeyReusedError: 422,
    errors.ConflictError: 409,
    errors.BusyError: 503,
    errors.StoreUnavailableError: 503,
    errors.StateIncompleteError: 503,
    errors.NotAvailableError: 501,
    errors.NotFoundError: 404,
    errors.ApprovalNeededError: 403,
    errors.ForbiddenError: 403,
}
"""Status of an error class; a class that is not listed has its parent's."""

RETRY_AFTER_SECONDS = 1
CONTENT_TYPE = "application/problem+json"
DOCUMENTED: Mapping[str, str] = {
    cls.code: f"{cls.title}. {(cls.__doc__ or '').strip().splitlines()[0]}"
    for cls in (
        errors.LedgerError,
        *errors.LedgerError.__subclasses__(),
        *errors.Rejected.__subclasses__(),
    )
} | {
    "not_authenticated": "Sign in, or send a token as Authorization: Bearer.",
    "method_not_allowed": "The URL exists, the method does not.",
    "unsupported_media_type": "Send application/json.",
    "not_acceptable": "Only application/json is served.",
    "parse_error": "The body is not JSON.",
    "throttled": "Too many requests.",
    "server_error": "A bug; the same request with the same key may be sent again.",
}


def status_of(error: errors.LedgerError) -> int:
    """The HTTP status for `error`."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def problem(
    request: HttpRequest,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    field_errors: Sequence[Mapping[str, str]] = (),
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a problem. `facts` become extension members."""
    body: dict[str, Any] = {
        "type": request.build_absolute_uri(f"/problems/{code}"),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.path,
        "code": code,
        "correlation_id": correlation_id(request),
    }
    if field_errors:
        body["errors"] = list(field_errors)
    return {**(facts or {}), **body}


def correlation_id(request: HttpRequest) -> str:
    """The sender's ``X-Correlation-Id`` if it is usable, or one made for this request."""
    known: str | None = getattr(request, "_correlation_id", None)
    if known is None:
        sent = request.headers.get("X-Correlation-Id", "")
        usable = 0 < len(sent) <= 64 and sent.isascii() and sent.isprintable()
        known = sent if usable else str(uuid4())
        request._correlation_id = known  # type: ignore[attr-defined]  # noqa: SLF001  # kept for this request
    return known


def problem_of(request: HttpRequest, error: errors.LedgerError) -> dict[str, Any]:
    """The problem for a ledger error."""
    listed = error.facts.get("errors")
    field_errors = listed or (
        [{"field": error.field, "code": error.code, "detail": error.detail}] if error.field else []
    )
    return problem(
        request,
        status=status_of(error),
        code=error.code,
        title=error.title,
        detail=error.detail,
        field_errors=field_errors,
        facts={name: value for name, value in error.facts.items() if name != "errors"},
    )


def handle_exception(error: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler: everything becomes a problem; a bug is logged once, in full."""
    request: HttpRequest = context["request"]._request  # noqa: SLF001  (DRF's own handle on it)
    headers: dict[str, str] = {}
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("the database did not answer: %s", error)
        error = errors.StoreUnavailableError("the database did not answer; try again")
    if isinstance(error, errors.LedgerError):
        body = problem_of(request, error)
        if body["status"] == 503 or isinstance(error, errors.ConflictError):
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, exceptions.APIException):
        code = str(error.default_code)
        body = problem(
            request,
            status=error.status_code,
            code=code,
            title=code.replace("_", " ").capitalize(),
            detail=str(error.detail),
        )
        if challenge := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait) + 1)
    elif isinstance(error, Http404):
        body = _not_found(request)
    elif isinstance(error, PermissionDenied):
        body = problem_of(request, errors.ForbiddenError(str(error) or "not allowed"))
    else:
        log.error("request failed: %s", request.path, exc_info=error)
        body = _server_error(request)
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _not_found(request: HttpRequest) -> dict[str, Any]:
    error = errors.NotFoundError(f"nothing is at {request.path[:200]}")
    return problem_of(request, error)


def _server_error(request: HttpRequest) -> dict[str, Any]:
    return problem(
        request,
        status=500,
        code="server_error",
        title="Something is wrong with the ledger's software",
        detail="The fault was recorded. Sending the same request with the same key is safe.",
    )


def json_not_found(request: HttpRequest) -> HttpResponse:
    """404 for an API URL that no route matches."""
    return JsonResponse(_not_found(request), status=404, content_type=CONTENT_TYPE)


def json_server_error(request: HttpRequest) -> HttpResponse:
    """500 for an API URL, outside DRF."""
    return JsonResponse(_server_error(request), status=500, content_type=CONTENT_TYPE)
