"""Close accounting periods: what lies in one can no longer be back-dated into."""

from typing import Any

from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods

from ledger import looks
from ledger.domain.times import parse_moment
from ledger.errors import InvalidInputError, LedgerError
from ledger.models import Period
from ledger.pages import page
from ledger.roles import require

LIST_MAX = 100


@require_http_methods(["GET", "POST"])
@page("read")
def periods(request: HttpRequest) -> HttpResponse:
    """The periods that are closed, and the form that closes the next."""
    context: dict[str, Any] = {"periods": Period.objects.all()[:LIST_MAX]}
    if request.method == "POST":
        require(request.user, "close_period")
        try:
            closed = _close(request)
        except LedgerError as error:
            context |= {"error": error, "given": request.POST}
            return render(request, "pages/periods.html", context, status=400)
        messages.success(request, f"Nothing can be back-dated through {closed.isoformat()} now.")
        return redirect("periods")
    return render(request, "pages/periods.html", context)


def _close(request: HttpRequest) -> Any:
    through = parse_moment(request.POST.get("through", ""), field="through")
    reason = looks.check_reason(request.POST.get("reason", ""), field="reason")
    try:
        with transaction.atomic():
            Period.objects.create(
                closed_through=through, closed_by=request.user.get_username(), reason=reason
            )
    except IntegrityError as error:
        raise InvalidInputError(str(error).splitlines()[0], field="through") from error
    return through


urlpatterns = [path("periods", periods, name="periods")]
