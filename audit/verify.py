#!/usr/bin/env python3
"""Checks what the ledger hands out, without the ledger: Python's standard library and `cryptography`.

    python verify.py receipt.json --key KEY        an event is in the log that the seal speaks of
    python verify.py consistency.json --key KEY    a later seal extends an earlier one
    python verify.py evidence.zip --key KEY        everything in an evidence bundle holds

KEY is the public key of the ledger (name+id+base64), from a place that you trust. Exit code 0 means that
everything holds; 1 names the first thing that is wrong; 2 is a file or key that cannot be read.

Formats: C2SP signed-note and tlog-checkpoint; Merkle tree hashing and proofs of RFC 9162 section 2.1. The leaf
of an event is SHA-256(0x00 | position | recorded_at in microseconds since 1970 | SHA-256(content)), both
numbers as 8 bytes big endian, content the canonical JSON of the event.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import csv
import hashlib
import io
import itertools
import json
import re
import sys
import zipfile
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    Key = tuple[str, bytes, bytes]


class Wrong(Exception):
    """Something does not hold; says what."""


class Unreadable(Exception):
    """A file or key is not what it should be."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def unbase64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Wrong(f"{what} is not base64") from None


# -- signed notes ------------------------------------------------------------------------------------------------


def read_key(text: str) -> Key:
    """Name, id and public key of ``name+id+base64``."""
    try:
        name, key_id, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        known = bytes.fromhex(key_id)
    except (ValueError, binascii.Error):
        raise Unreadable("the key does not look like name+id+base64") from None
    if len(raw) != 33 or raw[0] != 1:
        raise Unreadable("the key is not an Ed25519 key")
    if sha256(name.encode() + b"\n" + raw)[:4] != known:
        raise Unreadable("the key's id does not belong to its name and bytes")
    return name, known, raw[1:]


def read_note(note: str, key: Key, what: str) -> tuple[int, bytes]:
    """Size and root of a signed checkpoint."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise Wrong(f"{what} is not a signed note")
    text += "\n"
    name, key_id, public = key
    is_signed = False
    for line in signatures.splitlines():
        prefix, _, encoded = line.rpartition(" ")
        if prefix != "\u2014 " + name:
            continue
        raw = unbase64(encoded, f"a signature of {what}")
        if raw[:4] != key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text.encode())
        except InvalidSignature:
            raise Wrong(f"the signature of {what} is wrong") from None
        is_signed = True
    if not is_signed:
        raise Wrong(f"{what} is not signed by {name}")
    lines = text.split("\n")
    if len(lines) < 4 or not lines[1].isdigit():
        raise Wrong(f"{what} is not a checkpoint")
    if re.sub(r"/epoch-[0-9]+$", "", lines[0]) != name:
        raise Wrong(f"{what} is of another log: {lines[0]}")
    root = unbase64(lines[2], f"the root of {what}")
    return int(lines[1]), root


# -- RFC 9162 ----------------------------------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def root_by_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that the path leads to (2.1.3.2)."""
    if index >= size:
        raise Wrong(f"event {index + 1} lies behind the seal's {size} events")
    first, last, found = index, size - 1, leaf_hash
    for step in proof:
        if last == 0:
            raise Wrong("the inclusion proof is too long")
        if first & 1 or first == last:
            found = node(step, found)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            found = node(found, step)
        first >>= 1
        last >>= 1
    if last:
        raise Wrong("the inclusion proof is too short")
    return found


def check_consistency(
    earlier: int, earlier_root: bytes, later: int, later_root: bytes, proof: Sequence[bytes]
) -> None:
    """That `later` extends `earlier` (2.1.4.2)."""
    if earlier > later:
        raise Wrong(f"the later seal covers {later} events, the earlier one {earlier}")
    if earlier == later:
        if proof or earlier_root != later_root:
            raise Wrong("two seals of the same size have different roots")
        return
    steps = list(proof)
    if earlier & (earlier - 1) == 0:
        steps.insert(0, earlier_root)
    if not steps:
        raise Wrong("the consistency proof is empty")
    first, last = earlier - 1, later - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise Wrong("the consistency proof is too long")
        if first & 1 or first == last:
            old, new = node(step, old), node(step, new)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            new = node(new, step)
        first >>= 1
        last >>= 1
    if last:
        raise Wrong("the consistency proof is too short")
    if old != earlier_root:
        raise Wrong("the proof does not lead to the earlier seal's root: history was changed")
    if new != later_root:
        raise Wrong("the proof does not lead to the later seal's root")


# -- files -------------------------------------------------------------------------------------------------------


