"""The Merkle tree against a naive model, RFC 9162's rules, and the verifier that outsiders use."""

import base64
import hashlib
import random
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import merkle, notes, verify

# The leaves and roots of Certificate Transparency's own reference tests (RFC 6962 and RFC 9162 hash
# alike), by tree size.
LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    bytes(range(0x60, 0x70)),
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaf_of(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(
        b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])
    ).digest()


class InMemory:
    """A reader that keeps complete subtrees of 256 leaves, as the database does."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.levels: list[Sequence[bytes]] = [leaves]
        while len(self.levels[-1]) >= merkle.TILE:
            below = self.levels[-1]
            whole = len(below) // merkle.TILE
            self.levels.append(
                [
                    naive_root(below[at * merkle.TILE : (at + 1) * merkle.TILE])
                    for at in range(whole)
                ]
            )

    def hashes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        found = self.levels[level][start:stop]
        assert len(found) == stop - start
        return found


@pytest.fixture(scope="module")
def leaves() -> list[bytes]:
    return [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(100_000)]


def test_roots_of_the_reference() -> None:
    for size, expected in enumerate(ROOTS):
        tree = InMemory([leaf_of(data) for data in LEAVES[:size]])
        assert merkle.root(tree, size).hex() == expected
        growing = merkle.Growing()
        for data in LEAVES[:size]:
            growing.add(leaf_of(data))
        assert growing.root().hex() == expected


def test_every_size_up_to_300_has_the_root_of_the_model(leaves: list[bytes]) -> None:
    growing = merkle.Growing()
    tree = InMemory(leaves[:300])
    for size in range(301):
        expected = naive_root(leaves[:size])
        assert merkle.root(tree, size) == growing.root() == expected
        growing.add(leaves[size])


def test_every_inclusion_proof_of_every_size_up_to_300_verifies(leaves: list[bytes]) -> None:
    tree = InMemory(leaves[:300])
    for size in range(1, 301):
        root = merkle.root(tree, size)
        for leaf in range(size):
            proof = merkle.inclusion_proof(tree, leaf, size)
            assert verify.root_by_inclusion(leaves[leaf], leaf, size, proof) == root


def test_every_consistency_proof_up_to_130_verifies(leaves: list[bytes]) -> None:
    tree = InMemory(leaves[:300])
    roots = [merkle.root(tree, size) for size in range(131)]
    for later in range(1, 131):
        for earlier in range(1, later + 1):
            proof = merkle.consistency_proof(tree, earlier, later)
            verify.check_consistency(earlier, roots[earlier], later, roots[later], proof)


def test_random_sizes_up_to_100000(leaves: list[bytes]) -> None:
    dice = random.Random(5)
    tree = InMemory(leaves)
    for _ in range(60):
        earlier, later = sorted(dice.sample(range(1, 100_001), 2))
        leaf = dice.randrange(later)
        root = merkle.root(tree, later)
        proof = merkle.inclusion_proof(tree, leaf, later)
        assert verify.root_by_inclusion(leaves[leaf], leaf, later, proof) == root
        both = merkle.consistency_proof(tree, earlier, later)
        verify.check_consistency(earlier, merkle.root(tree, earlier), later, root, both)


def test_growing_completes_the_same_nodes_as_the_model(leaves: list[bytes]) -> None:
    growing = merkle.Growing()
    tree = InMemory(leaves[:70_000])
    kept = [node for leaf in leaves[:70_000] for node in growing.add(leaf)]
    assert {(level, index) for level, index, _ in kept} == {
        (level, index) for level in (1, 2) for index in range(len(tree.levels[level]))
    }
    assert all(found == tree.levels[level][index] for level, index, found in kept)


def test_no_changed_proof_verifies(leaves: list[bytes]) -> None:
    """Any bit of a proof, leaf, place, size or root: it does not hold."""
    dice = random.Random(6)
    tree = InMemory(leaves[:1000])
    for _ in range(300):
        size = dice.randrange(2, 1000)
        leaf = dice.randrange(size)
        root = merkle.root(tree, size)
        proof = merkle.inclusion_proof(tree, leaf, size)
        at = dice.randrange(len(proof))
        bent = [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
        assert verify.root_by_inclusion(leaves[leaf], leaf, size, bent) != root
        assert verify.root_by_inclusion(leaves[leaf + 1], leaf, size, proof) != root
        for wrong in (proof[:-1], [*proof, root]):
            with pytest.raises(verify.Wrong):
                verify.root_by_inclusion(leaves[leaf], leaf, size, wrong)
        earlier = dice.randrange(1, size)
        both = merkle.consistency_proof(tree, earlier, size)
        early = merkle.root(tree, earlier)
        for old, new, steps in (
            (root, root, both),
            (early, early, both),
            (early, root, both[:-1]),
            (early, root, [*both, root]),
            (early, root, [*both[:-1], bytes(32)]),
        ):
            with pytest.raises(verify.Wrong):
                verify.check_consistency(earlier, old, size, new, steps)


def test_proofs_of_what_is_not_there_are_refused(leaves: list[bytes]) -> None:
    tree = InMemory(leaves[:10])
    for leaf, size in ((10, 10), (-1, 10), (0, 0)):
        with pytest.raises(ValueError, match="not in a tree"):
            merkle.inclusion_proof(tree, leaf, size)
    for earlier, later in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="does not extend"):
            merkle.consistency_proof(tree, earlier, later)


class TestNotes:
    # The key and note of the Go package golang.org/x/mod/sumdb/note, which defined the format.
    KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    TEXT = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    SIGNATURE = (
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqd"
        "ngotpRZb6KE6RyyBwJnAM=\n"
    )

    def test_the_reference_note_is_accepted_and_then_found_to_be_no_checkpoint(self) -> None:
        with pytest.raises(notes.NoteError, match="no checkpoint"):
            notes.verify(f"{self.TEXT}\n{self.SIGNATURE}", [self.KEY])
        bent = f"{self.TEXT.replace('think', 'thing')}\n{self.SIGNATURE}"
        with pytest.raises(notes.NoteError, match="signature of PeterNeumann is wrong"):
            notes.verify(bent, [self.KEY])

    def test_signed_and_read_back_with_a_rotation(self) -> None:
        old, new, other = (notes.Signer(notes.Signer.generate("example.org/log")) for _ in range(3))
        said = notes.Checkpoint(origin="example.org/log", size=12, root=bytes(range(32)))
        note = notes.sign(said, [old, new])
        for keys in ([old], [new], [other, new]):
            assert notes.verify(note, [key.public_text for key in keys]) == said
        assert verify.read_note(note, verify.read_key(new.public_text), "it") == (12, said.root)
        with pytest.raises(notes.NoteError, match="none of the known keys"):
            notes.verify(note, [other.public_text])

    @pytest.mark.parametrize(
        ("old", "new"), [("12\n", "13\n"), ("example.org", "example.net"), ("AAEC", "AAED")]
    )
    def test_a_changed_note_is_refused_by_both_readers(self, old: str, new: str) -> None:
        signer = notes.Signer(notes.Signer.generate("example.org/log"))
        note = notes.sign(
            notes.Checkpoint(origin="example.org/log", size=12, root=bytes(range(32))), [signer]
        )
        bent = note.replace(old, new, 1)
        assert bent != note
        with pytest.raises(notes.NoteError, match="wrong"):
            notes.verify(bent, [signer.public_text])
        with pytest.raises(verify.Wrong, match="wrong"):
            verify.read_note(bent, verify.read_key(signer.public_text), "it")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "\n\n",
            "a\n1\nb\n\n",
            "\u2014 a b\n",
            "a\n1\n\n\u2014 x !!!\n",
            "a\n01\nAA==\n\n\u2014 x AAAA\n",
        ],
    )
    def test_nonsense_is_a_clear_error(self, text: str) -> None:
        with pytest.raises(notes.NoteError):
            notes.verify(text, [self.KEY])

    def test_keys_that_are_none_are_refused(self) -> None:
        good = notes.Signer.generate("a")
        raw = base64.b64encode(b"\x01" + Ed25519PrivateKey.generate().private_bytes_raw()).decode()
        prefix = good.rpartition("+")[0]
        for text in ("", "PRIVATE+KEY+a", "PRIVATE+KEY+a+00+AA==", f"{prefix}+{raw}", good[12:]):
            with pytest.raises(notes.NoteError):
                notes.Signer(text)
        for name in ("", "a b", "a+b"):
            with pytest.raises(notes.NoteError):
                notes.Signer.generate(name)
