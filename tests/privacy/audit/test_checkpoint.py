"""A checkpoint is a C2SP signed note, and reads back as what was signed only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey

# A tree head of Go's checksum database with its published key: the same format, made by others.
GO_KEY = base64.b64decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")[1:]
GO_NOTE = (
    "go.sum database tree\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— sum.golang.org Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9"
    "nTo+zyWE+xeMcTOAYQ8=\n"
)
KEY = SigningKey.generate()
SOME = Checkpoint(origin="cloister/lakeside", size=42, root=bytes(range(32)))


def test_a_published_checkpoint_opens() -> None:
    checkpoint = open_checkpoint(GO_NOTE, GO_KEY, name="sum.golang.org")
    assert checkpoint.origin == "go.sum database tree"
    assert checkpoint.size == 20852163
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")


def test_a_changed_published_checkpoint_does_not_open() -> None:
    with pytest.raises(VerificationError):
        open_checkpoint(GO_NOTE.replace("20852163", "20852164"), GO_KEY, name="sum.golang.org")


def test_what_was_signed_comes_back() -> None:
    assert open_checkpoint(sign_checkpoint(SOME, KEY), KEY.public_key) == SOME


@given(st.data())
def test_no_changed_character_passes(data: st.DataObject) -> None:
    note = sign_checkpoint(SOME, KEY)
    place = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[place]))
    with pytest.raises(VerificationError):
        open_checkpoint(note[:place] + other + note[place + 1 :], KEY.public_key)


@given(st.text(max_size=300))
def test_garbage_is_no_checkpoint(note: str) -> None:
    with pytest.raises(VerificationError):
        open_checkpoint(note, KEY.public_key)


def test_a_witness_s_signature_is_passed_over() -> None:
    note = sign_checkpoint(SOME, KEY)
    witness = base64.b64encode(b"\x01\x02\x03\x04" + bytes(64)).decode()
    assert open_checkpoint(f"{note}— witness.example {witness}\n", KEY.public_key) == SOME


def test_another_key_under_the_same_name_is_refused() -> None:
    with pytest.raises(VerificationError, match="got none by that key"):
        open_checkpoint(sign_checkpoint(SOME, SigningKey.generate()), KEY.public_key)


def test_an_origin_cannot_smuggle_a_line() -> None:
    with pytest.raises(ValueError, match="printable"):
        Checkpoint(origin="evil\n999", size=1, root=bytes(32))
    with pytest.raises(ValueError, match="without spaces"):
        sign_checkpoint(Checkpoint(origin="my log", size=1, root=bytes(32)), KEY)
