"""The admin site: for auditors, who read, and superusers, who also manage users."""

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest

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


class LedgerAdminConfig(AdminConfig):
    """Makes `LedgerAdminSite` the default site."""

    default_site = "config.admin_site.LedgerAdminSite"