def leaf_of(position: int, recorded_at: str, content: str) -> bytes:
    moment = datetime.strptime(recorded_at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    micros = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    digest = sha256(content.encode())
    return sha256(
        b"\x00" + position.to_bytes(8, "big") + micros.to_bytes(8, "big", signed=True) + digest
    )


def check_included(event: dict[str, Any], size: int, root: bytes) -> dict[str, Any]:
    """The event's content, once its proof leads to the root."""
    position, content = event["position"], event["content"]
    leaf = leaf_of(position, event["recorded_at"], content)
    proof = [unbase64(step, f"the proof of event {position}") for step in event["proof"]]
    if root_by_inclusion(leaf, position - 1, size, proof) != root:
        raise Wrong(f"event {position} is not in the sealed log as it is stated here")
    parsed: dict[str, Any] = json.loads(content)
    return parsed


def check_receipt(receipt: dict[str, Any], key: Key) -> list[str]:
    """Every event of the receipt is in the sealed log, and speaks of the receipt's command."""
    size, root = read_note(receipt["seal"], key, "the seal")
    said = [f"the seal of {size} events is signed by {key[0]}"]
    if not receipt["events"]:
        raise Wrong("the receipt holds no event")
    for event in receipt["events"]:
        position, parsed = event["position"], check_included(event, size, root)
        if parsed["metadata"]["command_id"] != receipt["command_id"]:
            raise Wrong(f"event {position} belongs to another command")
        said.append(
            f"event {position} is in the log: {parsed['type']}, version {parsed['version']} of account "
            f"{parsed['account_id']}, recorded {event['recorded_at']}"
        )
    return said


def check_consistency_file(found: dict[str, Any], key: Key) -> list[str]:
    """The later seal extends the earlier one."""
    earlier, earlier_root = read_note(found["earlier"], key, "the earlier seal")
    later, later_root = read_note(found["later"], key, "the later seal")
    proof = [unbase64(step, "the consistency proof") for step in found["proof"]]
    check_consistency(earlier, earlier_root, later, later_root, proof)
    return [f"the seal of {later} events extends that of {earlier}: nothing before was changed"]


IN = {
    "MoneyDeposited",
    "TransferReceived",
    "TransactionReversed",
    "BalanceAdjusted",
}  # signed: the last two
OUT = {"MoneyWithdrawn", "TransferSent", "HoldCaptured"}


def moved(event: dict[str, Any]) -> int:
    """What an event does to its account's balance, in minor units."""
    if event["type"] not in IN | OUT:
        return 0
    amount: int = event["payload"]["amount"]
    return amount if event["type"] in IN else -amount


def minor(text: str) -> int:
    """A decimal string without its point."""
    return int(text.replace(".", ""))


def check_bundle(archive: zipfile.ZipFile, key: Key) -> list[str]:
    """Nothing missing, nothing added, every event proven, none left out, and the figures add up."""
    manifest = json.loads(archive.read("manifest.json"))
    if manifest["format"] != "ledger-evidence/1":
        raise Unreadable(f"the format {manifest['format']} is not known to this verifier")
    names = archive.namelist()
    if sorted(names) != sorted([*manifest["files"], "manifest.json"]):
        raise Wrong("the bundle does not hold the files that its manifest names")
    for name, digest in sorted(manifest["files"].items()):
        if sha256(archive.read(name)).hex() != digest:
            raise Wrong(f"{name} is not the file that the manifest speaks of")
    size, root = read_note(archive.read("seal.txt").decode(), key, "the seal")
    if size != manifest["seal"]:
        raise Wrong(f"the seal covers {size} events, the manifest says {manifest['seal']}")
    lines = archive.read("events.jsonl").decode().split("\n")
    events = [json.loads(line) for line in lines if line]
    parsed = [check_included(event, size, root) for event in events]
    check_complete(manifest, events, parsed)
    check_csv(archive.read("events.csv").decode(), events, parsed)
    said = [f"the seal of {size} events is signed by {key[0]}"]
    first, last = manifest["first"], manifest["last"]
    if manifest["account_id"]:
        check_figures(json.loads(archive.read("statement.json")), parsed, first)
        said.append(
            f"all {len(events)} events of account {manifest['account_id']} from version {first} to {last} "
            "are here, are in the log, and add up to the statement's figures"
        )
    else:
        before, after = (
            json.loads(archive.read(f"trial_balance_{side}.json")) for side in ("before", "after")
        )
        check_trial_balances(before, after, parsed)
        said.append(
            f"all {len(events)} events from position {first} to {last} are here, are in the log, and "
            "lead from one trial balance to the other"
        )
    return said


def check_complete(
    manifest: dict[str, Any], events: list[dict[str, Any]], parsed: list[dict[str, Any]]
) -> None:
    """The events are just those from the first to the last, in order."""
    account_id = manifest["account_id"]
    wanted = range(manifest["first"], manifest["last"] + 1)
    word = "version" if account_id else "position"
    numbers = (
        [item["version"] for item in parsed] if account_id else [e["position"] for e in events]
    )
    for number, found in itertools.zip_longest(wanted, numbers):
        if number != found:
            raise Wrong(f"{word} {number} is missing" if number else f"{word} {found} is too many")
    for event, content in zip(events, parsed, strict=True):
        if account_id and content["account_id"] != account_id:
            raise Wrong(f"event {event['position']} is of another account")


def check_csv(text: str, events: list[dict[str, Any]], parsed: list[dict[str, Any]]) -> None:
    """The table says what the events say."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if len(rows) != len(events):
        raise Wrong("events.csv has not as many rows as there are events")
    for row, event, content in zip(rows, events, parsed, strict=True):
        expected = {
            "position": str(event["position"]),
            "account_id": content["account_id"],
            "version": str(content["version"]),
            "recorded_at": event["recorded_at"],
            "effective_at": content["effective_at"],
            "type": content["type"],
            "schema_version": str(content["schema_version"]),
            "command_id": content["metadata"]["command_id"],
        }
        for name, value in expected.items():
            if row[name] != value:
                raise Wrong(
                    f"events.csv: {name} of event {event['position']} is {row[name]}, not {value}"
                )
        if json.loads(row["payload"]) != content["payload"]:
            raise Wrong(f"events.csv: the payload of event {event['position']} is another")


def check_figures(figures: dict[str, str], parsed: list[dict[str, Any]], first: int) -> None:
    """Opening, movements and closing of a statement."""
    amounts = [moved(event) for event in parsed]
    opening, closing = minor(figures["opening"]), minor(figures["closing"])
    if first == 1 and opening:
        raise Wrong("the statement begins with version 1 but not with zero")
    if opening + sum(amounts) != closing:
        raise Wrong("the statement's closing balance is not its opening balance plus the events")
    if minor(figures["came_in"]) != sum(a for a in amounts if a > 0) or minor(
        figures["went_out"]
    ) != sum(a for a in amounts if a < 0):
        raise Wrong("the statement's totals are not those of the events")


def check_trial_balances(
    before: dict[str, Any], after: dict[str, Any], parsed: list[dict[str, Any]]
) -> None:
    """The events lead from one to the other, and each sums to zero."""
    sums: dict[str, int] = {}
    for event in parsed:
        currency = event["payload"].get("currency", "")
        sums[currency] = sums.get(currency, 0) + moved(event)
    held: list[dict[str, int]] = []
    for found in (before, after):
        for row in found["currencies"]:
            if minor(row["sum"]):
                raise Wrong(f"the trial balance at {found['position']} does not sum to zero")
        held.append({row["currency"]: minor(row["accounts"]) for row in found["currencies"]})
    for currency in {*held[0], *held[1], *(name for name, total in sums.items() if total)}:
        if held[0].get(currency, 0) + sums.get(currency, 0) != held[1].get(currency, 0):
            raise Wrong(f"the events do not lead from one trial balance to the other in {currency}")


CHECKS = {"ledger-receipt/1": check_receipt, "ledger-consistency/1": check_consistency_file}


def check_file(path: str, given_key: str | None) -> list[str]:
    """What holds in a file of any kind."""

    def key_of(own: str) -> Key:
        text = given_key or own
        if "+" not in text:
            with open(text, encoding="utf-8") as file:
                text = file.read()
        return read_key(text)

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return check_bundle(
                archive, key_of(archive.read("public_keys.txt").decode().split("\n")[0])
            )
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return CHECKS[found["format"]](found, key_of(found["public_keys"][0]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="verify.py", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("file", help="a receipt, a consistency file or an evidence bundle")
    parser.add_argument(
        "--key", help="the ledger's public key, name+id+base64, or a file that holds it"
    )
    given = parser.parse_args(arguments)
    try:
        said = check_file(given.file, given.key)
    except Wrong as error:
        print(f"WRONG: {error}")
        return 1
    except (
        Unreadable,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        print(f"Cannot read it: {type(error).__name__}: {error}")
        return 2
    for line in said:
        print(line)
    if not given.key:
        print(
            "The key came with the file: compare it with one from a place that you trust, or give --key."
        )
    print("Everything holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
