"""``/metrics``: what every process counted, and how things stand when it is asked."""

import os
import secrets
import time
from collections.abc import Callable, Iterable

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import path
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from audit import checker
from ledger import approvals, metrics, roles, store
from ledger.models import ImportJob
from projections import queries
from projections.models import Parked


class RequestMetrics:
    """Times every request; the label is the route's pattern, so that there are few."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The answer, counted."""
        began = time.perf_counter()
        response = self.get_response(request)
        match = request.resolver_match
        metrics.REQUESTS.labels(
            request.method if request.method in KNOWN_METHODS else "other",
            match.route if match is not None else "",
            response.status_code,
        ).observe(time.perf_counter() - began)
        return response


KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _gauges() -> Iterable[tuple[str, str, float]]:
    """Name, meaning and value of everything that has a state."""
    health = queries.health()
    yield "log_position", "Events in the log.", health.log_position
    yield "projected_position", "Events in the projections.", health.projected_position
    yield "projection_lag_events", "Events not projected yet.", health.lag_events
    yield "relay_lag_events", "Events not on the topic yet.", health.unrelayed
    yield "relay_stalled", "1 if the relay cannot go on.", bool(health.relay_error)
    yield "redis_up", "1 if Redis answers.", not health.redis_error
    yield "generation_live", "1 if there are projections to read.", bool(health.generation)
    yield "parked_accounts", "Accounts that the projections lack.", len(health.parked)
    relay_parked = Parked.objects.filter(topic=settings.LEDGER_TOPIC).count()
    yield "relay_parked_accounts", "Accounts whose events the topic lacks.", relay_parked
    standing = checker.standing()
    yield "verification_findings", "What the last passes found.", standing.findings_total
    age = standing.age_seconds if standing.last_full else -1
    yield "verification_age_seconds", "Since the last full pass; -1 before the first.", age
    yield (
        "unsealed_entries",
        "Entries of all logs after their seals.",
        sum(log.unsealed for log in standing.logs),
    )
    yield (
        "seal_behind_seconds",
        "Since the seal of a log that has grown.",
        max(log.behind_seconds for log in standing.logs),
    )
    yield "approvals_waiting", "Proposals that wait for a second person.", approvals.count_waiting()
    yield "approvals_unsent", "Approved, and not sent yet.", approvals.count_unsent()
    running = ImportJob.objects.filter(status="running").count()
    yield "imports_running", "Imports at work.", running
    longest = store.longest_transaction()
    yield (
        "oldest_transaction_seconds",
        "Age of the oldest open transaction.",
        (longest.seconds if longest else 0),
    )


class State(Collector):
    """The gauges; `ledger_up` alone when the event store does not answer."""

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now."""
        try:
            found = list(_gauges())
        except DatabaseError:
            found = []
        yield GaugeMetricFamily("ledger_up", "1 if the event store answers.", bool(found))
        for name, text, value in found:
            yield GaugeMetricFamily(f"ledger_{name}", text, _number(value))


def _number(value: float) -> int | float:
    """A truth as 1 or 0; a number as it is."""
    return int(value) if isinstance(value, bool) else value


@require_GET
def show(request: HttpRequest) -> HttpResponse:
    """For a scraper that knows LEDGER_METRICS_TOKEN, or a signed-in operator."""
    if not _may(request):
        return HttpResponse("not allowed\n", "text/plain", status=403)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped there
    else:
        registry = REGISTRY
    state = CollectorRegistry()
    state.register(State())
    return HttpResponse(generate_latest(registry) + generate_latest(state), CONTENT_TYPE_LATEST)


def _may(request: HttpRequest) -> bool:
    token = settings.LEDGER_METRICS_TOKEN
    scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if token and scheme.lower() == "bearer":
        return secrets.compare_digest(given.encode(), token.encode())
    return "operate" in roles.actions_of(request.user)


urlpatterns = [path("metrics", show, name="metrics")]
