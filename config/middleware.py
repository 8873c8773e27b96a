"""Names for what is logged, the short way for programs, and the security policy for everybody else."""

from collections.abc import Callable

import structlog
from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from django.http import HttpRequest, HttpResponseBase
from django.urls import resolve

from ledger.api.problems import correlation_id


class LogContext:
    """Every line that is logged on behalf of a request says which, by its correlation id."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer, which names the id too."""
        name = correlation_id(request)
        structlog.contextvars.bind_contextvars(correlation_id=name)
        try:
            response = self.get_response(request)
        finally:
            structlog.contextvars.clear_contextvars()
        response.headers.setdefault("X-Correlation-Id", name)
        return response


class TokenLane:
    """Takes an API request with a token straight to its view.

    It speaks for its token alone: no cookie counts, so there is no session to load, no CSRF to
    check, no message to show. What pages need stays behind this in MIDDLEWARE; a tenth more
    commands a second (docs/performance.md).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer of the view, or of the rest of the chain."""
        if not (
            request.path_info.startswith("/api/")
            and request.META.get("HTTP_AUTHORIZATION", "")[:7].lower() == "bearer "
        ):
            return self.get_response(request)
        match = request.resolver_match = resolve(request.path_info)
        response: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        render = getattr(response, "render", None)
        return render() if render is not None else response


class ContentSecurityPolicy(CSPMiddleware):
    """django-csp builds a policy for every answer, also where it then keeps the one it finds."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Leave an answer alone that has its policy."""
        return response if HEADER in response else super().process_response(request, response)
