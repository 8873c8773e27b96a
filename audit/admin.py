"""The auditor's admin: everything to read, nothing to write, for every role, superusers included."""

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.paginator import EstimatePaginator
from audit.timeline import timeline_of
from ledger.errors import LedgerError
from ledger.models import Account, Command, Event, ImportJob, Snapshot
from ledger.roles import actions_of
from projections.models import Generation, Relay


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """No add, change, delete or action, by anybody."""

    actions = None
    list_per_page = 50
    show_full_result_count = False
    paginator = EstimatePaginator
    # Exact look-ups only, each by an index; see `get_search_results`.
    exact_search: ClassVar[Sequence[tuple[str, type]]] = ()

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

    def get_search_fields(self, request: HttpRequest) -> Sequence[str]:
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


def _timeline_link(account_id: object, text: object, **query: object) -> SafeString:
    url = reverse("admin:ledger_account_timeline", args=[account_id])
    suffix = "&".join(f"{name}={value}" for name, value in query.items())
    return format_html('<a href="{}?{}">{}</a>', url, suffix, text)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """The log."""

    list_display = ("position", "type", "account", "version", "recorded_at", "effective_at")
    exact_search = (("position", int), ("account_id", UUID))
    search_help_text = "A position, or an account id"

    @admin.display(description="account")
    def account(self, event: Event) -> SafeString:
        """A link to the account just after this event."""
        return _timeline_link(event.account_id, event.account_id, version=event.version)


@admin.register(Command)
class CommandAdmin(ReadOnlyAdmin):
    """Every command that was decided, refusals included."""

    list_display = ("id", "name", "outcome", "actor", "channel", "received_at")
    exact_search = (("id", UUID), ("account_id", UUID))
    search_help_text = "A command id, or for refusals an account id"


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """The heads, and the account timeline."""

    list_display = ("timeline_link", "holder", "reference", "status", "balance", "currency", "version")
    exact_search = (("id", UUID), ("reference", str))
    search_help_text = "An account id, or a reference"

    @admin.display(description="account")
    def timeline_link(self, account: Account) -> SafeString:
        """To the timeline."""
        return _timeline_link(account.id, account.id)

    def get_urls(self) -> list[URLPattern]:
        """The timeline beside the stock pages."""
        timeline = path(
            "<uuid:account_id>/timeline/",
            self.admin_site.admin_view(self.timeline),
            name="ledger_account_timeline",
        )
        return [timeline, *super().get_urls()]

    def timeline(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """The account at a moment: state, events around it, difference to another moment."""
        try:
            shown: dict[str, Any] = {"timeline": timeline_of(str(account_id), request.GET.dict())}
            status = 200
        except LedgerError as error:
            shown, status = {"error": error, "asked": request.GET.dict()}, 400
        return TemplateResponse(
            request,
            "audit/timeline.html",
            {
                **self.admin_site.each_context(request),
                "title": "Account timeline",
                "account_id": str(account_id),
                **shown,
            },
            status=status,
        )


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    """Derived states, disposable."""

    list_display = ("position", "account_id", "version", "recorded_at", "state_schema")
    exact_search = (("account_id", UUID),)
    search_help_text = "An account id"


@admin.register(Generation)
class GenerationAdmin(ReadOnlyAdmin):
    """Builds of the projections, their progress and drift."""

    list_display = ("id", "status", "progress", "drift_total", "reason", "requested_by", "started_at")

    @admin.display(description="progress")
    def progress(self, generation: Generation) -> SafeString:
        """A bar."""
        return format_html(
            '<progress max="{}" value="{}"></progress> {} of {} accounts',
            max(generation.accounts_total, 1),
            generation.accounts_done,
            generation.accounts_done,
            generation.accounts_total,
        )


@admin.register(Relay)
class RelayAdmin(ReadOnlyAdmin):
    """How far the log was copied to Kafka."""

    list_display = ("topic", "position", "error", "updated_at")


@admin.register(ImportJob)
class ImportJobAdmin(ReadOnlyAdmin):
    """Imports from pages."""

    list_display = ("file_name", "status", "rows_done", "rows_total", "created_by", "created_at")
    exclude = ("content",)
