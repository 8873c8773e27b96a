"""How pages show money and moments. Ids and machine values are never localised."""

from datetime import UTC, datetime
from uuid import uuid4
from zoneinfo import ZoneInfo

from django import template

from ledger import privacy
from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import format_amount

register = template.Library()


@register.filter
def money(minor: int, currency: str) -> str:
    """Minor units as "1,234.50": grouped for people, never used in data."""
    if not currency:
        return ""
    text = format_amount(minor, currency)
    sign, digits = ("\u2212", text[1:]) if text.startswith("-") else ("", text)
    whole, point, decimals = digits.partition(".")
    return f"{sign}{int(whole):,}{point}{decimals}"


@register.filter
def signed_money(minor: int, currency: str) -> str:
    """As `money`, with a plus for what comes in."""
    text = money(minor, currency)
    return f"+{text}" if minor > 0 else text


@register.filter
def moment(value: datetime | str | None) -> str:
    """A time to the second with its zone: 2026-03-31 14:02:11 UTC."""
    if not value:
        return ""
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@register.filter
def exact(value: datetime | str | None) -> str:
    """A time to the microsecond, RFC 3339, as links and API want it."""
    if not value:
        return ""
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    return parsed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@register.filter
def in_zone(value: datetime | str | None, zone: str) -> str:
    """A time to the microsecond in a reader's zone with its offset: 2026-03-31 14:02:11.123456 +02:00."""
    if not value:
        return ""
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    local = parsed.astimezone(ZoneInfo(zone))
    offset = local.strftime("%z")
    return local.isoformat(sep=" ", timespec="microseconds")[:26] + f" {offset[:3]}:{offset[3:]}"


@register.filter
def short(value: object) -> str:
    """The last eight characters of an id: the random part of every UUID here."""
    text = str(value)
    return f"…{text[-8:]}" if len(text) > 12 else text


@register.simple_tag
def new_key() -> str:
    """A key that makes sending a form twice harmless."""
    return str(uuid4())


@register.filter
def reveal(text: str) -> str:
    """Words as they were written, if they were sealed."""
    return privacy.reveal(text)


@register.filter
def digits(currency: str) -> int:
    """The number of decimals of a currency."""
    return EXPONENTS.get(currency, 2)
