"""The back office's forms: they only collect text; `ledger.api.serializers` checks it."""

import re
from typing import Any
from uuid import uuid4

from django import forms


class CommandForm(forms.Form):
    """A form that sends one command. Its key makes a double click or a reload harmless."""

    key = forms.CharField(widget=forms.HiddenInput, max_length=64)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["key"].initial = str(uuid4())

    def body(self) -> dict[str, Any]:
        """What was filled in, as the API wants it."""
        return {name: value for name, value in self.cleaned_data.items() if value and name != "key"}


class AmountWidget(forms.TextInput):
    """Text with a number keyboard: browsers' number inputs round and localise."""

    def __init__(self) -> None:
        super().__init__(attrs={"inputmode": "decimal", "autocomplete": "off"})


class OpenForm(CommandForm):
    """Open an account."""

    holder = forms.CharField(max_length=200)
    currency = forms.CharField(max_length=3, initial="EUR")
    reference = forms.CharField(
        max_length=64, required=False, help_text="Your own number for it; it must be new."
    )
    owner = forms.CharField(
        max_length=150,
        required=False,
        label="Customer's user name",
        help_text="Who may see it and transfer from it, if anybody.",
    )
    overdraft_limit = forms.CharField(required=False, widget=AmountWidget)


class MoveForm(CommandForm):
    """Deposit or withdraw."""

    amount = forms.CharField(widget=AmountWidget)
    counterpart = forms.CharField(
        initial="cash", help_text='Where it comes from or goes: "cash", "bank:REFERENCE".'
    )
    memo = forms.CharField(max_length=500, required=False)
    effective_at = forms.CharField(
        required=False,
        label="Effective at",
        help_text="Only if it counts from an earlier time: a day such as 2026-03-31 (from 00:00 "
        "UTC) or a time such as 2026-03-31T14:00:00+02:00. Say in the memo why.",
    )

    def clean_effective_at(self) -> str:
        """A day counts from its beginning."""
        text = str(self.cleaned_data["effective_at"]).strip()
        return f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else text


class HoldForm(CommandForm):
    """Reserve an amount."""

    amount = forms.CharField(widget=AmountWidget)
    counterpart = forms.CharField(initial="cash", help_text="Who it is reserved for.")
    expires_at = forms.CharField(
        required=False, help_text="When it ends by itself, e.g. 2026-12-31T12:00:00Z."
    )
    memo = forms.CharField(max_length=500, required=False)


class CaptureForm(CommandForm):
    """Take held money."""

    amount = forms.CharField(
        required=False, widget=AmountWidget, help_text="Empty for all that is held."
    )
    final = forms.BooleanField(
        required=False, label="This is the last capture: free what is left of the hold"
    )


class TransferForm(CommandForm):
    """Transfer to another account."""

    to_account_id = forms.CharField(
        label="To account", help_text="Its id, or its reference.", max_length=64
    )
    amount = forms.CharField(widget=AmountWidget)
    memo = forms.CharField(max_length=500, required=False)


class ReasonForm(CommandForm):
    """Freeze, unfreeze, close."""

    reason = forms.CharField(max_length=500)


class EraseForm(CommandForm):
    """Erase the holder's personal data."""

    ground = forms.CharField(
        max_length=200,
        label="On what ground",
        help_text="A law or a request, such as “GDPR article 17, request 12”. It is kept for ever: "
        "name nobody in it.",
    )


class AdjustForm(CommandForm):
    """Correct a balance."""

    amount = forms.CharField(
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="With a minus to take money away.",
    )
    reason = forms.CharField(max_length=500)
    corrects = forms.CharField(
        max_length=36,
        required=False,
        label="Transaction that was wrong",
        help_text="Its id, if there is one.",
    )


class LimitForm(CommandForm):
    """Set the overdraft limit."""

    limit = forms.CharField(widget=AmountWidget, help_text="0 for none.")


class ImportForm(forms.Form):
    """Upload a file of transactions."""

    file = forms.FileField(
        help_text="CSV or XLSX, or a bank's MT940, CAMT.053, OFX or CSV, up to 20 MB."
    )
    source = forms.RegexField(
        r"^[a-z0-9][a-z0-9-]{0,20}$",
        initial="bank",
        help_text="Names where it comes from: small letters, digits, hyphens.",
    )
    currency = forms.CharField(
        max_length=3, initial="EUR", help_text="Of a table; a bank's file says its own."
    )
    overdraft_limit = forms.CharField(
        initial="0", widget=AmountWidget, help_text="Of the accounts that the file opens."
    )
    skip_bad_rows = forms.BooleanField(
        required=False, label="Import the good rows even if others are wrong"
    )


class StatementForm(forms.Form):
    """Upload a bank's statement of one account."""

    file = forms.FileField(
        label="Statement", help_text="MT940, CAMT.053, OFX or the bank's CSV, up to 20 MB."
    )
