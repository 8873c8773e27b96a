"""Signing in: by password and a second factor or a passkey; nobody opens an account by themselves."""

from collections.abc import Callable
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.views import login, password_change, reauthenticate
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib.auth.views import LogoutView
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import include, path


class Adapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    """Users are made by administrators, in the admin."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Never."""
        del request
        return False


class SecondFactor:
    """Members of the groups in LEDGER_MFA_ROLES set up a second factor before anything else."""

    OPEN = ("/account/", "/logout", "/login", "/static/", "/healthz", "/readyz", "/favicon.ico")

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer, or the way to the page that sets one up."""
        if settings.LEDGER_MFA_ROLES and self._is_missing(request):
            return redirect("mfa_index")
        return self.get_response(request)

    def _is_missing(self, request: HttpRequest) -> bool:
        user: Any = request.user
        if not user.is_authenticated or request.path.startswith(self.OPEN):
            return False
        names = {group.name for group in user.groups.all()}
        return bool(names & set(settings.LEDGER_MFA_ROLES)) and not is_mfa_enabled(user)


def nowhere(request: HttpRequest) -> HttpResponseBase:
    """What allauth links to and the ledger does not have."""
    raise Http404(request.path)


logout = LogoutView.as_view()
urlpatterns = [
    path("login", login, name="login"),
    path("login", login, name="account_login"),
    path("logout", logout, name="logout"),
    path("logout", logout, name="account_logout"),
    path("account/signup", nowhere, name="account_signup"),
    path("account/inactive", nowhere, name="account_inactive"),
    path("account/reauthenticate", reauthenticate, name="account_reauthenticate"),
    path("account/password", password_change, name="account_change_password"),
    path("account/", include("allauth.mfa.urls")),
]
