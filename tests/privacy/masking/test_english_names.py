"""English names and places without a model: known, unknown, cued, and words that are neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.masking.config import ENTITY_TYPES
from privacy.masking.english.words import words
from privacy.masking.mask import merge
from privacy.masking.recognisers import find
from tests.privacy.masking.spans import masked


@pytest.fixture(scope="module", autouse=True)
def _words_are_read() -> None:
    words()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Mary Johnson was seen today.", "Mary Johnson"),
        ("His wife Mary called.", "Mary"),
        ("Seen by Dr. Will Banks in clinic.", "Will Banks"),
        ("Signed, Tarvelon Quisby.", "Tarvelon Quisby"),
        ("we asked Grace about it", "Grace"),
        ("Grace Kelly was discharged.", "Grace Kelly"),
        ("a 54-year-old woman, Anna S., with asthma", "Anna S"),
        ("seen by L. Wang yesterday", "L. Wang"),
        ("the patient, Sarah Doe, agreed", "Sarah Doe"),
        ("my name is rose and i forgot my card", "rose"),
        ("send 500 to adrien balcom please", "adrien balcom"),
        ("send 500 to kiela martell please", "kiela martell"),
        ("Dictated by: Rose Day", "Rose Day"),
        ("operated on by Rose Day, MD", "Rose Day"),
        ("Kind regards,\nHope Banks\n", "Hope Banks"),
        ("Name: Rose\nSex: F", "Rose"),
        ("PATIENT: KOWALCZYK, JAN", "KOWALCZYK"),
        ("José Ramírez came", "José Ramírez"),
        ("Jose\u0301 Ramirez came", "Jose\u0301 Ramirez"),
        ("O'Brien and McDonald came", "McDonald"),
        ("i am in london now", "london"),
        ("i live in lake scott with my dog", "lake scott"),
        ("She lives at 12 Elm Street, Springfield.", "12 Elm Street"),
        ("Houston, TX 77001", "77001"),
        ("treated at Mass General in May", "Mass General"),
        ("admitted to Texas Health Presbyterian Hospital", "Texas Health Presbyterian Hospital"),
        ("P.O. Box 1182", "1182"),
        ("Apt. 12B", "12B"),
        ("London SW1A 1AA", "SW1A 1AA"),
        ("She grew up in the Czech Republic.", "Czech Republic"),
        ("flew from Salt Lake City to Kuala Lumpur", "Salt Lake City"),
        ("flew from Salt Lake City to Kuala Lumpur", "Kuala Lumpur"),
        ("born in SAINT-PRIEST near Nashville", "SAINT-PRIEST"),
        ("born in Nashville", "Nashville"),
        ("sent to 26 rue de la Hulotais", "26 rue de la Hulotais"),
        ("Anna Wirtz\n12 Elm Street\nSuite 574\nHoustonia", "Suite 574"),
        ("We met at the corner of Elm Street and 9 Oak Road.", "the corner of Elm Street"),
        ("seen at the Downtown Clinic", "Downtown Clinic"),
        ("Follow up with Kimberly van den Bogaert today.", "Kimberly van den Bogaert"),
        ("Keith Johnson Jr. came", "Keith Johnson Jr."),
        ('We met Maria "Buckshot" Johnson.', "Maria Buckshot Johnson"),
        ("Destiny said that she paid.", "Destiny"),
        ("they told olga krylova's bank", "krylova"),
        ("moving there, says jonsson.", "jonsson"),
        ("thank you #JaneJohnson for calling", "JaneJohnson"),
        ("landed in #nairobi today", "nairobi"),
    ],
)
def test_a_name_or_place_is_masked_whole(text: str, name: str) -> None:
    result = masked(text)
    assert name not in result
    assert not any(part in result.split() for part in name.split() if len(part) > 2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("I spoke with Mark White about the loan.", "Mark White"),
        ("I spoke with Faith Hand about the loan.", "Faith Hand"),
        ("Patient Mark Brown was seen today.", "Mark Brown"),
        ("PATIENT MARK BROWN WAS SEEN TODAY.", "MARK BROWN"),
        ("PATIENT IRIS KING WAS SEEN TODAY.", "IRIS KING"),
        ("Patient Hope Butcher was seen today.", "Hope Butcher"),
        ("Patient Will Banks was seen today.", "Will Banks"),
        ("Hello, this is Mark Brown calling", "Mark Brown"),
        ("Mark A. White signed.", "Mark A. White"),
        ("STONE, MARY", "STONE MARY"),
        ("STONE, MARK", "STONE MARK"),
        ("JANE DOE", "JANE DOE"),
    ],
)
def test_two_ordinary_words_that_are_a_full_name_are_masked(text: str, name: str) -> None:
    result = masked(text)
    assert not any(part in result for part in name.split() if len(part) > 2), result


@pytest.mark.parametrize(
    "text",
    [
        "Robin Hood charged a fee.",
        "The patient will mark the day.",
        "Will the bank close the account?",
        "Credit Card Company",
        "PAST MEDICAL HISTORY: LONG LIST, SEE BELOW",
        "This is Real Estate Law.",
    ],
)
def test_two_ordinary_words_that_are_no_name_stay(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Cardiovascular / Pulmonary",
        "Credit card",
        "X-ray of the chest shows no infiltrate.",
        "Orthopedic",
        "Credit reporting, credit repair services, or other personal consumer reports",
        "PREOPERATIVE DIAGNOSIS: Acute appendicitis.",
        "HEENT: Normocephalic. CV: RRR, no MRG. EKG and MRI were normal.",
        "A Foley catheter was placed. Doppler ultrasound showed flow.",
        "Murphy's sign was negative; a Kelly clamp and Adson forceps were used.",
        "Parkinson's disease, Hodgkin lymphoma, Crohn disease and Alzheimer's disease.",
        "He took Tylenol and Lipitor daily.",
        "I called Wells Fargo and Equifax about my Visa card on Monday.",
        "the bank will mark may transfers as pending",
        "How long does a transfer take?",
        "Ive told them im not paying",
        "XXXX XXXX told me XX/XX/2019",
        "Glasgow Coma Scale 15 and a Baker cyst.",
        "Thanks #PainFree #blessed",
    ],
)
def test_words_that_name_nobody_stay(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("length", [1, 40, 4000])
def test_a_name_is_found_however_long_the_text_is(length: int) -> None:
    filler = "the bank will send a letter. " * length
    assert "Mary" not in masked(f"{filler}His wife Mary called. {filler}")


@given(st.text(alphabet=st.characters()), st.text(alphabet=st.characters()))
def test_any_text_can_be_searched_and_spans_lie_in_it(left: str, right: str) -> None:
    text = f"{left} Mary Johnson {right}"
    for span in find(text, ENTITY_TYPES):
        assert 0 <= span.start < span.end <= len(text)


@given(
    st.text(alphabet="\U0001d7d8\U0001f600\u0301\uff14\u200b\u00ad\ufe0f\u034f\u31644 -"),
    st.booleans(),
)
def test_offsets_hold_beside_surrogates_marks_and_hidden_digits(noise: str, before: bool) -> None:
    card = "4\u200b111\u00ad1111 \uff11111 1\u2060111"
    text = f"{noise}, card {card}." if before else f"card {card}, {noise}"
    spans = [span for span in merge(find(text, ("CREDIT_CARD",))) if card in text[span.start :]]
    start = text.index(card)
    assert any(
        span.start <= start and start + len(card) <= span.end
        for span in merge(find(text, ("CREDIT_CARD",)))
    ), spans


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("seen in Leeds w John Smith today", "seen in [LOCATION] w [PERSON] today"),
        ("Matt di Angelo called", "[PERSON] called"),
        ("cody t ross came", "[LOCATION] [PERSON] came"),
    ],
)
def test_what_links_a_place_and_a_name_is_masked_without_the_space_beside_the_place(
    text: str, left: str
) -> None:
    assert masked(text) == left
