"""Pages that compare a bank's statement with an account: what agrees, what does not, what to do."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.views.decorators.http import require_http_methods

from ledger import history, import_jobs, reconciliations
from ledger.api.serializers import canonical_uuid
from ledger.codec import format_time
from ledger.domain.money import format_amount
from ledger.errors import InvalidInputError
from ledger.models import Reconciliation
from ledger.pages import look, page
from ledger.reconciliations import Break
from projections.pages import forms

LIST_MAX = 20
MATCHED_SHOWN = 200


@require_http_methods(["GET", "POST"])
@page("import")
def reconcile(request: HttpRequest, account_id: str) -> HttpResponse:
    """Upload a bank's statement of this account; those that were compared before."""
    account_id = canonical_uuid(account_id, field="account_id")
    look(request, "reconcile", account_id)
    account, _ = history.current(account_id)
    form = forms.StatementForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        upload = form.cleaned_data["file"]
        try:
            if (upload.size or 0) > import_jobs.FILE_MAX:
                raise InvalidInputError("is larger than 20 MB", field="file")
            kept = reconciliations.start(
                request.user, account_id, upload.name or "file", upload.read()
            )
            return redirect("reconciliation", kept.pk)
        except InvalidInputError as error:
            form.add_error("file", error.detail)
    earlier = Reconciliation.objects.filter(account_id=account_id).defer("statement")
    return render(
        request,
        "pages/reconcile.html",
        {"form": form, "account": account, "earlier": earlier[:LIST_MAX]},
    )


@require_http_methods(["GET", "POST"])
@page("import")
def reconciliation(request: HttpRequest, reconciliation_id: str) -> HttpResponse:
    """One statement against the ledger as it is now; enter what the ledger lacks."""
    kept = reconciliations.find(canonical_uuid(reconciliation_id, field="reconciliation_id"))
    account_id = str(kept.account_id)
    look(request, "reconcile", account_id)
    if request.method == "POST":
        return _enter(request, kept)
    account, _ = history.current(account_id)
    statement = reconciliations.statement_of(kept)
    found = reconciliations.compare(kept)
    return render(
        request,
        "pages/reconciliation.html",
        {
            "kept": kept,
            "account": account,
            "statement": statement,
            "found": found,
            "matched": found.matched[:MATCHED_SHOWN],
            "breaks": [
                (item, _form_url(account_id, item, account.currency)) for item in found.breaks
            ],
            "missing": sum(item.move is None for item in found.breaks),
        },
    )


def _form_url(account_id: str, item: Break, currency: str) -> str:
    """The form that enters what the ledger lacks, filled in."""
    entry = item.entry
    if entry is None:
        return ""
    action = "deposit" if entry.amount > 0 else "withdraw"
    filled = {
        "amount": format_amount(abs(entry.amount), currency),
        "counterpart": "bank",
        "memo": reconciliations.memo_of(entry),
        "effective_at": format_time(entry.value),
    }
    return f"{reverse('act', args=[account_id, action])}?{urlencode(filled)}"


def _enter(request: HttpRequest, kept: Reconciliation) -> HttpResponse:
    numbers = [
        int(text) for text in request.POST.getlist("entry") if text.isascii() and text.isdigit()
    ]
    if not numbers:
        messages.error(request, "Choose at least one entry.")
        return redirect("reconciliation", kept.pk)
    entered, refused = reconciliations.enter(request.user, kept, numbers)
    if entered:
        messages.success(request, f"{entered} entered.")
    for problem in refused[:LIST_MAX]:
        messages.error(request, f"Refused: {problem}")
    return redirect("reconciliation", kept.pk)


urlpatterns: list[Any] = [
    path("accounts/<str:account_id>/reconcile", reconcile, name="reconcile"),
    path("reconciliations/<str:reconciliation_id>", reconciliation, name="reconciliation"),
]
