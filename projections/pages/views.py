"""The back office's pages. A view translates in, makes one call, translates out."""

import re
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from django.contrib import messages
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ledger import (
    access,
    approvals,
    handlers,
    import_jobs,
    imports,
    privacy,
    roles,
    statements,
    store,
)
from ledger.api.problems import DOCUMENTED
from ledger.api.serializers import (
    account_id_of,
    account_id_of_reference,
    canonical_uuid,
    command_of,
    is_uuid,
)
from ledger.domain.commands import COMMANDS
from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import parse_amount
from ledger.errors import ApprovalNeededError, InvalidInputError, LedgerError, NotFoundError
from ledger.models import Account, Command, ImportJob, Proposal
from ledger.pages import look, page
from ledger.service import bus
from projections import queries
from projections.pages import forms

LIST_MAX = 50
AMOUNT_EVENTS = 50_000
"""How many of the latest events a search by amount goes through."""

ACTIONS: dict[str, tuple[str, str, type[forms.CommandForm]]] = {
    "deposit": ("Deposit", "Deposit", forms.MoveForm),
    "withdraw": ("Withdraw", "Withdraw", forms.MoveForm),
    "transfer": ("Transfer", "Transfer", forms.TransferForm),
    "hold": ("PlaceHold", "Place a hold", forms.HoldForm),
    "adjust": ("AdjustBalance", "Adjust the balance", forms.AdjustForm),
    "limit": ("SetOverdraftLimit", "Set the overdraft limit", forms.LimitForm),
    "freeze": ("FreezeAccount", "Freeze", forms.ReasonForm),
    "unfreeze": ("UnfreezeAccount", "Unfreeze", forms.ReasonForm),
    "close": ("CloseAccount", "Close", forms.ReasonForm),
    "erase": ("EraseHolder", "Erase the holder's personal data", forms.EraseForm),
}
"""What can be done on an account's page: URL word to command, title and form."""
HOLD_ACTIONS: dict[str, tuple[str, type[forms.CommandForm]]] = {
    "capture": ("CaptureHold", forms.CaptureForm),
    "release": ("ReleaseHold", forms.CommandForm),
}
"""The same for what can be done with a hold."""


@require_GET
@page("")
def home(request: HttpRequest) -> HttpResponse:
    """Search, recent accounts, totals and health."""
    if "read" not in roles.actions_of(request.user):
        roles.require(request.user, "read_own")
        own = Account.objects.filter(owner=request.user.get_username()).exclude(owner="")
        return render(request, "pages/home.html", {"accounts": own[:LIST_MAX]})
    look(request, "recent accounts")
    return render(
        request, "pages/home.html", {"accounts": Account.objects.all()[:12], **_figures()}
    )


@require_GET
@page("read")
def home_live(request: HttpRequest) -> HttpResponse:
    """The part of the first page that refreshes itself."""
    return render(request, "pages/_home_live.html", _figures())


def _figures() -> dict[str, Any]:
    return {
        "health": queries.health(),
        "totals": queries.totals(),
        "pace": queries.pace(),
        "waiting": approvals.count_waiting(),
    }


@require_GET
@page("read")
def search(request: HttpRequest) -> HttpResponse:
    """One box: an id of anything, a position, a reference, an amount, or a holder's name."""
    text = request.GET.get("q", "").strip()
    if "\x00" in text or len(text) > 100:
        raise InvalidInputError("search for at most 100 printable characters", field="q")
    look(request, "search")
    if is_uuid(text):
        target = _by_id(text.lower())
        if target:
            return redirect(target)
    if re.fullmatch(r"#?\d{1,15}", text, re.ASCII):
        position = int(text.removeprefix("#"))
        for event in store.read_range(position, position):
            return redirect("transaction", event.metadata.command_id)
    found: list[Account] = []
    if text and Account.objects.filter(pk=account_id_of_reference(text)).exists():
        return redirect("account", account_id_of_reference(text))
    if text:
        found = list(access.holder_begins(Account.objects.order_by("holder"), text)[:LIST_MAX])
        privacy.keys.of(str(row.id) for row in found)
        found += [
            row for row in Account.objects.filter(reference=text)[:LIST_MAX] if row not in found
        ]
    commands = _of_amount(text)
    if text and not commands:
        commands = list(Command.objects.filter(correlation_id=text).order_by("number")[:LIST_MAX])
    return render(
        request,
        "pages/search.html",
        {"q": text, "accounts": found, "commands": commands, "searched": AMOUNT_EVENTS},
    )


