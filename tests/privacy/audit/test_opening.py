"""A personal value is behind its commitment until it is forgotten, and gone after that."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.audit.entry import Event, make_entry, parse_entry
from privacy.audit.opening import (
    Openings,
    check_value,
    commitment,
    commitments_in,
    is_commitment,
    make_openings,
    open_entry,
)
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import START, Federation

NAME, REASON = "Dr. Ada Marks", "the board agreed on 12 November"
WHO = {"by": NAME, "reason": REASON}
SALT = bytes(range(32))
APPROVED = Event.PLAN_APPROVED


def test_the_commitment_is_hmac_sha_256_of_canonical_json() -> None:
    # Computed by hand with another program:
    # printf '["cloister personal field v1","bank_a","plan-approved","by","Ada"]' | openssl dgst
    #   -sha256 -mac hmac -macopt hexkey:000102...1f
    said = '["cloister personal field v1","bank_a","plan-approved","by","Ada"]'
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "hmac", "-macopt", f"hexkey:{SALT.hex()}"],
        input=said.encode(),
        capture_output=True,
        check=True,
    )
    expected = "hmac-sha256:" + done.stdout.split()[-1].decode()
    assert commitment("Ada", SALT, party="bank_a", event=APPROVED, field="by") == expected


def test_a_commitment_is_to_one_value_of_one_field_of_one_party() -> None:
    this = {"party": "bank_a", "event": APPROVED, "field": "by"}
    known = {commitment("Ada", SALT, **this)}  # type: ignore[arg-type]
    for value, salt, change in (
        ("Bob", SALT, {}),
        ("Ada", bytes(32), {}),
        ("Ada", SALT, {"party": "bank_b"}),
        ("Ada", SALT, {"event": Event.PLAN_REFUSED}),
        ("Ada", SALT, {"field": "reason"}),
    ):
        found = commitment(value, salt, **this | change)  # type: ignore[arg-type]
        assert is_commitment(found)
        assert found not in known
        known.add(found)


@pytest.mark.parametrize("num_bytes", [0, 31, 33, 64])
def test_a_salt_of_another_length_is_refused(num_bytes: int) -> None:
    with pytest.raises(ValueError, match="expected a salt of 32 bytes"):
        commitment("Ada", bytes(num_bytes), party="a", event=APPROVED, field="by")


def test_what_is_kept_opens_the_entry_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    entry = entry_with(openings)
    assert open_entry(entry, openings.read()) == WHO
    assert NAME.encode() not in entry.line
    assert openings.path.stat().st_mode & 0o777 == 0o600
    line = json.loads(openings.path.read_text().splitlines()[0])
    assert set(line) == {"commitment", "party", "event", "field", "value", "salt", "made_at"}


def entry_with(openings: Openings, party: str = "bank_a"):  # type: ignore[no-untyped-def]  # noqa: ANN201
    fields = openings.commit(party, APPROVED, WHO)
    line = make_entry(
        SigningKey.generate(),
        party,
        APPROVED,
        sequence=0,
        at=START,
        subjects={"plan": "sha256:" + "ab" * 32},
        predicate=fields,
    )
    return parse_entry(line)


def test_the_same_value_twice_is_two_commitments(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    first, second = (openings.commit("bank_a", APPROVED, WHO) for _ in range(2))
    assert not set(first.values()) & set(second.values())


def test_forgetting_leaves_no_byte_of_value_and_salt(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    entry, other = entry_with(openings), entry_with(openings, "bank_b")
    salts = [o.salt.hex().encode() for o in openings.read().values() if o.party == "bank_a"]
    gone = openings.forget(commitments_in(entry).values())
    assert {o.field for o in gone} == {"by", "reason"}
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(salt not in left for salt in salts)
    assert left.count(NAME.encode()) == 1  # bank_b's
    assert openings.path.stat().st_mode & 0o777 == 0o600
    assert open_entry(entry, openings.read()) == {}
    assert open_entry(other, openings.read()) == WHO
    assert openings.forget(commitments_in(entry).values()) == []


@given(st.sampled_from(["Ada", "Bob", "Eve"]), st.binary(min_size=32, max_size=32))
def test_a_forgotten_value_cannot_be_found_by_trying(value: str, salt: bytes) -> None:
    # Three names are possible. Whoever tries all of them under any salt but the forgotten one
    # finds none: each is as likely as before.
    found = commitment(value, salt, party="bank_a", event=APPROVED, field="by")
    for tried in ("Ada", "Bob", "Eve"):
        for wrong in (bytes(32), b"\xff" * 32, found.encode()[-32:]):
            if wrong != salt:
                guess = commitment(tried, wrong, party="bank_a", event=APPROVED, field="by")
                assert guess != found


LETTERS = st.characters(codec="utf-8", categories=("L", "N", "P", "S"))
PERSONS = st.text(LETTERS, min_size=3, max_size=40).filter(str.isprintable)


@settings(max_examples=20, deadline=None)
@given(PERSONS, PERSONS)
def test_no_personal_value_is_in_any_byte_of_an_entry(by: str, reason: str) -> None:
    said = {"by": by, "reason": reason}
    kept = make_openings("bank_a", APPROVED, said)
    line = make_entry(
        SigningKey.generate(),
        "bank_a",
        APPROVED,
        sequence=0,
        at=START,
        subjects={"plan": "sha256:" + "ab" * 32},
        predicate={opening.field: opening.commitment for opening in kept},
    )
    entry = parse_entry(line)
    texts = [entry.signed, line, json.dumps(entry.predicate).encode()]
    # Short strings stand in any base64 by chance: a value counts with the quotes around it.
    for value in (by, reason):
        assert not any(f'"{value}"'.encode() in text for text in texts)
        assert not any(f'"{value}"' in str(text) for text in entry.predicate.values())
    # Its length does not depend on theirs either.
    assert {len(text) for text in entry.predicate.values()} == {len("hmac-sha256:") + 64}
    assert open_entry(entry, {opening.commitment: opening for opening in kept}) == said


def test_the_log_verifies_before_and_after(tmp_path: Path) -> None:
    from privacy.audit.verify import verify_log
    from tests.privacy.evidence import quick_accountant

    federation = Federation(tmp_path / "log")
    openings = Openings(tmp_path / "openings.jsonl")
    federation.begin()
    index = federation.say(
        "bank_a",
        Event.PLAN_REFUSED,
        {"plan": federation.plan.digest},
        rule="refused-by-person",
        **openings.commit("bank_a", Event.PLAN_REFUSED, WHO),
    )
    before = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    files = {path: path.read_bytes() for path in federation.folder.rglob("*") if path.is_file()}
    openings.forget(commitments_in(before.entries[index]).values())
    after = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert after.checkpoint == before.checkpoint
    assert files == {path: path.read_bytes() for path in files}
    assert all(NAME.encode() not in content for content in files.values())


def test_a_commitment_taken_from_another_party_s_entry_shows(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    fields = openings.commit("bank_a", APPROVED, {"by": NAME})
    line = make_entry(
        SigningKey.generate(),
        "bank_b",
        APPROVED,
        sequence=0,
        at=START,
        subjects={"plan": "sha256:" + "ab" * 32},
        predicate=fields,
    )
    with pytest.raises(VerificationError, match="a commitment by bank_a"):
        open_entry(parse_entry(line), openings.read())


@pytest.mark.parametrize("name", ["value", "salt", "party", "commitment"])
def test_a_changed_opening_is_found(tmp_path: Path, name: str) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    openings.commit("bank_a", APPROVED, {"by": NAME})
    line = json.loads(openings.path.read_text())
    line[name] = {"value": "Mallory", "salt": "00" * 32, "party": "bank_b"}.get(
        name, "hmac-sha256:" + "00" * 32
    )
    openings.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(VerificationError, match=r"line 1 .* do not open its commitment"):
        openings.read()


@pytest.mark.parametrize("line", ["", "{}", "[]", "null", '{"value": 1}', "x"])
def test_what_is_no_opening_is_one_error_without_the_line_s_text(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "openings.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match="expected an opening in line 1"):
        Openings(tmp_path / "openings.jsonl").read()


def test_a_torn_line_is_no_opening_and_the_next_one_is_whole(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    openings.commit("bank_a", APPROVED, {"by": NAME})
    with openings.path.open("ab") as torn:
        torn.write(b'{"commitment": "hmac-sha')
    assert len(openings.read()) == 1
    openings.commit("bank_a", APPROVED, {"by": "Eve"})
    assert sorted(o.value for o in openings.read().values()) == [NAME, "Eve"]


def test_an_opening_whose_line_end_is_missing_is_read_kept_and_forgotten(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    first = openings.commit("bank_a", APPROVED, {"by": NAME})
    openings.path.write_bytes(openings.path.read_bytes().rstrip(b"\n"))
    assert [found.value for found in openings.read().values()] == [NAME]
    second = openings.commit("bank_a", APPROVED, {"by": "Eve"})
    openings.path.write_bytes(openings.path.read_bytes().rstrip(b"\n"))
    assert [gone.value for gone in openings.forget(first.values())] == [NAME]
    assert list(openings.read()) == list(second.values())
    openings.path.write_bytes(openings.path.read_bytes().rstrip(b"\n"))
    assert len(openings.forget(second.values())) == 1
    assert openings.path.read_bytes() == b""


@pytest.mark.parametrize("line", [b"", b"x", b"{}", b"\xff"])
def test_nothing_is_forgotten_where_a_line_cannot_be_read(tmp_path: Path, line: bytes) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    first = openings.commit("bank_a", APPROVED, {"by": NAME})
    openings.path.write_bytes(line + b"\n" + openings.path.read_bytes())
    before = openings.path.read_bytes()
    with pytest.raises(ConfigError, match="expected an opening in line 1"):
        openings.forget(first.values())
    assert openings.path.read_bytes() == before


def test_forgetting_leaves_a_torn_end_torn(tmp_path: Path) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    first = openings.commit("bank_a", APPROVED, {"by": NAME})
    with openings.path.open("ab") as torn:
        torn.write(b'{"commitment": "hmac-sha')
    assert len(openings.forget(first.values())) == 1
    assert openings.path.read_bytes() == b'{"commitment": "hmac-sha'
    assert openings.read() == {}
    assert openings.torn() == 1


def test_a_file_that_is_not_ours_is_never_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "openings.jsonl"
    path.write_bytes(b"x" * 200_000)
    with pytest.raises(ConfigError, match="no line of ours"):
        Openings(path).commit("bank_a", APPROVED, {"by": NAME})
    assert path.read_bytes() == b"x" * 200_000


@pytest.mark.parametrize("value", ["", " Ada", "Ada\x1b[2J", "a\nb", "a" * 1001, "\u202eadA"])
def test_a_value_that_could_fool_a_terminal_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError, match="printable") as caught:
        check_value(value, "--by")
    assert not value or value not in str(caught.value)


def test_a_file_that_cannot_be_written_makes_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openings = Openings(tmp_path / "openings.jsonl")
    openings.commit("bank_a", APPROVED, {"by": NAME})
    before = openings.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        openings.commit("bank_a", APPROVED, WHO)
    assert openings.path.read_bytes() == before
    with pytest.raises(ConfigError, match="No space left"):
        openings.forget(openings.read())
    assert openings.path.read_bytes() == before


def test_the_opening_is_on_disk_before_its_commitment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    openings = Openings(tmp_path / "openings.jsonl")
    fields = openings.commit("bank_a", APPROVED, {"by": NAME})
    assert calls == [str(openings.path), str(tmp_path)]
    calls.clear()
    openings.forget(fields.values())
    assert calls == [str(openings.path) + ".new", str(tmp_path)]


def test_processes_that_add_while_another_forgets_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "openings.jsonl"
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from privacy.audit.entry import Event
        from privacy.audit.opening import Openings
        for number in range(10):
            Openings(Path({str(path)!r})).commit("bank_a", Event.PLAN_APPROVED, {{"by": "x"}})
        """
    )
    openings = Openings(path)
    mine = openings.commit("bank_b", APPROVED, {"by": "gone"})
    adding = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    while any(process.poll() is None for process in adding):
        openings.forget(mine.values())
        mine = openings.commit("bank_b", APPROVED, {"by": "gone"})
    assert [process.returncode for process in adding] == [0, 0]
    openings.forget(mine.values())
    values = [found.value for found in openings.read().values()]
    assert values == ["x"] * 20
