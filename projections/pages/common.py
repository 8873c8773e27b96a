"""What every page has: who may do what, and how money and moments are shown."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from ledger.api.problems import correlation_id, status_of
from ledger.errors import LedgerError
from ledger.roles import actions_of, require

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


def context(request: HttpRequest) -> dict[str, Any]:
    """The actions of the user, so that templates show only what is allowed."""
    user = getattr(request, "user", None)
    return {"can": actions_of(user) if user is not None else frozenset()}


def page(action: str) -> Callable[[View[P]], View[P]]:
    """A page for signed-in users who may do `action`; errors become a page that says what is wrong.

    An empty `action` asks only for a sign-in.
    """

    def decorate(view: View[P]) -> View[P]:
        @login_required
        @wraps(view)
        def checked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            try:
                if action:
                    require(request.user, action)
                return view(request, *args, **kwargs)
            except LedgerError as error:
                return error_page(request, error)

        return cast(View[P], checked)

    return decorate


def error_page(request: HttpRequest, error: LedgerError) -> HttpResponse:
    """The page for an error: plain words, code, and the id to ask support about."""
    return render(
        request,
        "errors/error.html",
        {"error": error, "correlation_id": correlation_id(request)},
        status=status_of(error),
    )
