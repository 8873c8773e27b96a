"""REST for those who check: seals, proofs, receipts, and the verifier itself."""

from pathlib import Path
from typing import Any

from django.http import HttpResponse, HttpResponseBase
from django.urls import path, reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from audit import evidence, proofs
from audit.models import Seal
from ledger import access, codec, errors, handlers, store
from ledger.api.schema import READ_PROBLEMS, READ_REASON
from ledger.api.serializers import canonical_uuid
from ledger.api.views import (
    PAGE_DEFAULT,
    PAGE_MAX,
    LedgerView,
    integer,
    page,
    query,
    visible_command,
)
from ledger.models import Access
from ledger.roles import actions_of

SEAL_PARAMETER = OpenApiParameter(
    "seal", OpenApiTypes.INT, description="Prove it against the seal of so many events."
)
BUNDLE = {(200, "application/zip"): OpenApiTypes.BINARY, **READ_PROBLEMS}
SEALED = {200: OpenApiTypes.OBJECT, **READ_PROBLEMS}


class SealView(LedgerView):
    """The newest seal, or that of a size. Open to everyone who may sign in: it says no secret."""

    @extend_schema(
        operation_id="seal",
        parameters=[
            OpenApiParameter("size", OpenApiTypes.INT, description="That of so many events.")
        ],
        responses=SEALED,
    )
    def get(self, request: Request) -> Response:
        """The signed tree head and the public keys."""
        size = integer(query(request, ["size"]), "size", least=1)
        return Response(proofs.seal_as_json(proofs.seal_of(size)))


class ConsistencyView(LedgerView):
    """That a later seal extends an earlier one."""

    @extend_schema(
        operation_id="seal_consistency",
        parameters=[
            OpenApiParameter("from", OpenApiTypes.INT, required=True, description="A sealed size."),
            OpenApiParameter(
                "to", OpenApiTypes.INT, description="A later one; the newest by default."
            ),
        ],
        responses=SEALED,
    )
    def get(self, request: Request) -> Response:
        """Both seals and the proof."""
        params = query(request, ["from", "to"])
        earlier, later = integer(params, "from", least=1), integer(params, "to", least=1)
        if earlier is None:
            raise errors.InvalidInputError("is required", field="from")
        newer = proofs.seal_of(later)
        if newer.size < earlier:
            raise errors.InvalidInputError("must not be larger than `to`", field="from")
        return Response(proofs.consistency(proofs.seal_of(earlier), newer))


class ReceiptView(LedgerView):
    """What proves an accepted command without us."""

    @extend_schema(operation_id="receipt", responses=SEALED)
    def get(self, request: Request, command_id: str) -> Response:
        """Its events, their proofs and the seal, as a file for ``verify.py``."""
        query(request, [])
        row = visible_command(request, command_id)
        command_id = str(row.id)
        self.record_look(request, "receipt", store.accounts_of_command(row.id))
        if row.first_position is None or row.last_position is None:
            raise errors.NotFoundError("the command was refused: it has no events to prove")
        events = store.read_range(row.first_position, row.last_position)
        if "read" not in actions_of(request.user):
            shown = {
                event.account_id
                for event in access.visible(request.user, handlers.outcome_of(command_id)).events
            }
            events = [event for event in events if event.account_id in shown]
        if not events:
            raise errors.NotFoundError(f"command {command_id} does not exist")
        response = Response(proofs.receipt(command_id, events))
        response["Content-Disposition"] = f'attachment; filename="receipt-{command_id}.json"'
        return response


class EvidenceView(LedgerView):
    """An evidence bundle: a zip that proves an account's history to anybody."""

    action = "audit"
    looks_at = "evidence"
    is_past = True

    @extend_schema(
        operation_id="account_evidence",
        parameters=[
            READ_REASON,
            OpenApiParameter("from_version", OpenApiTypes.INT, description="1 by default."),
            OpenApiParameter(
                "until_version", OpenApiTypes.INT, description="The last sealed one by default."
            ),
            SEAL_PARAMETER,
        ],
        responses=BUNDLE,
    )
    def get(self, request: Request, account_id: str) -> HttpResponseBase:
        """Events, proofs, statement, seal, keys and verifier; the same question gives the same bytes."""
        return _bundle(request, canonical_uuid(account_id, field="account_id"))


