"""The back office's routes to the screens about the past."""

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_GET

from audit import screens
from ledger import access
from ledger.api.serializers import canonical_uuid
from ledger.pages import look, page

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


urlpatterns = [_route(name) for name in screens.SCREENS]
