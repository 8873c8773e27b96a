"""What every page has: who may do what, whose look it is and why, and what an error looks like."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.utils.http import url_has_allowed_host_and_scheme

from ledger import looks
from ledger.api.problems import correlation_id, status_of
from ledger.errors import InvalidInputError, LedgerError
from ledger.roles import actions_of, require

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


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
        def checked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                if action:
                    require(request.user, action)
                return view(request, *args, **kwargs)
            except ReasonMissingError:
                return ask_reason(request, "base.html", {}, status=403)
            except LedgerError as error:
                return error_page(request, error)

        return cast(View[P], checked)

    return decorate


class ReasonMissingError(Exception):
    """Somebody whose looks are recorded asked for the past and has not said why."""


def look(
    request: HttpRequest,
    what: str,
    *accounts: str,
    past: bool = False,
    moment: str = "",
    channel: str = "page",
) -> None:
    """Record that a member of staff looks, with the reason that was stated, if any.

    `moment` is what was asked for where the address does not say it.

    Raises:
        ReasonMissingError: it is the `past` and none was stated.
    """
    reason = looks.reason_of(request)
    if past and not reason and looks.is_recorded(request.user):
        raise ReasonMissingError
    looks.record(
        request.user,
        what,
        accounts=accounts,
        moment=moment or request.META["QUERY_STRING"],
        reason=reason,
        channel=channel,
        correlation_id=correlation_id(request),
    )


def ask_reason(
    request: HttpRequest, layout: str, extra: Mapping[str, Any], *, status: int = 200
) -> HttpResponse:
    """The page that asks why; `layout` is the page around it."""
    shown = {"layout": layout, "title": "Why do you look?", "read_reason": looks.reason_of(request)}
    return TemplateResponse(request, "audit/reason.html", shown | dict(extra), status=status)


def take_reason(
    request: HttpRequest, layout: str, extra: Mapping[str, Any], *, default: str
) -> HttpResponse:
    """Take the reason for looking, and go on to where it was asked for, or to `default`."""
    target = request.POST.get("next", "") or request.GET.get("next", "")
    if not url_has_allowed_host_and_scheme(target, allowed_hosts=None):
        target = default
    if request.method != "POST":
        return ask_reason(request, layout, {**extra, "next": target})
    given = request.POST.get("reason", "")
    try:
        looks.state_reason(request, given)
    except InvalidInputError as error:
        again = {**extra, "next": target, "error": error, "given": given}
        return ask_reason(request, layout, again, status=400)
    return redirect(target)


def error_page(request: HttpRequest, error: LedgerError) -> HttpResponse:
    """The page for an error: plain words, code, and the id to ask support about."""
    return render(
        request,
        "errors/error.html",
        {"error": error, "correlation_id": correlation_id(request)},
        status=status_of(error),
    )
