"""Names with a small letter, as prompts to a bank have them."""

import pytest

from privacy.masking.english.words import words
from tests.privacy.masking.spans import masked


@pytest.fixture(scope="module", autouse=True)
def _words_are_read() -> None:
    words()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("send 50 to zaelina duke please", "zaelina duke"),
        ("did zaelina glass pay me back?", "zaelina glass"),
        ("I think I sent it to zaelina frobner, but I am not sure", "zaelina frobner"),
        ("owe zaelina carol little a lot", "zaelina carol little"),
        ("is zaelina duke's account closed", "zaelina duke"),
        ("cancel the transfer to zaelina li", "zaelina li"),
        ("add christian jarvis as a payee", "christian jarvis"),
        ("cash from pewter jarvis has not come", "pewter jarvis"),
        ("what do i owe olive potter", "olive potter"),
        ("rose hill", "rose hill"),
        ("could you send 50 to pearl please", "pearl"),
        ("i want to change my surname to reed", "reed"),
        ("can i change my name from rose hill to banks", "banks"),
        ("can i change my name from rose hill to banks", "rose hill"),
        ("the name is jennifer hill", "jennifer hill"),
    ],
)
def test_a_name_in_a_prompt_is_masked_whole(text: str, name: str) -> None:
    left = masked(text).replace("[PERSON]", " ")
    assert not set(name.split()) & set(left.replace(",", " ").replace("'s", " ").split()), left


@pytest.mark.parametrize(
    "text",
    [
        "transfer cash to savings please",
        "i want to donate to charity from april on",
        "please change the name on my card to match it",
        "can i change the name to reflect this",
        "will the bank bill me for may",
        "I sent it because I thought I could, and I can not wait",
        "how do i move money from savings to checking",
        "the price of gold, in a word",
        "mark it as paid from today",
    ],
)
def test_a_prompt_that_names_nobody_stays(text: str) -> None:
    assert masked(text) == text


def test_a_text_with_capitals_is_no_prompt() -> None:
    # Somebody who writes names with a capital writes few names small.
    text = "The Bank Told Us That The Zorblat Came. it was frobnicated there."
    assert "frobnicated" in masked(text)
