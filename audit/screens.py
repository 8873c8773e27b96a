"""The screens about one account in the past: the same in the admin and in the back office.

A screen makes the context of its template from what was asked; the caller has checked who may look,
has recorded the look, and says what is around it (`layout`) and where its links lead (`routes`).
"""

from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from audit import explained, known, what_if
from audit.spoken import zone_of
from audit.timeline import NAMES, Asked, timeline_of
from ledger.api.problems import status_of
from ledger.errors import LedgerError


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """`ask` gives what the template shows; `fields` are the names of the question.

    Without what it `needs` there is only the form.
    """

    title: str
    template: str
    fields: tuple[str, ...]
    ask: Callable[[str, Asked], Any]
    needs: str = ""


SCREENS: Mapping[str, Screen] = {
    "timeline": Screen(
        title="Account timeline", template="audit/timeline.html", fields=NAMES, ask=timeline_of
    ),
    "explain": Screen(
        title="Explain this balance",
        template="audit/explain.html",
        fields=("expected", "version", "as_of", "effective_as_of", "before"),
        ask=explained.explain,
        needs="expected",
    ),
    "known": Screen(
        title="What did we know, and when",
        template="audit/known.html",
        fields=("effective_a", "effective_b", "known_a", "known_b"),
        ask=known.known,
        needs="known_a",
    ),
    "what-if": Screen(
        title="What if",
        template="audit/what_if.html",
        fields=("command", "amount", "to_account_id", "version", "as_of"),
        ask=what_if.what_if,
        needs="command",
    ),
}


def zone_for(request: HttpRequest) -> ZoneInfo:
    """The reader's time zone: of the address, or as the browser said, or UTC."""
    return zone_of(request.GET.get("zone", "") or request.COOKIES.get("zone", ""))


def render(
    request: HttpRequest,
    name: str,
    account_id: str,
    *,
    layout: str,
    routes: Mapping[str, str],
    around: Mapping[str, Any],
) -> HttpResponse:
    """The screen, or with the question still in it what is wrong with that."""
    screen = SCREENS[name]
    given = {field: request.GET.get(field, "") for field in screen.fields}
    context: dict[str, Any] = {
        **around,
        "layout": layout,
        "routes": routes,
        "title": screen.title,
        "here": name,
        "commands": what_if.COMMANDS,
        "account_id": account_id,
        "asked": given,
    }
    try:
        zone = zone_for(request)
        context["zone"] = zone.key
        if not screen.needs or given[screen.needs].strip():
            context["shown"] = screen.ask(account_id, Asked(given=given, zone=zone))
    except LedgerError as error:
        context["error"] = error
        return TemplateResponse(request, screen.template, context, status=status_of(error))
    return TemplateResponse(request, screen.template, context)
