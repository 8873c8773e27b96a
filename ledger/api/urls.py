"""The routes of the event store: every command, and history."""

from django.urls import path
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.views import APIView

from ledger.api import schema, views
from ledger.api.serializers import BODY


def _command(route: str, name: str, url_name: str) -> object:
    """A route for one command, documented from its serializer."""
    view: type[APIView] = type(
        f"{name}View",
        (views.CommandView,),
        {"command_name": name, "__doc__": schema.summary_of(name)},
    )
    documented = extend_schema_view(
        post=extend_schema(
            operation_id=url_name.replace("-", "_"),
            summary=schema.summary_of(name),
            request=BODY[name],
            parameters=schema.COMMAND_PARAMETERS,
            responses=schema.COMMAND_RESPONSES,
        )
    )(view)
    return path(route, documented.as_view(), name=f"api-{url_name}")


ACCOUNT = "accounts/<str:account_id>"
urlpatterns = [
    path("accounts", schema.accounts_view.as_view(), name="api-accounts"),
    _command(f"{ACCOUNT}/deposits", "Deposit", "deposit"),
    _command(f"{ACCOUNT}/withdrawals", "Withdraw", "withdraw"),
    _command("transfers", "Transfer", "transfer"),
    _command(f"{ACCOUNT}/holds", "PlaceHold", "hold"),
    _command(f"{ACCOUNT}/holds/<str:hold_id>/capture", "CaptureHold", "capture"),
    _command(f"{ACCOUNT}/holds/<str:hold_id>/release", "ReleaseHold", "release"),
    _command("reversals", "ReverseTransaction", "reverse"),
    _command(f"{ACCOUNT}/adjustments", "AdjustBalance", "adjust"),
    _command(f"{ACCOUNT}/freeze", "FreezeAccount", "freeze"),
    _command(f"{ACCOUNT}/unfreeze", "UnfreezeAccount", "unfreeze"),
    _command(f"{ACCOUNT}/overdraft-limit", "SetOverdraftLimit", "overdraft-limit"),
    _command(f"{ACCOUNT}/holder", "ChangeHolder", "holder"),
    _command(f"{ACCOUNT}/close", "CloseAccount", "close"),
    _command(f"{ACCOUNT}/erasure", "EraseHolder", "erase"),
    path("batches", schema.batch_view.as_view(), name="api-batches"),
    path(f"{ACCOUNT}/events", schema.stream_view.as_view(), name="api-stream"),
    path(f"{ACCOUNT}/state", schema.state_view.as_view(), name="api-state"),
    path(f"{ACCOUNT}/difference", schema.difference_view.as_view(), name="api-difference"),
    path("events", schema.log_view.as_view(), name="api-events"),
    path("events/feed", schema.feed_view.as_view(), name="api-feed"),
    path("commands", schema.outcomes_view.as_view(), name="api-commands"),
    path("commands/<str:command_id>", schema.outcome_view.as_view(), name="api-command"),
    path("trial-balance", schema.trial_balance_view.as_view(), name="api-trial-balance"),
]
