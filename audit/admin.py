"""The auditor's admin: everything to read, nothing to write, for every role, superusers included."""

from uuid import UUID

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_GET

from audit import checker, evidence, screens
from audit.api import zip_response
from audit.models import Pass, Seal
from audit.timeline import whole
from ledger import store
from ledger.admin_base import ReadOnlyAdmin
from ledger.api.problems import status_of
from ledger.errors import LedgerError
from ledger.models import Access, Account, Command, Event, ImportJob, Snapshot


def _timeline_link(account_id: object, text: object, **query: object) -> SafeString:
    url = reverse("admin:ledger_account_timeline", args=[account_id])
    suffix = "&".join(f"{name}={value}" for name, value in query.items())
    return format_html('<a href="{}?{}">{}</a>', url, suffix, text)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """The log."""

    about_accounts = True
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

    about_accounts = True
    list_display = ("id", "name", "outcome", "actor", "channel", "received_at")
    exact_search = (("id", UUID), ("account_id", UUID))
    search_help_text = "A command id, or for refusals an account id"

    def accounts_of(self, obj: Command) -> list[str]:
        """Those that it moved."""
        return store.accounts_of_command(obj.pk)


@admin.register(Seal)
class SealAdmin(ReadOnlyAdmin):
    """Signed tree heads; what they prove is checked by ``manage.py verify`` and ``verify.py``."""

    list_display = ("size", "log", "sealed_at", "root_hex")
    fields = ("log", "size", "sealed_at", "root_hex", "signed_note")
    exact_search = (("size", int),)
    search_help_text = "A number of entries"

    @admin.display(description="signed note")
    def signed_note(self, seal: Seal) -> SafeString:
        """The note as it lies in files, long lines broken."""
        return format_html('<code class="note">{}</code>', seal.note)

    @admin.display(description="root")
    def root_hex(self, seal: Seal) -> str:
        """The root in hex."""
        return bytes(seal.root).hex()


@admin.register(Access)
class AccessAdmin(ReadOnlyAdmin):
    """Who looked at which account, as of when, and why."""

    list_display = ("number", "at", "actor", "what", "account", "moment", "reason", "channel")
    exact_search = (("account_id", UUID), ("actor", str))
    search_help_text = "An account id, or the name of a user"

    @admin.display(description="account")
    def account(self, look: Access) -> str:
        """The account, if it was a single one."""
        return str(look.account_id or "")


@admin.register(Pass)
class PassAdmin(ReadOnlyAdmin):
    """What the continuous checker covered and found, and how things stand."""

    def get_urls(self) -> list[URLPattern]:
        """The page that says how things stand, beside the list."""
        page = path(
            "integrity/", self.admin_site.admin_view(self.integrity), name="audit_integrity"
        )
        return [page, *super().get_urls()]

    def integrity(self, request: HttpRequest) -> HttpResponse:
        """Last full pass, coverage, oldest unchecked event, findings, seals, witness."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Integrity",
            "integrity": checker.standing(),
        }
        return TemplateResponse(request, "audit/integrity.html", context)

    list_display = (
        "__str__",
        "started_at",
        "finished_at",
        "accounts",
        "copies",
        "seals",
        "found",
    )
    fields = (
        "started_at",
        "finished_at",
        "ends",
        "stage",
        "covered",
        "accounts",
        "copies",
        "seals",
        "found",
        "listed",
    )
    exact_search = (("id", int),)
    search_help_text = "The number of a verification"

    @admin.display(description="findings")
    def found(self, run: Pass) -> str:
        """How many, or that it is not over."""
        if run.findings_total:
            return f"{run.findings_total} WRONG"
        return "none" if run.finished_at else "none yet"

    @admin.display(description="what is wrong")
    def listed(self, run: Pass) -> SafeString:
        """Each finding on a line."""
        lines = [(f"{item['row']}, {item['column']}: {item['problem']}",) for item in run.findings]
        return format_html_join("", "<p>{}</p>", lines) or format_html("nothing")


ROUTES = {name.replace("-", "_"): f"admin:ledger_account_{name}" for name in screens.SCREENS} | {
    "command": "admin:ledger_command_change",
    "account": "admin:ledger_account_change",
    "evidence": "admin:ledger_account_evidence",
}


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """The heads, and the account timeline."""

    about_accounts = True
    list_display = (
        "timeline_link",
        "holder",
        "reference",
        "status",
        "balance",
        "currency",
        "version",
    )
    exact_search = (("id", UUID), ("reference", str))
    search_help_text = "An account id, or a reference"

    def accounts_of(self, obj: Account) -> list[str]:
        """Itself."""
        return [str(obj.pk)]

    @admin.display(description="account")
    def timeline_link(self, account: Account) -> SafeString:
        """To the timeline."""
        return _timeline_link(account.id, account.id)

    def get_urls(self) -> list[URLPattern]:
        """The screens about the past beside the stock pages."""
        past = [self._route(name) for name in screens.SCREENS]
        bundle = path(
            "<uuid:account_id>/evidence/",
            self.admin_site.admin_view(self.evidence),
            name="ledger_account_evidence",
        )
        return [*past, bundle, *super().get_urls()]

    def _route(self, name: str) -> URLPattern:
        def screen(request: HttpRequest, account_id: UUID) -> HttpResponse:
            refused = self.gate(request, name, [str(account_id)])
            return refused or screens.render(
                request,
                name,
                str(account_id),
                layout="admin/base_site.html",
                routes=ROUTES,
                around=self.admin_site.each_context(request),
            )

        view = self.admin_site.admin_view(require_GET(screen))
        return path(f"<uuid:account_id>/{name}/", view, name=f"ledger_account_{name}")

    def evidence(self, request: HttpRequest, account_id: UUID) -> HttpResponseBase:
        """The evidence bundle, as the API gives it, with the reason that was stated here."""
        refused = self.gate(request, "evidence", [str(account_id)])
        if refused is not None:
            return refused
        try:
            scope, seal = evidence.scope_of(
                str(account_id),
                first=whole(request.GET, "from_version"),
                last=whole(request.GET, "until_version"),
                size=whole(request.GET, "seal"),
            )
            return zip_response(scope, seal)
        except LedgerError as error:
            context = {**self.admin_site.each_context(request), "title": "Evidence", "error": error}
            return TemplateResponse(request, "audit/problem.html", context, status=status_of(error))


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    """Derived states, disposable."""

    about_accounts = True
    list_display = ("position", "account_id", "version", "recorded_at", "state_schema")
    exact_search = (("account_id", UUID),)
    search_help_text = "An account id"


@admin.register(ImportJob)
class ImportJobAdmin(ReadOnlyAdmin):
    """Imports from pages."""

    list_display = ("file_name", "status", "rows_done", "rows_total", "by", "created_at")
    fields = (
        "file_name",
        "status",
        "options",
        "rows_done",
        "rows_total",
        "result",
        "by",
        "created_at",
    )

    @admin.display(description="created by")
    def by(self, job: ImportJob) -> str:
        """The name alone: auditors may not open users."""
        return job.created_by.get_username()
