"""Every way in which the ledger says no, as one closed tree.

LedgerError
 ├─ Rejected                 a business rule said no; recorded and replayed
 │   └─ one class per rule, each with a stable ``code``
 ├─ InvalidInputError        the request does not describe a command; never recorded
 └─ storage outcomes         the command was not decided; safe to send again
     ├─ WrongExpectedVersionError   somebody else changed the account first
     ├─ IdempotencyKeyReusedError   the key names another command
     ├─ ConflictError               a lost race, retries exhausted
     ├─ BusyError                   the queue is full
     ├─ StoreUnavailableError       the database did not answer
     ├─ StateIncompleteError        an event is newer than this code
     └─ NotFoundError               no such account, transaction or command to read

Anything else that is raised is a bug.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class LedgerError(Exception):
    """The root. ``code`` is stable and part of the public interface."""

    code: ClassVar[str] = "ledger_error"
    title: ClassVar[str] = "The ledger could not do this"

    def __init__(self, detail: str, *, field: str | None = None, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.facts = facts

    @property
    def with_field(self) -> str:
        """The detail, after the field that it is about."""
        return f"{self.field}: {self.detail}" if self.field else self.detail


class Rejected(LedgerError):  # noqa: N818  (the field's own word: a command is rejected)
    """A business rule refused the command; nothing changed and the refusal is recorded."""

    code = "rejected"
    title = "The command was refused"

    def as_record(self) -> dict[str, Any]:
        """What is stored in ``ledger_command.error``: code, detail, field and facts."""
        record: dict[str, Any] = {"code": self.code, "detail": self.detail}
        if self.field:
            record["field"] = self.field
        if self.facts:
            record["facts"] = self.facts
        return record


class AccountNotFound(Rejected):
    """The account was never opened."""

    code = "account_not_found"
    title = "No such account"


class AccountAlreadyOpen(Rejected):
    """The account id or reference is taken."""

    code = "account_already_open"
    title = "The account is already open"


class AccountFrozen(Rejected):
    """A frozen account moves no money, in or out, until it is unfrozen."""

    code = "account_frozen"
    title = "The account is frozen"


class AccountNotFrozen(Rejected):
    """Only a frozen account can be unfrozen."""

    code = "account_not_frozen"
    title = "The account is not frozen"


class AccountClosed(Rejected):
    """A closed account accepts nothing."""

    code = "account_closed"
    title = "The account is closed"


class AccountNotClosed(Rejected):
    """Personal data is erased of closed accounts alone."""

    code = "account_not_closed"
    title = "The account is not closed"


class AlreadyErased(Rejected):
    """The holder's personal data was erased before."""

    code = "already_erased"
    title = "Already erased"


class AccountNotEmpty(Rejected):
    """An account closes at balance zero with no holds."""

    code = "account_not_empty"
    title = "The account is not empty"


class InsufficientFunds(Rejected):
    """The available amount (balance - held + overdraft limit) does not cover the command."""

    code = "insufficient_funds"
    title = "Not enough funds"


class CurrencyMismatch(Rejected):
    """The command names another currency than the account's."""

    code = "currency_mismatch"
    title = "Wrong currency"


class SameAccount(Rejected):
    """A transfer needs two accounts."""

    code = "same_account"
    title = "Sender and receiver are the same account"


class AmountOutOfRange(Rejected):
    """An amount is 1 to 10^15 - 1 minor units (DESIGN section 4)."""

    code = "amount_out_of_range"
    title = "Amount out of range"


class BalanceOutOfRange(Rejected):
    """A balance stays within +-(10^15 - 1) minor units (DESIGN section 4)."""

    code = "balance_out_of_range"
    title = "Balance out of range"


class LimitInUse(Rejected):
    """The overdraft limit cannot fall below what is already used."""

    code = "overdraft_limit_in_use"
    title = "The overdraft limit is in use"


class HoldFinished(Rejected):
    """The hold was captured, released or has expired."""

    code = "hold_finished"
    title = "The hold is finished"


class HoldExceeded(Rejected):
    """A capture takes no more than what is still held."""

    code = "hold_exceeded"
    title = "More than is held"


class ExpiryInPast(Rejected):
    """A hold's expiry must lie ahead."""

    code = "expiry_in_past"
    title = "The expiry lies in the past"


class PeriodClosed(Rejected):
    """The effective time lies in an accounting period that was closed."""

    code = "period_closed"
    title = "The period is closed"


class EffectiveInFuture(Rejected):
    """An effective time may lie in the past, never in the future."""

    code = "effective_in_future"
    title = "The effective time lies in the future"


class TransactionNotFound(Rejected):
    """No accepted command of this id moved money."""

    code = "transaction_not_found"
    title = "No such transaction"


class NotReversible(Rejected):
    """Only a transaction that moved money, and is not itself a reversal, can be reversed."""

    code = "not_reversible"
    title = "This cannot be reversed"


class AlreadyReversed(Rejected):
    """A transaction is reversed at most once."""

    code = "already_reversed"
    title = "Already reversed"


class BatchRefused(Rejected):
    """Another command of the same atomic batch was refused."""

    code = "batch_refused"
    title = "The batch was refused"


class NothingToDo(Rejected):
    """The command would change nothing."""

    code = "nothing_to_do"
    title = "Nothing would change"


class InvalidInputError(LedgerError):
    """The request is malformed. ``errors`` lists (field, problem) pairs; nothing is recorded."""

    code = "invalid_input"
    title = "The request is not valid"


class WrongExpectedVersionError(LedgerError):
    """``If-Match`` named another version than the account has; carries the current one."""

    code = "version_conflict"
    title = "The account has changed"


class IdempotencyKeyReusedError(LedgerError):
    """The same sender used the same key for another command."""

    code = "idempotency_key_reused"
    title = "The idempotency key belongs to another command"


class ConflictError(LedgerError):
    """The race was lost on every retry; nothing was written."""

    code = "conflict"
    title = "Too many changes at once"


class BusyError(LedgerError):
    """The command queue is full; nothing was written."""

    code = "busy"
    title = "The ledger is busy"


class StoreUnavailableError(LedgerError):
    """The database did not answer. Send the same command with the same key again."""

    code = "store_unavailable"
    title = "The ledger is not reachable"


class StateIncompleteError(LedgerError):
    """The account has an event that this code does not know; no balance can be computed."""

    code = "state_incomplete"
    title = "The account has events newer than this software"


class NotAvailableError(LedgerError):
    """This installation lacks what that needs; everything else works."""

    code = "not_available"
    title = "Not available here"


class NotFoundError(LedgerError):
    """What was asked for does not exist, or is not yours to see."""

    code = "not_found"
    title = "Not found"


class ApprovalNeededError(LedgerError):
    """A second person has to approve this command: submit it on the back office's page."""

    code = "approval_needed"
    title = "A second person has to approve this"


class ForbiddenError(LedgerError):
    """Your role does not allow this."""

    code = "forbidden"
    title = "Not allowed"


REJECTIONS: Mapping[str, type[Rejected]] = {cls.code: cls for cls in Rejected.__subclasses__()}


def rejected_from_record(record: Mapping[str, Any]) -> Rejected:
    """The refusal as it was first raised, from ``ledger_command.error``."""
    cls = REJECTIONS.get(record["code"], Rejected)
    return cls(record["detail"], field=record.get("field"), **record.get("facts", {}))