def _of_amount(text: str) -> list[Command]:
    """Transactions of an amount such as "1,250.00" or "5 EUR", among the latest events."""
    match = re.fullmatch(r"[+-]?(\d[\d,]{0,18})(\.\d{1,4})?(?: ?([A-Z]{3}))?", text, re.ASCII)
    if match is None or not (match.group(2) or match.group(3)):
        return []
    plain = match.group(1).replace(",", "") + (match.group(2) or "")
    minor = {}
    for currency in [match.group(3)] if match.group(3) else EXPONENTS:
        with suppress(LedgerError, KeyError):
            minor[currency] = parse_amount(plain, currency)
    events = store.events_of_amount(sorted(set(minor.values())), among=AMOUNT_EVENTS)
    ids = [
        item.metadata.command_id
        for item in events
        if abs(item.event.delta) == minor.get(getattr(item.event, "currency", ""))
    ]
    return list(Command.objects.filter(pk__in=ids[:LIST_MAX]).order_by("-number"))


def _by_id(identity: str) -> str:
    if Account.objects.filter(pk=identity).exists():
        return reverse("account", args=[identity])
    if Command.objects.filter(pk=identity).exists():
        return reverse("transaction", args=[identity])
    return ""


@require_http_methods(["GET", "POST"])
@page("open")
def open_account(request: HttpRequest) -> HttpResponse:
    """Open an account."""
    form = forms.OpenForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        body = form.body()
        outcome = _send(request, form, "OpenAccount", body, {})
        if outcome is not None:
            return _done(request, outcome)
    return render(request, "pages/command.html", {"form": form, "title": "Open an account"})


def _send(
    request: HttpRequest,
    form: forms.CommandForm,
    name: str,
    body: dict[str, Any],
    ids: dict[str, str],
) -> handlers.Outcome | Proposal | None:
    """Send a form's command, or propose it; None when it was refused, its words then in the form."""
    try:
        command, said = command_of(name, body, ids)
        access.check_command(request.user, command)
        outcome = bus.send_one(
            access.envelope_for(
                request.user,
                command,
                said,
                key=f"page/{form.cleaned_data['key']}",
                channel="page",
            )
        )
        refusal: LedgerError | None = outcome.error
        if outcome.error is not None:
            receiver = getattr(command, "to_account_id", "")
            refusal = access.hide_refusal(request.user, outcome.error, receiver)
    except ApprovalNeededError:
        reason = str(body.get("reason") or body.get("memo") or body.get("ground") or "")
        return approvals.propose(
            request.user, name, body, ids, key=form.cleaned_data["key"], reason=reason
        )
    except LedgerError as error:
        refusal, outcome = error, None
    if refusal is None:
        return outcome
    listed = refusal.facts.get("errors") or [{"field": refusal.field, "detail": refusal.detail}]
    for item in listed:
        field = item["field"] if item["field"] in form.fields else None
        form.add_error(field, item["detail"])
    # A refusal is recorded under its key: the corrected form is another command.
    form.data = dict(form.data.items()) | {"key": str(uuid4())}
    return None


def _done(
    request: HttpRequest, outcome: handlers.Outcome | Proposal, account_id: str = ""
) -> HttpResponse:
    """To the account, by default that of the first event; or to the proposal, if it waits."""
    if isinstance(outcome, Proposal):
        messages.success(request, "Submitted: it waits for a second person.")
        return redirect("proposal", outcome.pk)
    words = "was already done" if outcome.replayed else "is recorded"
    messages.success(request, f"{outcome.name} {words} at position {outcome.last_position}.")
    query = urlencode({"at_least": outcome.last_position})
    return redirect(
        f"{reverse('account', args=[account_id or outcome.events[0].account_id])}?{query}"
    )


