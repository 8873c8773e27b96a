"""Seals as text: C2SP signed notes (c2sp.org/signed-note) that hold a C2SP tlog-checkpoint.

    origin                              example.org/ledger
    size                                1234
    root, base64                        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
    (empty line)
    one line a signature                — example.org/ledger Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJ...

Keys are the format's own texts: ``PRIVATE+KEY+name+id+base64`` and ``name+id+base64``.
"""

import base64
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
_DASH = "\N{EM DASH} "


class NoteError(ValueError):
    """A note or key is not what it should be; says why."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a seal says: the first `size` events of the log `origin` have this root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def _read_key(text: str, what: str) -> tuple[str, bytes, bytes]:
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        raw = base64.b64decode(encoded, validate=True)
        known = bytes.fromhex(key_id)
    except ValueError as error:
        raise NoteError(f"this is no {what} key") from error
    if not name or len(known) != 4 or len(raw) != 33 or raw[:1] != ED25519:
        raise NoteError(f"this is no Ed25519 {what} key")
    return name, known, raw[1:]


class Signer:
    """A private key with its name."""

    def __init__(self, text: str) -> None:
        prefix = "PRIVATE+KEY+"
        if not text.startswith(prefix):
            raise NoteError("this is no private key: it does not begin with PRIVATE+KEY")
        self.name, known, seed = _read_key(text.strip().removeprefix(prefix), "private")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()
        if _key_id(self.name, self.public) != known:
            raise NoteError("the private key does not belong to its name and id")

    @staticmethod
    def generate(name: str) -> str:
        """A new private key, as text.

        Raises:
            NoteError: the name is empty or has spaces or a plus.
        """
        if not name or any(character.isspace() or character == "+" for character in name):
            raise NoteError("a key's name must not be empty or have spaces or a plus")
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        encoded = base64.b64encode(ED25519 + key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{name}+{_key_id(name, public).hex()}+{encoded}"

    @property
    def public_text(self) -> str:
        """The public key, as text."""
        encoded = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{_key_id(self.name, self.public).hex()}+{encoded}"

    def line(self, text: str) -> str:
        """The signature line for a note's text."""
        signed = _key_id(self.name, self.public) + self._key.sign(text.encode())
        return f"{_DASH}{self.name} {base64.b64encode(signed).decode()}\n"


def sign(checkpoint: Checkpoint, signers: Sequence[Signer]) -> str:
    """The note of `checkpoint`, signed by each of `signers`."""
    text = checkpoint.text()
    return text + "\n" + "".join(signer.line(text) for signer in signers)


def verify(note: str, public_keys: Sequence[str]) -> Checkpoint:
    """The checkpoint of a note that at least one of the keys signed; other signatures are ignored.

    Raises:
        NoteError: malformed, by none of these keys, or with a wrong signature by one of them.
    """
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise NoteError("this is no signed note")
    keys = {}
    for public_text in public_keys:
        name, known, public = _read_key(public_text.strip(), "public")
        keys[name, known] = Ed25519PublicKey.from_public_bytes(public)
    is_signed = False
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise NoteError("a signature line is not base64") from error
        key = keys.get((name, raw[:4]))
        if key is None:
            continue
        try:
            key.verify(raw[4:], text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {name} is wrong") from error
        is_signed = True
    if not is_signed:
        raise NoteError("none of the known keys signed this note")
    return parse(text)


def parse(text: str) -> Checkpoint:
    """The checkpoint of a note's text, its signatures not looked at.

    Raises:
        NoteError: it is not one.
    """
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or not lines[1].isascii() or not lines[1].isdigit():
        raise NoteError("this is no checkpoint")
    if lines[1] != str(int(lines[1])):
        raise NoteError("the size has leading zeros")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError as error:
        raise NoteError("the root is not base64") from error
    if len(root) != 32:
        raise NoteError("the root is not 32 bytes long")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)