class LogEvidenceView(LedgerView):
    """An evidence bundle of the whole log between two positions."""

    action = "audit"
    looks_at = "evidence"
    is_past = True

    @extend_schema(
        operation_id="log_evidence",
        parameters=[
            READ_REASON,
            OpenApiParameter("from", OpenApiTypes.INT, description="1 by default."),
            OpenApiParameter(
                "until", OpenApiTypes.INT, description="The last sealed one by default."
            ),
            SEAL_PARAMETER,
        ],
        responses=BUNDLE,
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Events with proofs, trial balances at both ends, the accounts concerned."""
        return _bundle(request, "")


def _bundle(request: Request, account_id: str) -> HttpResponse:
    first, last = evidence.range_names(account_id)
    params = query(request, [first, last, "seal"])
    most = 2**31 - 1 if account_id else 2**53 - 1
    scope, seal = evidence.scope_of(
        account_id,
        first=integer(params, first, least=1, most=most),
        last=integer(params, last, least=1, most=most),
        size=integer(params, "seal", least=1),
    )
    return zip_response(scope, seal)


def zip_response(scope: evidence.Scope, seal: Seal) -> HttpResponse:
    """The bundle as a download; `Content-Location` is the question that always gives these bytes."""
    answer = HttpResponse(evidence.bundle(scope, seal), content_type="application/zip")
    answer["Content-Disposition"] = f'attachment; filename="{scope.file_name}"'
    first, last = evidence.range_names(scope.account_id)
    url = (
        reverse("api-evidence", args=[scope.account_id])
        if scope.account_id
        else reverse("api-log-evidence")
    )
    answer["Content-Location"] = (
        f"{url}?{first}={scope.first}&{last}={scope.last}&seal={scope.seal}"
    )
    return answer


class LooksView(LedgerView):
    """Who looked at an account."""

    action = "audit"

    @extend_schema(
        operation_id="account_looks",
        parameters=[
            OpenApiParameter("after", OpenApiTypes.INT, description="Those after this number."),
            OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 1000, by default 100."),
        ],
        responses={200: OpenApiTypes.OBJECT, **READ_PROBLEMS},
    )
    def get(self, request: Request, account_id: str) -> Response:
        """Looks at the account, oldest first: who, at what, as of when, why."""
        params = query(request, ["after", "limit"])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        limit = integer(params, "limit", least=1, most=PAGE_MAX) or PAGE_DEFAULT
        after = integer(params, "after") or 0
        rows = Access.objects.filter(account_id=account_id, number__gt=after).order_by("number")
        found = list(rows[: limit + 1])
        items = [
            {
                "number": row.number,
                "at": codec.format_time(row.at),
                "actor": row.actor,
                "what": row.what,
                "moment": row.moment,
                "reason": row.reason,
                "channel": row.channel,
                "correlation_id": row.correlation_id,
            }
            for row in found
        ]
        return page(
            request, items, limit, "after", found[limit - 1].number if len(found) > limit else None
        )


class VerifierView(LedgerView):
    """The offline verifier, one file."""

    @extend_schema(
        operation_id="verifier",
        responses={(200, "text/x-python"): OpenApiTypes.STR, **READ_PROBLEMS},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """``verify.py`` as it lies in the project."""
        query(request, [])
        answer = HttpResponse(
            (Path(__file__).parent / "verify.py").read_bytes(),
            content_type="text/x-python; charset=utf-8",
        )
        answer["Content-Disposition"] = 'attachment; filename="verify.py"'
        return answer


urlpatterns: list[Any] = [
    path("seal", SealView.as_view(), name="api-seal"),
    path("seal/consistency", ConsistencyView.as_view(), name="api-seal-consistency"),
    path("commands/<str:command_id>/receipt", ReceiptView.as_view(), name="api-receipt"),
    path("accounts/<str:account_id>/evidence", EvidenceView.as_view(), name="api-evidence"),
    path("evidence", LogEvidenceView.as_view(), name="api-log-evidence"),
    path("accounts/<str:account_id>/looks", LooksView.as_view(), name="api-looks"),
    path("verify.py", VerifierView.as_view(), name="api-verifier"),
]
