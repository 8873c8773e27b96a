"""What a page is told while it is open: that an account has moved, and how current it is."""

from collections.abc import Sequence

from django.http import HttpRequest, HttpResponseBase
from django.urls import path
from django.views.decorators.http import require_GET

from ledger import access, streams
from ledger.api.serializers import canonical_uuid
from ledger.pages import page
from projections import queries


@require_GET
@page("")
def account_stream(request: HttpRequest, account_id: str) -> HttpResponseBase:
    """The account's version whenever it changes; the figures are fetched by who wants to see them."""
    account_id = canonical_uuid(account_id, field="account_id")
    access.check_account(request.user, account_id)
    told: tuple[int, bool] | None = None

    def look() -> Sequence[streams.Message]:
        nonlocal told
        view = queries.account(account_id)
        now = (view.account.version, view.is_current)
        if now == told:
            return []
        told = now
        data = {"version": view.account.version, "is_current": view.is_current}
        return [streams.Message(event="account", data=data)]

    return streams.respond(look)


urlpatterns = [path("accounts/<str:account_id>/stream", account_stream, name="account-stream")]
