"""The back office's routes to the screens about the past, statements and the whole ledger."""

from datetime import timedelta
from typing import Any

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path
from django.views.decorators.http import require_GET, require_http_methods

from audit import replays, screens, whole_changes
from audit.models import Replay
from audit.timeline import Asked
from audit.timeline import whole as whole_number
from ledger import access, csvs, history, looks, statements, store
from ledger.api.problems import correlation_id, status_of
from ledger.api.serializers import canonical_uuid
from ledger.errors import InvalidInputError, LedgerError
from ledger.history import Moment
from ledger.pages import look, page
from ledger.roles import require

ROUTES = {name.replace("-", "_"): f"account-{name}" for name in screens.SCREENS} | {
    "command": "transaction",
    "account": "account",
    "evidence": "api-evidence",
}


def _route(name: str) -> URLPattern:
    @require_GET
    @page("")
    def screen(request: HttpRequest, account_id: str) -> HttpResponse:
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        look(request, name, account_id, past=True)
        return screens.render(
            request, name, account_id, layout="base.html", routes=ROUTES, around={}
        )

    return path(f"accounts/<str:account_id>/{name}", screen, name=f"account-{name}")


@require_GET
@page("")
def statement(request: HttpRequest, account_id: str) -> HttpResponse:
    """What happened on an account between two moments, both inclusive, as HTML, PDF, CSV or XLSX."""
    account_id = canonical_uuid(account_id, field="account_id")
    access.check_account(request.user, account_id)
    look(request, "statement", account_id)
    kind = request.GET.get("format", "html")
    if kind not in statements.FORMATS:
        raise InvalidInputError(f"must be one of {', '.join(statements.FORMATS)}", field="format")
    zone = screens.zone_for(request)
    asked = Asked(given=request.GET.dict(), zone=zone)
    since, until = asked.time("since"), asked.time("until")
    first = 1
    if since is not None:
        before = store.position_at(min(since, store.clock()) - timedelta(microseconds=1))
        first = store.versions_until(account_id, before) + 1
    last = store.head_version(account_id)
    if until is not None:
        last = store.versions_until(account_id, history.check_moment(Moment(as_of=until))[0])
    if last < first:
        raise InvalidInputError("nothing was recorded between these moments", field="until")
    made = statements.statement_of(account_id, first, last)
    content_type, write = statements.FORMATS[kind]
    answer = HttpResponse(write(made), content_type=content_type)
    how = "inline" if kind == "html" else "attachment"
    name = f"statement-{account_id}-{first}-{last}.{kind}"
    answer["Content-Disposition"] = f'{how}; filename="{name}"'
    return answer


@require_GET
@page("read_log")
def whole(request: HttpRequest) -> HttpResponse:
    """The whole ledger at a moment: per currency what accounts hold, what came from outside, zero."""
    look(request, "trial balance", past=bool(request.GET.get("as_of")))
    zone = screens.zone_for(request)
    asked = Asked(given=request.GET.dict(), zone=zone)
    moment = Moment(as_of=asked.time("as_of"), position=whole_number(request.GET, "position"))
    if moment.as_of is not None and moment.position is not None:
        raise InvalidInputError("give one of position and as_of", field="as_of")
    position, _ = history.check_moment(moment)
    rows = history.trial_balance(position)
    if request.GET.get("format") == "csv":
        lines = [
            (row["currency"], name, amount)
            for row in rows
            for name, amount in (
                ("accounts", row["accounts"]), *row["outside"].items(), ("sum", row["sum"]),
            )
        ]  # fmt: skip
        answer = HttpResponse(
            csvs.write(("currency", "name", "amount"), lines), "text/csv; charset=utf-8"
        )
        answer["Content-Disposition"] = f'attachment; filename="trial-balance-{position}.csv"'
        return answer
    return render(
        request,
        "audit/whole.html",
        {
            "rows": rows,
            "position": position,
            "zone": zone.key,
            "as_of": moment.as_of,
            "asked": request.GET,
            "balances": all(not row["sum"].strip("-0.") for row in rows),
        },
    )


@require_GET
@page("read_log")
def changes(request: HttpRequest) -> HttpResponse:
    """What was recorded between two moments and counts within a period, over all accounts."""
    look(request, "changes of a period", past=bool(request.GET.get("known_a")))
    zone = screens.zone_for(request)
    asked = Asked(given=request.GET.dict(), zone=zone)
    context: dict[str, Any] = {"asked": request.GET, "zone": zone.key}
    try:
        shown = whole_changes.changes(asked) if asked.get("known_a") else None
    except LedgerError as error:
        return render(
            request, "audit/changes.html", {**context, "error": error}, status=status_of(error)
        )
    if shown is not None and asked.get("format") == "csv":
        answer = HttpResponse(whole_changes.as_csv(shown), "text/csv; charset=utf-8")
        name = f"changes-{shown.after}-{shown.until}.csv"
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer
    return render(request, "audit/changes.html", {**context, "shown": shown})


@require_http_methods(["GET", "POST"])
@page("read_log")
def all_replays(request: HttpRequest) -> HttpResponse:
    """The replays that were made, and the form that starts one."""
    shown: dict[str, Any] = {"replays": Replay.objects.all()[:20]}
    if request.method == "POST":
        require(request.user, "operate")
        given = request.POST.get("reason", "")
        try:
            reason = looks.check_reason(given, field="reason")
            _record(request, "replay of the log", reason)
            return redirect("replay", replays.start(request.user, reason).pk)
        except LedgerError as error:
            return render(
                request, "audit/replays.html", {**shown, "error": error, "given": given}, status=400
            )
    return render(request, "audit/replays.html", shown)


@require_http_methods(["GET", "POST"])
@page("read_log")
def one_replay(request: HttpRequest, number: int) -> HttpResponse:
    """Progress and result of a replay, and the button that swaps."""
    row = replays.find(number)
    if request.method == "POST":
        require(request.user, "operate")
        _record(request, f"swap after replay {number}", row.reason)
        replays.swap(row)
        return redirect("replay", number)
    is_lost = replays.is_lost(row)
    template = (
        "audit/_replay_live.html" if request.headers.get("HX-Request") else "audit/replay.html"
    )
    is_working = row.status in ("running", "swapping") and not is_lost
    return render(request, template, {"row": row, "is_lost": is_lost, "is_working": is_working})


def _record(request: HttpRequest, what: str, reason: str) -> None:
    looks.record(
        request.user, what, reason=reason, channel="page", correlation_id=correlation_id(request)
    )


# A statement is one file with its style in it, on screen as in a mail.
own_style: Any = csp_update({"style-src": ["'unsafe-inline'"]})

urlpatterns = [
    *(_route(name) for name in screens.SCREENS),
    path("accounts/<str:account_id>/statement", own_style(statement), name="account-statement"),
    path("ledger", whole, name="whole-ledger"),
    path("ledger/changes", changes, name="ledger-changes"),
    path("replays", all_replays, name="replays"),
    path("replays/<int:number>", one_replay, name="replay"),
]
