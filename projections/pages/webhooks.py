"""Pages for webhooks: add one, see what was delivered, switch it off and on."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_http_methods

from ledger import looks
from ledger.api.problems import correlation_id
from ledger.domain.events import EVENT_TYPES
from ledger.errors import LedgerError, NotFoundError
from ledger.pages import page
from projections import webhooks
from projections.models import Webhook

DELIVERIES_SHOWN = 100


@require_http_methods(["GET", "POST"])
@page("operate")
def all_webhooks(request: HttpRequest) -> HttpResponse:
    """The webhooks, and the form that adds one."""
    shown = {"webhooks": Webhook.objects.order_by("id"), "types": sorted(EVENT_TYPES)}
    if request.method == "POST":
        url, types = request.POST.get("url", "").strip(), request.POST.getlist("types")
        try:
            hook = webhooks.add(url, types, user=request.user.get_username())
        except LedgerError as error:
            given = {"error": error, "url": url, "chosen": types}
            return render(request, "pages/webhooks.html", shown | given, status=400)
        _record(request, "webhook added", url)
        return redirect("webhook", hook.pk)
    return render(request, "pages/webhooks.html", shown)


@require_http_methods(["GET", "POST"])
@page("operate")
def one_webhook(request: HttpRequest, number: int) -> HttpResponse:
    """One webhook with its secret and its deliveries; switch it, or remove it."""
    hook = Webhook.objects.filter(pk=number).first()
    if hook is None:
        raise NotFoundError(f"webhook {number} does not exist")
    if request.method == "POST":
        act = request.POST.get("act", "")
        _record(request, f"webhook {act}"[:40], hook.url)
        if act == "on":
            webhooks.switch_on(hook)
            messages.success(request, "On: it goes on where it stopped.")
        elif act == "off":
            Webhook.objects.filter(pk=hook.pk).update(is_on=False)
            messages.success(request, "Off.")
        elif act == "remove":
            hook.delete()
            messages.success(request, "Removed.")
            return redirect("webhooks")
        return redirect("webhook", number)
    rows = hook.delivery_set.order_by("-id")[:DELIVERIES_SHOWN]
    return render(request, "pages/webhook.html", {"webhook": hook, "deliveries": rows})


def _record(request: HttpRequest, what: str, url: str) -> None:
    looks.record(
        request.user, what, moment=url, channel="page", correlation_id=correlation_id(request)
    )


urlpatterns = [
    path("webhooks", all_webhooks, name="webhooks"),
    path("webhooks/<int:number>", one_webhook, name="webhook"),
]
