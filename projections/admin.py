"""The builds of the projections and the relay, to read."""

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ledger.admin_base import ReadOnlyAdmin
from projections.models import Generation, Relay


@admin.register(Generation)
class GenerationAdmin(ReadOnlyAdmin):
    """Builds of the projections, their progress and drift."""

    list_display = (
        "id",
        "status",
        "progress",
        "drift_total",
        "reason",
        "requested_by",
        "started_at",
    )

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
