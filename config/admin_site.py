"""The admin site: for auditors, who read, and superusers, who also manage users."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.http import urlencode

from ledger import looks
from ledger.pages import take_reason
from ledger.roles import actions_of


class LedgerAdminSite(admin.AdminSite):
    """Open to the auditor role and superusers; every ledger page in it is read-only."""

    site_title = "Ledger audit"
    site_header = "Ledger audit"
    index_title = "Audit"
    enable_nav_sidebar = True

    def has_permission(self, request: HttpRequest) -> bool:
        """Signed in, active, and allowed to audit."""
        return "audit" in actions_of(request.user)

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """One way in for everybody; Django's own asks for a flag that auditors do not have."""
        target = request.GET.get("next", "") or reverse("admin:index")
        return redirect(f"{reverse('login')}?{urlencode({'next': target})}")

    def each_context(self, request: Any) -> dict[str, Any]:
        """With the reason that the reader has stated."""
        return {**super().each_context(request), "read_reason": looks.reason_of(request)}

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """The page that asks why, beside the stock ones."""
        own = path("reason/", self.admin_view(self.reason), name="read_reason")
        return [own, *super().get_urls()]

    def reason(self, request: HttpRequest) -> HttpResponse:
        """Take the reason for looking, and go on to where it was asked for."""
        return take_reason(
            request,
            "admin/base_site.html",
            self.each_context(request),
            default=reverse("admin:index"),
        )


class LedgerAdminConfig(AdminConfig):
    """Makes `LedgerAdminSite` the default site."""

    default_site = "config.admin_site.LedgerAdminSite"
