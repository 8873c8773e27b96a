"""Pages for four eyes: what waits, what it would do, approve or reject."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods

from ledger import access, approvals, privacy
from ledger.api.serializers import canonical_uuid
from ledger.errors import LedgerError
from ledger.models import Proposal
from ledger.pages import look, page

LIST_MAX = 50


@require_GET
@page("read")
def waiting(request: HttpRequest) -> HttpResponse:
    """What waits for a second person, and what was decided lately."""
    look(request, "approvals")
    rows = Proposal.objects.select_related("decision")
    return render(
        request,
        "pages/approvals.html",
        {
            "waiting": rows.filter(decision=None).order_by("made_at")[:LIST_MAX],
            "decided": rows.exclude(decision=None).order_by("-decision__decided_at")[:LIST_MAX],
        },
    )


@require_http_methods(["GET", "POST"])
@page("read")
def proposal(request: HttpRequest, proposal_id: str) -> HttpResponse:
    """One proposal: who, why, what they saw, what it would do now; and the decision."""
    found = approvals.find(canonical_uuid(proposal_id, field="proposal_id"))
    if request.method == "POST":
        return _decide(request, found)
    look(request, "approval", *found.seen)
    return _show(request, found)


def _decide(request: HttpRequest, found: Proposal) -> HttpResponse:
    approved = request.POST.get("decision") == "approve"
    note = request.POST.get("note", "")
    try:
        outcome = approvals.decide(request.user, found, approved=approved, note=note)
    except LedgerError as error:
        return _show(request, approvals.find(str(found.pk)), error=error, note=note)
    if outcome is not None and outcome.error is not None:
        messages.error(request, f"Approved, but refused: {outcome.error.detail}")
    else:
        messages.success(request, "Approved and recorded." if approved else "Rejected.")
    return redirect("proposal", found.pk)


def _show(request: HttpRequest, found: Proposal, **more: Any) -> HttpResponse:
    decision = approvals.decision_of(found)
    command = approvals.command_for(found)
    context: dict[str, Any] = {
        "proposal": found,
        "fields": _told(found),
        "decision": decision,
        "outcome": approvals.outcome_of(found),
        "may_decide": decision is None
        and found.made_by != request.user.get_username()
        and _may(request, command),
        **more,
    }
    if decision is None:
        try:
            context["trial"] = approvals.try_now(found)
        except LedgerError as error:
            context["trial_error"] = error
    status = 400 if "error" in more else 200
    return render(request, "pages/proposal.html", context, status=status)


def _may(request: HttpRequest, command: Any) -> bool:
    try:
        access.check_command(request.user, command, is_approved=True)
    except LedgerError:
        return False
    return True


def _told(found: Proposal) -> Mapping[str, str]:
    shown = {**found.ids, **privacy.revealed(found.body)}
    shown.pop("account_id", None)
    return shown


urlpatterns = [
    path("approvals", waiting, name="approvals"),
    path("approvals/<str:proposal_id>", proposal, name="proposal"),
]
