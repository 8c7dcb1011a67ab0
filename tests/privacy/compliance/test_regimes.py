"""A regime is a file that a lawyer edits: what is wrong in it is one error with file and line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import REGIMES, load_regimes, parse_regime
from privacy.errors import ConfigError

KNOWN = frozenset(QUERIES)
GOOD = """id = "house"
source = "House rules, 2026"
name.en = "House rules"
name.zh = "内部规则"
note.en = "Ours."
note.zh = "我们的。"

[[control]]
id = "house-1"
ref = "Rule 1"
asks.en = "Mask."
asks.zh = "遮蔽。"
covers = "part"
evidence = ["masking"]
missing.en = "The rest."
missing.zh = "其余。"

[[control]]
id = "house-2"
ref = "Rule 2"
asks.en = "Sign."
asks.zh = "签名。"
covers = "nothing"
evidence = []
missing.en = "The contract."
missing.zh = "合同。"
"""


def test_every_regime_that_the_command_names_loads() -> None:
    regimes = load_regimes(REGIMES, QUERIES)
    assert [regime.id for regime in regimes] == list(REGIMES)
    assert all(len(regime.controls) >= 6 for regime in regimes)


def test_the_articles_that_the_regimes_are_about_are_there() -> None:
    refs = {r.id: " ".join(c.ref for c in r.controls) for r in load_regimes(REGIMES, QUERIES)}
    for regime, wanted in {
        "gdpr": "5(1) 25(1) 30(1) 32(1) Art. 35",
        "hipaa": "164.312 164.514(b) 164.308",
        "mlps": "8.1.4.3 8.1.4.7 8.1.4.8 8.1.4.10 8.1.4.11",
        "pipl": "38 51 55 56",
        "iso27001": "A.5.34 A.8.11 A.8.15 A.8.24",
        "aiact": "10(2) 12(1) 13 15(1)",
        "pci": "3.4.1 3.5.1 10.2.1 10.3.2",
        "dora": "5 6 8 9(2) 10 11 12 13 14 28",
    }.items():
        for part in wanted.split():
            assert part in refs[regime], (regime, part)


def test_no_article_says_that_anyone_is_compliant() -> None:
    for regime in load_regimes(REGIMES, QUERIES):
        for control in regime.controls:
            words = " ".join([*control.asks.values(), *control.missing.values()])
            assert "compliant" not in words.lower()


def test_no_article_rests_on_a_log_alone() -> None:
    for regime in load_regimes(REGIMES, QUERIES):
        for control in regime.controls:
            assert all(control.missing.values())


def test_an_unknown_regime_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"gdpr, hipaa.*'ccpa'"):
        load_regimes(["ccpa"], QUERIES)


def test_a_file_of_the_readers_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text(GOOD, encoding="utf-8")
    (regime,) = load_regimes([str(path)], QUERIES)
    assert [control.id for control in regime.controls] == ["house-1", "house-2"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('covers = "part"', 'covers = "all"', 13, "whole, part, nothing"),
        ('evidence = ["masking"]', 'evidence = ["maskin"]', 14, "'maskin'"),
        ('evidence = ["masking"]', "evidence = []", 14, "evidence exactly where"),
        ('evidence = ["masking"]', "evidence = [[1]]", 14, "evidence of"),
        ('id = "house-2"', 'id = "house-1"', 19, "'house-1' again"),
        ('asks.zh = "签名。"\n', "", 21, "asks.en and asks.zh"),
        ('asks.en = "Sign."', 'asks.en = "You are compliant."', 21, "without a verdict"),
        ('ref = "Rule 2"', "ref = 2", 20, "one line of text"),
        ('source = "House rules, 2026"\n', "", 1, "'source', it is missing"),
        ('note.en = "Ours."', 'remark = "x"\nnote.en = "Ours."', 5, "'remark'"),
        ('name.en = "House rules"', 'name.en = "House rules', 3, "Illegal character"),
        ("[[control]]", "[control]", 8, ""),
        ('[[control]]\nid = "house-2"', '[[controls]]\nid = "house-2"', 18, "'controls'"),
        ('ref = "Rule 2"', "ref = “Rule 2”", 20, "Invalid value"),
        ('covers = "nothing"', "covers = nothing", 23, "Invalid value"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    old: str, new: str, line: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_regime(GOOD.replace(old, new, 1).encode(), "house.toml", KNOWN)
    message = str(caught.value)
    assert message.startswith("house.toml, line ")
    if says:
        assert message.startswith(f"house.toml, line {line}: ")
        assert says in message


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_a_file_in_another_encoding_is_one_error_at_the_first_such_line(encoding: str) -> None:
    with pytest.raises(ConfigError, match=r"house\.toml, line \d: expected UTF-8") as caught:
        parse_regime(GOOD.encode(encoding), "house.toml", KNOWN)
    assert ("line 4" in str(caught.value)) == (encoding == "gbk")


def test_a_file_of_a_windows_editor_is_read_as_it_is_meant() -> None:
    content = GOOD.replace("\n", "\r\n").encode("utf-8-sig")
    assert parse_regime(content, "house.toml", KNOWN) == parse_regime(
        GOOD.encode(), "house.toml", KNOWN
    )


@given(st.text(max_size=200))
def test_any_text_is_a_regime_or_one_clear_error(text: str) -> None:
    content = text.encode("utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError, match=r"^x\.toml, line [0-9]+: "):
        parse_regime(content, "x.toml", KNOWN)


@given(st.integers(min_value=0, max_value=len(GOOD) - 1), st.sampled_from('"=[]\n\0x'))
def test_one_changed_character_never_ends_in_anything_but_a_clear_error(
    place: int, character: str
) -> None:
    try:
        parse_regime((GOOD[:place] + character + GOOD[place + 1 :]).encode(), "x.toml", KNOWN)
    except ConfigError as error:
        assert str(error).startswith("x.toml, line ")  # noqa: PT017