def _at_least(request: HttpRequest) -> int:
    text = request.GET.get("at_least", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidInputError("must be a whole number", field="at_least")
    return min(int(text), store.last_position())


def _account_context(request: HttpRequest, account_id: str) -> dict[str, Any]:
    account_id = canonical_uuid(account_id, field="account_id")
    access.check_account(request.user, account_id)
    at_least = _at_least(request)
    view = queries.account(account_id, at_least=at_least)
    now = store.clock()
    lines = queries.activity(account_id, LIST_MAX)
    return {
        "view": view,
        "account": view.account,
        "available": view.account.available_at(now),
        "held": view.account.held - sum(hold.amount for _, hold in view.account.due_holds(now)),
        "holds": [
            (hold_id, hold)
            for hold_id, hold in view.account.holds.items()
            if hold.expires_at is None or hold.expires_at > now
        ],
        "activity": lines,
        "at_least": at_least,
        "health": queries.health() if not view.is_current else None,
        "statement_formats": statements.FORMATS,
    }


@require_GET
@page("")
def account(request: HttpRequest, account_id: str) -> HttpResponse:
    """Balance, chart, activity and what can be done."""
    account_id = canonical_uuid(account_id, field="account_id")
    look(request, "account", account_id)
    return render(request, "pages/account.html", _account_context(request, account_id))


@require_GET
@page("")
def account_live(request: HttpRequest, account_id: str) -> HttpResponse:
    """The part of an account's page that refreshes itself while the projection catches up."""
    return render(request, "pages/_account_live.html", _account_context(request, account_id))


@require_GET
@page("")
def account_chart(request: HttpRequest, account_id: str) -> JsonResponse:
    """Balance over time for the chart: seconds, and minor units as whole numbers."""
    account_id = canonical_uuid(account_id, field="account_id")
    access.check_account(request.user, account_id)
    lines = queries.activity(account_id)[::-1]
    return JsonResponse(
        {
            "times": [line.recorded_at for line in lines],
            "balances": [line.balance for line in lines],
            "versions": [line.version for line in lines],
            "currency": lines[-1].currency if lines else "",
        }
    )


@require_http_methods(["GET", "POST"])
@page("")
def act(request: HttpRequest, account_id: str, action: str) -> HttpResponse:
    """The form of one action on an account, and its submission."""
    if action not in ACTIONS:
        raise NotFoundError(f"there is no action {action}")
    name, title, form_class = ACTIONS[action]
    account_id = canonical_uuid(account_id, field="account_id")
    access.check_account(request.user, account_id)
    if not (name == "Transfer" and "transfer_own" in roles.actions_of(request.user)):
        roles.require(request.user, COMMANDS[name].action)
    look(request, "account", account_id)
    view = queries.account(account_id)
    asked = {name: text for name, text in request.GET.items() if name != "key"}
    form = form_class(request.POST or None, initial=asked)
    if "backdate" not in roles.actions_of(request.user):
        form.fields.pop("effective_at", None)
    if request.method == "POST" and form.is_valid():
        body = form.body()
        ids = {"account_id": account_id}
        if name not in ("FreezeAccount", "UnfreezeAccount", "CloseAccount", "EraseHolder"):
            body["currency"] = view.account.currency
        if name == "Transfer":
            ids = {}
            body["from_account_id"] = account_id
            body["to_account_id"] = account_id_of(body.get("to_account_id", ""))
        outcome = _send(request, form, name, body, ids)
        if outcome is not None:
            return _done(request, outcome, account_id)
    return render(
        request,
        "pages/command.html",
        {"form": form, "title": title, "view": view, "account": view.account},
    )


@require_http_methods(["GET", "POST"])
@page("hold")
def act_on_hold(request: HttpRequest, account_id: str, hold_id: str, action: str) -> HttpResponse:
    """Capture a hold, or release it; a page asks first."""
    if action not in HOLD_ACTIONS:
        raise NotFoundError(f"there is no action {action}")
    name, form_class = HOLD_ACTIONS[action]
    ids = {
        "account_id": canonical_uuid(account_id, field="account_id"),
        "hold_id": canonical_uuid(hold_id, field="hold_id"),
    }
    look(request, "account", ids["account_id"])
    form = form_class(request.POST or None)
    view = queries.account(ids["account_id"])
    if request.method == "POST" and form.is_valid():
        body = form.body()
        if "amount" in body:
            body["currency"] = view.account.currency
        outcome = _send(request, form, name, body, ids)
        if outcome is not None:
            return _done(request, outcome, ids["account_id"])
    title = f"{action.capitalize()} this hold"
    return render(
        request,
        "pages/command.html",
        {
            "form": form,
            "title": title,
            "view": view,
            "account": view.account,
            "hold": view.account.holds.get(ids["hold_id"]),
        },
    )


@require_http_methods(["GET", "POST"])
@page("read")
def transaction(request: HttpRequest, command_id: str) -> HttpResponse:
    """A command with its events; a supervisor can reverse it."""
    command_id = canonical_uuid(command_id, field="command_id")
    row = Command.objects.filter(pk=command_id).first()
    if row is None:
        raise NotFoundError(f"transaction {command_id} does not exist")
    look(request, "transaction", *store.accounts_of_command(command_id))
    form = forms.ReasonForm(request.POST or None)
    if request.method == "POST":
        roles.require(request.user, "reverse")
    if request.method == "POST" and form.is_valid():
        body = form.body() | {"transaction_id": command_id}
        outcome = _send(request, form, "ReverseTransaction", body, {})
        if outcome is not None:
            return _done(request, outcome)
    events = (
        store.read_range(row.first_position, row.last_position or row.first_position)
        if row.first_position
        else []
    )
    return render(
        request,
        "pages/transaction.html",
        {
            "command": row,
            "events": [(item, item.event) for item in events],
            "form": form,
            "undoes": row.body.get("corrects") or row.body.get("transaction_id"),
            "undone_by": store.corrections_of(command_id),
            "reversible": any(item.event.delta for item in events)
            and row.name != "ReverseTransaction",
        },
    )


@require_http_methods(["GET", "POST"])
@page("import")
def import_file(request: HttpRequest) -> HttpResponse:
    """Upload a file and see what it would do."""
    form = forms.ImportForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        job = _preview(request, form)
        if job is not None:
            return redirect("import-job", job.pk)
    jobs = ImportJob.objects.defer("content")[:10]
    return render(request, "pages/import.html", {"form": form, "jobs": jobs})


def _preview(request: HttpRequest, form: forms.ImportForm) -> ImportJob | None:
    upload = form.cleaned_data["file"]
    if (upload.size or 0) > import_jobs.FILE_MAX:
        form.add_error(
            "file", "is larger than 20 MB: split it, or use manage.py import_transactions"
        )
        return None
    job = ImportJob(
        pk=str(uuid4()),
        file_name=(upload.name or "file")[:200],
        content=upload.read(),
        options={
            name: form.cleaned_data[name]
            for name in ("source", "currency", "overdraft_limit", "skip_bad_rows")
        },
        created_by_id=int(request.user.pk or 0),
    )
    try:
        options = import_jobs.options_of(job)
        parsed = imports.read(bytes(job.content), options)
        if parsed.rows_total > import_jobs.ROWS_MAX:
            raise InvalidInputError(
                "has too many rows: use manage.py import_transactions", field="file"
            )
        job.result = imports.as_json(imports.preview(parsed, options))
    except KeyError:
        form.add_error("currency", "is not an ISO 4217 code in capitals such as EUR")
        return None
    except LedgerError as error:
        form.add_error(error.field if error.field in form.fields else "file", error.detail)
        return None
    job.rows_total = parsed.rows_total
    job.save()
    return job


def _job(request: HttpRequest, job_id: str) -> ImportJob:
    job = ImportJob.objects.defer("content").filter(pk=canonical_uuid(job_id, field="job")).first()
    if job is None:
        raise NotFoundError("there is no such import")
    return job


@require_GET
@page("import")
def import_job(request: HttpRequest, job_id: str) -> HttpResponse:
    """Preview, progress and result of an import."""
    job = _job(request, job_id)
    template = (
        "pages/_import_live.html" if request.headers.get("HX-Request") else "pages/import_job.html"
    )
    return render(request, template, {"job": job})


@require_POST
@page("import")
def import_start(request: HttpRequest, job_id: str) -> HttpResponse:
    """Import what was previewed."""
    job = _job(request, job_id)
    import_jobs.start(job)
    return redirect("import-job", job.pk)


@require_GET
def problem_type(request: HttpRequest, code: str) -> HttpResponse:
    """What a problem's `type` leads to."""
    if code not in DOCUMENTED:
        return render(request, "errors/404.html", status=404)
    return render(
        request, "pages/problem.html", {"code": code, "text": DOCUMENTED[code], "all": DOCUMENTED}
    )


@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    """Up: the process answers."""
    del request
    return JsonResponse({"status": "up"})


READY_LAG_EVENTS = 10_000
"""Beyond this lag the projections are called behind; commands and reads go on all the same."""


@require_GET
def readyz(request: HttpRequest) -> JsonResponse:
    """Ready: the event store answers. Tells apart whether the projections are caught up."""
    del request
    try:
        health = queries.health()
    except DatabaseError:
        return JsonResponse({"status": "down", "event_store": "does not answer"}, status=503)
    caught_up = bool(health.generation) and health.lag_events == 0
    body = {
        "status": "ready",
        "caught_up": caught_up,
        "degraded": bool(health.redis_error or health.relay_error or health.parked)
        or health.lag_events > READY_LAG_EVENTS,
        "log_position": health.log_position,
        "projected_position": health.projected_position,
        "relayed_position": health.relayed_position,
        "lag_events": health.lag_events,
        "parked_accounts": len(health.parked),
    }
    return JsonResponse(body)
