"""The base of every admin page over ledger data: read-only, fast on tables of any size, recorded.

Pages about accounts ask once an hour for the reason of looking, and record every look with it.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from ledger.pages import ReasonMissingError, ask_reason, look
from ledger.roles import actions_of


class EstimatePaginator(Paginator):  # type: ignore[type-arg]  # not subscriptable at run time
    """Takes PostgreSQL's own estimate for an unfiltered table; counts at most 10,000 otherwise."""

    COUNT_MAX = 10_000

    @cached_property
    def count(self) -> int:
        """The estimated or bounded number of rows."""
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # the admin passes querysets
        query = rows.query
        if not query.where:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE relname = %s",
                    [rows.model._meta.db_table],
                )
                estimate = int(cursor.fetchone()[0])
            if estimate > self.COUNT_MAX:
                return estimate
        return len(rows.order_by()[: self.COUNT_MAX].values_list("pk"))


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    """No add, change, delete or action, by anybody."""

    actions = None
    list_per_page = 50
    show_full_result_count = False
    paginator = EstimatePaginator
    # Whether pages show something of accounts: looks at them are recorded, with the reason.
    about_accounts: ClassVar[bool] = False
    # Exact look-ups only, each by an index; see `get_search_results`.
    exact_search: ClassVar[Sequence[tuple[str, type]]] = ()

    def gate(
        self, request: HttpRequest, what: str, accounts: Sequence[str] = (), moment: str = ""
    ) -> HttpResponse | None:
        """Record the look; a page that asks for the reason if there is none yet."""
        try:
            look(request, what, *accounts, past=True, moment=moment, channel="admin")
        except ReasonMissingError:
            context = self.admin_site.each_context(request)
            return ask_reason(request, "admin/base_site.html", context, status=403)
        return None

    def accounts_of(self, obj: Any) -> list[str]:
        """The accounts that a row is about."""
        return [str(obj.account_id)]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, once the look is recorded."""
        asked = self.about_accounts and self.has_view_permission(request)
        refused = self.gate(request, f"list of {self.opts.verbose_name_plural}") if asked else None
        return refused or super().changelist_view(request, extra_context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """A row, once the look is recorded."""
        refused = None
        if self.about_accounts and object_id and self.has_view_permission(request):
            obj = self.get_object(request, unquote(object_id))
            if obj is not None:
                moment = f"{self.opts.verbose_name} {obj.pk}"
                refused = self.gate(
                    request, str(self.opts.verbose_name), self.accounts_of(obj), moment
                )
        return refused or super().changeform_view(request, object_id, form_url, extra_context)

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """The auditor role and superusers."""
        return "audit" in actions_of(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """As `has_view_permission`."""
        return self.has_view_permission(request)

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        """Shows the search box."""
        return [name for name, _ in self.exact_search]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Rows where one of `exact_search` equals the term."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = queryset.none()
        for name, kind in self.exact_search:
            try:
                value = kind(term)
            except ValueError:
                continue
            if "\x00" in term or (kind is int and abs(value) > 2**62):
                continue
            found = found | queryset.filter(**{name: value})
        return found, False
