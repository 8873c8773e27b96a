"""What is stuck, why, and the safe things to do about it: each asks for a reason and is recorded."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods

from ledger import approvals, looks, store
from ledger.api.problems import correlation_id
from ledger.api.serializers import canonical_uuid
from ledger.errors import BusyError, InvalidInputError, LedgerError
from ledger.models import ImportJob
from ledger.pages import page
from projections import queries, rebuild, redis_store
from projections.models import Generation, Parked

BUILDS_SHOWN = 5
LONG_SECONDS = 30
"""A transaction that is open for longer is called long: vacuum and locks wait for it."""


@require_http_methods(["GET", "POST"])
@page("operate")
def operations(request: HttpRequest) -> HttpResponse:
    """The board, and its buttons."""
    if request.method == "POST":
        try:
            said = _act(request)
        except LedgerError as error:
            return _board(request, error=error, given=request.POST)
        messages.success(request, said)
        return redirect("operations")
    return _board(request)


def _act(request: HttpRequest) -> str:
    """Do what a button says, after recording it; returns what to say."""
    act = request.POST.get("act", "")
    if act not in ("retry", "rebuild"):
        raise InvalidInputError("must be retry or rebuild", field="act")
    reason = looks.check_reason(request.POST.get("reason", ""), field="reason")
    if act == "rebuild":
        _record(request, "rebuild of the projections", reason)
        return _rebuild(request, reason)
    account_id = canonical_uuid(request.POST.get("account_id"), field="account_id")
    _record(request, "retry of a parked account", reason, account_id)
    Parked.objects.filter(topic=settings.LEDGER_TOPIC, account_id=account_id).update(
        is_retry_wanted=True
    )
    try:
        redis_store.want_retry(account_id)
    except redis_store.UNAVAILABLE as error:
        raise BusyError("Redis does not answer: nothing was tried") from error
    return "It is tried again within a few seconds: look again then."


def _record(request: HttpRequest, what: str, reason: str, *accounts: str) -> None:
    looks.record(
        request.user,
        what,
        accounts=accounts,
        reason=reason,
        channel="page",
        correlation_id=correlation_id(request),
    )


def _rebuild(request: HttpRequest, reason: str) -> str:
    try:
        generation = rebuild.start(reason=reason, requested_by=request.user.get_username())
        rebuild.dispatch(generation)
    except rebuild.AlreadyRunningError:
        return "A rebuild is already at work."
    except redis_store.UNAVAILABLE as error:
        raise BusyError("Redis does not answer: there is nothing to build in") from error
    return "The projections are built anew beside the live ones; reads go on."


def _board(request: HttpRequest, **more: Any) -> HttpResponse:
    health = queries.health()
    jobs = ImportJob.objects.filter(status="running").defer("content", "result")
    context = {
        "health": health,
        "relay_parked": Parked.objects.filter(topic=settings.LEDGER_TOPIC).order_by("since"),
        "builds": Generation.objects.all()[:BUILDS_SHOWN],
        "jobs": jobs[:BUILDS_SHOWN],
        "unsent": approvals.count_unsent(),
        "longest": store.longest_transaction(),
        "long_seconds": LONG_SECONDS,
        **more,
    }
    return render(request, "pages/operations.html", context, status=400 if more else 200)


urlpatterns = [path("operations", operations, name="operations")]
