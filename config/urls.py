"""Joins the packages' routes."""

from csp.decorators import csp_update
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import include, path, reverse
from django.views.decorators.http import require_http_methods
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from ledger.api import problems
from ledger.pages import take_reason

# The viewer sets styles from script; nothing else on the site may.
api_docs = csp_update({"style-src": ["'unsafe-inline'"]})(
    SpectacularSwaggerSplitView.as_view(url_name="schema")
)


@require_http_methods(["GET", "POST"])
@login_required
def reason(request: HttpRequest) -> HttpResponse:
    """Why somebody looks at the past; kept for an hour."""
    return take_reason(request, "base.html", {}, default=reverse("home"))


urlpatterns = [
    path("api/v1/", include("projections.api")),
    path("api/v1/", include("ledger.api.urls")),
    path("api/v1/", include("audit.api")),
    path("api/v1/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/v1/docs/", api_docs, name="api-docs"),
    path("admin/", admin.site.urls),
    # Pages that are one file of their own, such as statements, name no icon: browsers ask here.
    path("favicon.ico", lambda _: redirect(static("ledger/icon.svg"))),
    path("reason", reason, name="reason"),
    path("", include("config.accounts")),
    path("", include("config.metrics")),
    path("", include("audit.pages")),
    path("", include("projections.pages.accounts")),
    path("", include("projections.pages.approvals")),
    path("", include("projections.pages.live")),
    path("", include("projections.pages.operations")),
    path("", include("projections.pages.periods")),
    path("", include("projections.pages.reconciliations")),
    path("", include("projections.pages.webhooks")),
    path("", include("projections.pages.urls")),
]


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404: a problem for the API, a page for people."""
    if request.path.startswith("/api/"):
        return problems.json_not_found(request)
    return render(request, "errors/404.html", status=404)


def server_error(request: HttpRequest) -> HttpResponse:
    """500: a problem for the API, a page for people."""
    if request.path.startswith("/api/"):
        return problems.json_server_error(request)
    return render(request, "errors/500.html", status=500)


handler404 = "config.urls.not_found"
handler500 = "config.urls.server_error"
