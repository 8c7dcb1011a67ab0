"""Columns that name a person are found by name and by content; ordinary ones are left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.identifiers import content_kind, find_identifiers, names_a_person


@pytest.mark.parametrize(
    "column",
    [
        "ssn", "SSN", "patient_name", "PatientName", "last", "lastName", "LAST_NAME", "E-Mail",
        "phone", "Telephone no.", "street", "home address", "IBAN", "debtor_iban", "card_number",
        "drivers_license", "passport", "birth_date", "dateOfBirth", "Date of Birth", "mrn",
        "mothers_maiden_name", "customer_id", "customerId", "account_number", "ip", "姓名",
        "患者姓名", "身份证号", "联系电话", "name", "ID", "CCNumber", "MRNCode",
    ],
)  # fmt: skip
def test_a_column_is_known_by_its_name(column: str) -> None:
    assert names_a_person(column)


@pytest.mark.parametrize(
    "column",
    [
        "age", "job", "balance", "hospital", "drug_name", "hospital_name", "product name",
        "diagnosis", "note_text", "note_date", "month", "zip", "city", "filename", "duration",
        "campaign", "contact", "credit_history", "purpose", "sex", "cp", "chol", "num",
        "concept_id",
        "description", "recipe", "ship_mode", "panel", "诊断", "科室", "first_visit",
        "n_encounters",
    ],
)  # fmt: skip
def test_an_ordinary_column_is_left_alone(column: str) -> None:
    assert not names_a_person(column)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a@example.org", "b.c@example.com"], "email addresses"),
        (["555-978-4581", "(0) 20 7946 0000", "+49 30 901820"], "telephone numbers"),
        (["13812345678", "15912345678"], "telephone numbers"),
        (["999-22-1962", "999-30-7608"], "social security numbers"),
        (["018f428e-34f6-4707-8009-5ad742f901e7"], "random ids"),
        (["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000"], "IBANs"),
        (["4111 1111 1111 1111", "5500005555555559"], "card numbers"),
        (["11010519491231002X"], "resident ids"),
        (["10.0.12.13", "2001:db8::1"], "IP addresses"),
        (["https://example.org/1"], "addresses of pages"),
        (["2020-01-02", "2020/01/03"], ""),
        (["01.02.2020", "03.04.2021"], ""),
        (["1169", "5951", "10000000"], ""),
        (["145.0", "2.3"], ""),
        (["4111111111111112", "4111111111111111"], ""),
        (["GB82 WEST 1234 5698 7654 33"], ""),
        (["110105194912310021"], ""),
        (["a long note that names a@example.org"], ""),
        (["management", "a@example.org", "blue-collar"], ""),
        (["1" * 1_000_000], ""),
    ],
)
def test_content_is_known_when_it_is_a_whole_identifier(values: list[str], kind: str) -> None:
    assert content_kind(values) == kind


@given(st.text(), st.lists(st.text(), min_size=1, max_size=5))
def test_any_name_and_any_content_is_judged_without_a_fault(name: str, values: list[str]) -> None:
    assert names_a_person(name) in (True, False)
    assert isinstance(content_kind(values), str)


def test_a_reason_is_given_and_few_values_say_nothing() -> None:
    rows = [{"id": str(i), "x": f"{i}@example.org", "ssn": None, "y": "z"} for i in range(6)]
    assert find_identifiers(("id", "x", "ssn", "y"), rows, named=["id", "gone"]) == {
        "id": "it names the record or the unit",
        "x": "it holds email addresses",
        "ssn": "of its name",
    }
    assert "x" not in find_identifiers(("id", "x"), rows[:3])
