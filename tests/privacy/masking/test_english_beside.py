"""What stands beside an English name and belongs to it, and who is told by a word before."""

import pytest

from privacy.masking.english.words import words
from tests.privacy.masking.spans import masked


@pytest.fixture(scope="module", autouse=True)
def _words_are_read() -> None:
    words()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("we met Kid Tarvelon yesterday", "Kid"),
        ("Pie Tarvelon was seen today.", "Pie"),
        ("Ed Tarvelon called twice.", "Ed"),
        ("we spoke with Tarvelon Rhymes about it", "Rhymes"),
        ("seen with Audrey & Hazel in clinic", "Hazel"),
        ("Hazel and Tarvelon came in", "Hazel"),
        ("cared for by de Tarvelon at night", "de"),
        ("met the Duchess of Nairobi there", "Duchess"),
        ("his daughter Peaches was there", "Peaches"),
        ("my brother harry paid", "harry"),
        ("Thanks Frosty, it works now", "Frosty"),
        ("the ruling of Judge Frosty stands", "Frosty"),
        ("i asked tom about it", "tom"),
        ("she moved to ohio last year", "ohio"),
        ("Listening to Donald frobner now", "frobner"),
        ("it's page guynn speaking", "page"),
        ("Heath Ledger liked it", "Ledger"),
        ("lives in northern Nairobi", "northern"),
        ("Nairobi railway station was closed", "station"),
        ("asked @storm about it", "storm"),
        ("asked @2frobnerz about it", "2frobnerz"),
        ("a drink with Rutina at noon", "Rutina"),
        ("we saw matt di nairobi there", "di"),
        ("cody m tarvelon signed", "m"),
        ("as Tarvelon, A.B. (1978) says", "A.B."),
        ('William " Buckshot " May pitched', "May"),
        ("Senator Tarvelon- Wells agreed", "Wells"),
        ("Duchess of Johnson came", "Duchess"),
        ("' - Ed Tarvelon #lol", "Ed"),
        ("J. cole liked it", "cole"),
        ("hey tanner are you there", "tanner"),
        ('"We go on," says Frosty.', "Frosty"),
        ('"We go on," said Du Cane.', "Cane"),
        ('Destiny: "I am here."', "Destiny"),
        ("spoke with Sparks about it", "Sparks"),
        ("Savage lives in town", "Savage"),
        ("listening to Tarvelon frobner's record", "frobner"),
    ],
)
def test_what_belongs_to_a_name_is_masked_with_it(text: str, name: str) -> None:
    assert name not in masked(text).replace("[", " ").replace("]", " ").split(), masked(text)
    assert name not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "Dear Customer, your card is ready.",
        "Dear Doctor: thank you for the referral.",
        "Thanks for the card, hope it works.",
        "my friend will pay it back",
        "The patient and The Bank agreed.",
        "Take one tablet @bedtime.",
        "Cardizem and Adderall were continued.",
        "He was started on Trileptal, then on Provigil.",
        "We used an Amplatz dilator and Gelfoam.",
        "excised in toto, right nasal ala, 20 watts",
        "General: well developed. Heart: regular.",
        'The sign read "closed," said the doctor.',
        "E. coli and C. difficile grew; A. continue, B. hold.",
        "Hello doc, hey buddy.",
        "The brush sparks and the river waters savage land.",
    ],
)
def test_ordinary_words_beside_no_name_stay(text: str) -> None:
    assert masked(text) == text


def test_a_word_at_the_start_of_a_sentence_stays_before_a_name() -> None:
    assert masked("Then Tarvelon called.") == "Then [PERSON] called."
    assert masked("Called Tarvelon again.") == "Called [PERSON] again."


@pytest.mark.parametrize(
    "date",
    [
        "3rd to 5th of june",
        "3rd and the 5th of June",
        "June 3rd to 5th",
        "3-5 June 2021",
        "twelfth of january",
        "may the 5th",
        "5 of may",
        "first of december 2020",
        "13/nov/2020",
        "21 st june",
        "25th of this month",
        "12/04 /2011",
        "Thursday, the 16th of November",
        "Wed - 11th Sep",
        "friday the fourth of february",
        "tenth Sep",
        "eighth May",
        "January 18 th",
        "Nov/1/2019",
        "May 16th , 2022",
        "22nd, july",
        "27. February",
        "1st week of june",
        "2nd Monday of March",
        "9th Sept next year",
        "Thursday 16th",
        "Sat 5/11",
        "saturday, may 7th",
        "mon, 22 may 2022",
        "5th of Jun in 2022",
        "Monday on the 14th of May",
        "April 3rd, Tuesday",
        "27th August in the morning",
        "2019 Sept 18th",
        "17th",
    ],
)
def test_dates_as_people_say_them_are_masked_whole(date: str) -> None:
    assert masked(f"it was on the {date}, i think") == "it was on the [DATE], i think"


def test_a_date_told_from_another_is_masked_whole() -> None:
    assert masked("seen two weeks after June 3rd, i think") == "seen [DATE], i think"
    assert masked("a week from Monday, the 5th of May, 2020.") == "[DATE]."
    assert masked("see the week of 3 June please") == "see [DATE] please"
    assert masked("came on the morning of April 2nd, i think") == "came on [DATE], i think"
    assert masked("due Friday, 23/Nov/2010 at noon") == "due [DATE] at noon"
    assert masked("The week of pain came after 3 days of rest.").startswith("The week of pain")


@pytest.mark.parametrize(
    "text",
    [
        "the 2nd may be needed",
        "type 2 may cause it",
        "a third of patients may march",
        "take 3 or 5",
        "the 3rd dose was given on the 2nd floor",
        "pain radiates from the 3rd to the 5th rib",
        "grade 2 may resume, the second may not",
        "a second march was held",
        "the third, if any, may march on",
    ],
)
def test_numbers_beside_small_may_are_no_dates(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "atendido en Junio 04 por dolor",
        "citas previas 914 90 66 60 de lunes",
        "Tfno: 986413144 ext 1530 de lunes",
        "NHC: 4579. Edad",
    ],
)
def test_numbers_as_spanish_notes_write_them_are_masked(text: str) -> None:
    assert not any(sign.isdigit() for sign in masked(text))


def test_a_sequence_of_letters_before_a_name_is_read_once() -> None:
    # Searched from each of its letters it would take minutes: a round's time, for one record.
    text = "ACGT" * 25_000 + ".1 Name"
    assert masked(text).endswith(".1 Name")
