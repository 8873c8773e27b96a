"""REST over the projections: an account as it is now, and its activity."""

from typing import Any

from django.http import HttpResponseBase
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ledger import access, codec, errors, privacy, store
from ledger.api.renderers import rendered
from ledger.api.schema import READ_PROBLEMS, AccountStateSerializer
from ledger.api.serializers import account_as_json, canonical_uuid
from ledger.api.views import LedgerView, integer, query
from ledger.domain.money import format_amount
from projections import queries


class FreshnessSerializer(serializers.Serializer[Any]):
    """How current the projection of this account is."""

    position = serializers.IntegerField()
    lag_events = serializers.IntegerField()
    status = serializers.ChoiceField(choices=["current", "processing"])


class CurrentAccountSerializer(AccountStateSerializer):
    """An account now."""

    position = serializers.IntegerField()
    source = serializers.ChoiceField(  # type: ignore[assignment]  # a field named like a property
        choices=["projection", "event-store"]
    )
    projection = FreshnessSerializer()


def current_account_as_json(view: queries.AccountView) -> dict[str, Any]:
    """The account with its freshness."""
    expires = view.account.next_expiry is not None  # otherwise it does not matter what time it is
    now = store.clock() if expires else codec.EPOCH
    return {
        **account_as_json(view.account, now=now),
        "position": view.position,
        "source": view.source,
        "projection": {
            "position": view.projected_position,
            "lag_events": view.lag_events,
            "status": "current" if view.is_current else "processing",
        },
    }


class AccountView(LedgerView):
    """An account now."""

    looks_at = "account"

    @extend_schema(
        operation_id="account",
        parameters=[
            OpenApiParameter(
                "at_least",
                OpenApiTypes.INT,
                description="The Ledger-Position of your last command: never answer from before it.",
            )
        ],
        responses={200: CurrentAccountSerializer, 304: None, **READ_PROBLEMS},
    )
    def get(self, request: Request, account_id: str) -> HttpResponseBase:
        """The account, from Redis or the event store, with how current it is."""
        params = query(request, ["at_least"])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        at_least = integer(params, "at_least") or 0
        if at_least and at_least > store.last_position():
            raise errors.InvalidInputError("the log is not that long", field="at_least")
        view = queries.account(account_id, at_least=at_least)
        etag = f'"v{view.account.version}"'
        if request.META.get("HTTP_IF_NONE_MATCH") == etag:
            return Response(status=304, headers={"ETag": etag})
        response = rendered(current_account_as_json(view))
        response["ETag"] = etag
        response["Ledger-Position"] = str(view.position)
        return response


class ActivityView(LedgerView):
    """Recent activity."""

    looks_at = "activity"

    @extend_schema(
        operation_id="activity",
        parameters=[OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 100.")],
        responses={200: OpenApiTypes.OBJECT, **READ_PROBLEMS},
    )
    def get(self, request: Request, account_id: str) -> Response:
        """The newest entries with the balance after each, newest first."""
        params = query(request, ["limit"])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        limit = integer(params, "limit", least=1, most=100) or 100
        lines = queries.activity(account_id, limit)
        if not lines:
            raise errors.NotFoundError(f"account {account_id} does not exist")
        return Response(
            {
                "data": [
                    {
                        "version": line.version,
                        "position": line.position,
                        "type": line.type,
                        "kind": line.kind,
                        "amount": format_amount(line.amount, line.currency),
                        "balance": format_amount(line.balance, line.currency),
                        "currency": line.currency,
                        "transaction_id": line.transaction_id,
                        "counterpart": line.counterpart,
                        "note": privacy.reveal(line.note),
                        "effective_at": line.effective_at,
                        "recorded_at": line.recorded_at,
                    }
                    for line in lines
                ]
            }
        )


urlpatterns = [
    path("accounts/<str:account_id>", AccountView.as_view(), name="api-account"),
    path("accounts/<str:account_id>/activity", ActivityView.as_view(), name="api-activity"),
]
