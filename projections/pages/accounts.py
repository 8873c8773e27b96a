"""The list of accounts: filtered, saved under a name, exported, and several acted on at once."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.views.decorators.http import require_GET, require_POST

from ledger import access, csvs, privacy, roles
from ledger.api.serializers import canonical_uuid, command_of
from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import format_amount
from ledger.errors import InvalidInputError, LedgerError
from ledger.models import Account
from ledger.pages import look, page
from ledger.service import bus
from projections.models import SavedFilter

PAGE_SIZE = 50
EXPORT_MAX = 100_000
SAVED_MAX = 50
BULK_MAX = 500
FILTERS = ("holder", "reference", "owner", "currency", "status")
STATUSES = ("open", "frozen", "closed")
BULK: Mapping[str, tuple[str, str]] = {
    "freeze": ("FreezeAccount", "Freeze"),
    "unfreeze": ("UnfreezeAccount", "Unfreeze"),
}
"""Word of a button to command and what it says."""


def _asked(request: HttpRequest) -> dict[str, str]:
    """The filter of the request's query, checked."""
    asked = {name: text for name in FILTERS if (text := request.GET.get(name, "").strip())}
    for name, text in asked.items():
        if "\x00" in text or len(text) > 200:
            raise InvalidInputError("must be at most 200 printable characters", field=name)
    if asked.get("status", "open") not in STATUSES:
        raise InvalidInputError(f"must be one of {', '.join(STATUSES)}", field="status")
    if asked.get("currency", "EUR") not in EXPONENTS:
        raise InvalidInputError("is not an ISO 4217 code in capitals such as EUR", field="currency")
    return asked


def _found(asked: Mapping[str, str]) -> QuerySet[Account]:
    """Accounts by id; of a holder the beginning of the name counts, of everything else the whole."""
    rows = Account.objects.order_by("id")
    for name, text in asked.items():
        is_holder = name == "holder"
        rows = access.holder_begins(rows, text) if is_holder else rows.filter(**{name: text})
    return rows


@require_GET
@page("read")
def accounts(request: HttpRequest) -> HttpResponse:
    """A page of the accounts that the filter leaves, or all of them as CSV."""
    asked = _asked(request)
    look(request, "accounts")
    rows = _found(asked)
    if request.GET.get("format") == "csv":
        return _export(rows)
    if after := request.GET.get("after"):
        rows = rows.filter(id__gt=canonical_uuid(after, field="after"))
    shown = list(rows[: PAGE_SIZE + 1])
    has_more = len(shown) > PAGE_SIZE
    shown = shown[:PAGE_SIZE]
    privacy.keys.of(str(row.id) for row in shown)
    query = urlencode(asked)
    saved = SavedFilter.objects.filter(user_id=int(request.user.pk or 0))
    return render(
        request,
        "pages/accounts.html",
        {
            "accounts": shown,
            "asked": asked,
            "query": query,
            "next": urlencode({**asked, "after": str(shown[-1].id)}) if has_more else "",
            "is_first": not after,
            "saved": saved,
            "current": saved.filter(query=query).first(),
            "statuses": STATUSES,
            "bulk": [
                (word, title)
                for word, (name, title) in BULK.items()
                if "freeze" in roles.actions_of(request.user)
            ],
            "export_max": EXPORT_MAX,
        },
    )


def _export(rows: QuerySet[Account]) -> HttpResponse:
    header = ("id", "holder", "reference", "owner", "currency", "status", "balance", "held",
              "available", "version", "position")  # fmt: skip
    lines = (
        (
            row.id,
            *(
                csvs.neutral(privacy.reveal(text))
                for text in (row.holder, row.reference, row.owner)
            ),
            row.currency,
            row.status,
            *(format_amount(n, row.currency) for n in (row.balance, row.held, row.available)),
            row.version,
            row.position,
        )
        for row in rows[:EXPORT_MAX].iterator(chunk_size=2000)
    )
    answer = HttpResponse(csvs.write(header, lines), "text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="accounts.csv"'
    return answer


@require_POST
@page("read")
def save_filter(request: HttpRequest) -> HttpResponse:
    """Keep the filter under a name of one's own, or forget it."""
    query = request.POST.get("query", "")
    if len(query) > 1000 or "\x00" in query:
        raise InvalidInputError("is too long", field="query")
    mine = SavedFilter.objects.filter(user_id=int(request.user.pk or 0))
    if request.POST.get("act") == "forget":
        mine.filter(query=query).delete()
        messages.success(request, "Forgotten.")
    else:
        name = request.POST.get("name", "").strip()
        if not (1 <= len(name) <= 50 and name.isprintable()):
            raise InvalidInputError("must be 1 to 50 printable characters", field="name")
        if mine.count() >= SAVED_MAX:
            raise InvalidInputError(f"you have {SAVED_MAX} already: forget one", field="name")
        try:
            with transaction.atomic():
                SavedFilter.objects.create(
                    user_id=int(request.user.pk or 0), name=name, query=query
                )
        except IntegrityError as error:
            raise InvalidInputError(
                "you have one of this name, or this filter", field="name"
            ) from error
        messages.success(request, f"Saved as “{name}”.")
    return redirect(f"{reverse('accounts')}?{query}")


@require_POST
@page("freeze")
def act_on_several(request: HttpRequest) -> HttpResponse:
    """Send one command to each of the chosen accounts; each succeeds or is refused on its own."""
    act, reason = request.POST.get("act", ""), request.POST.get("reason", "").strip()
    if act not in BULK:
        raise InvalidInputError(f"must be one of {', '.join(BULK)}", field="act")
    name, title = BULK[act]
    chosen = list(dict.fromkeys(request.POST.getlist("account")))
    key = canonical_uuid(request.POST.get("key"), field="key")
    if not 1 <= len(chosen) <= BULK_MAX:
        raise InvalidInputError(f"choose 1 to {BULK_MAX} accounts", field="account")
    look(request, "accounts", *(canonical_uuid(item, field="account") for item in chosen))
    units = []
    for account_id in chosen:
        command, said = command_of(name, {"reason": reason}, {"account_id": account_id})
        access.check_command(request.user, command)
        units.append(
            [
                access.envelope_for(
                    request.user, command, said, key=f"page/{key}/{account_id}", channel="page"
                )
            ]
        )
    refused: list[str] = []
    for account_id, [answer] in zip(chosen, bus.send(units), strict=True):
        error: Any = answer if isinstance(answer, LedgerError) else getattr(answer, "error", answer)
        if error is not None:
            refused.append(f"{account_id[-8:]}: {error}")
    messages.success(request, f"{title}: {len(chosen) - len(refused)} done.")
    for text in refused[:20]:
        messages.error(request, f"Refused …{text}")
    return redirect(f"{reverse('accounts')}?{request.POST.get('query', '')}")


urlpatterns = [
    path("accounts", accounts, name="accounts"),
    path("accounts/filters", save_filter, name="save-filter"),
    path("accounts/several", act_on_several, name="act-on-several"),
]
