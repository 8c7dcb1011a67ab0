"""Payments become records one by one; XML that could do harm is refused before it does."""

import gzip
import time
from pathlib import Path

import pytest

from tests.client.sources import CANARY, check, raw, read, refused

PAYMENTS = 'kind = "iso20022"\npath = "m.xml"\nlabel = "{purpose}"\nunit = "customer"\n'
PAIN = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"><CstmrCdtTrfInitn>
<GrpHdr><MsgId>M1</MsgId></GrpHdr>
<PmtInf><PmtInfId>P1</PmtInfId><ReqdExctnDt><Dt>2024-05-06</Dt></ReqdExctnDt>
<Dbtr><Nm>Jane Doe</Nm></Dbtr><DbtrAcct><Id><IBAN>DE89370400440532013000</IBAN></Id></DbtrAcct>
<CdtTrfTxInf><PmtId><EndToEndId>E1</EndToEndId></PmtId>
<Amt><InstdAmt Ccy="EUR">12.50</InstdAmt></Amt><Cdtr><Nm>Shop</Nm></Cdtr>
<Purp><Cd>SUPP</Cd></Purp><RmtInf><Ustrd>Invoice 7 &amp; 8</Ustrd><Ustrd>thanks</Ustrd></RmtInf>
</CdtTrfTxInf>
<CdtTrfTxInf><PmtId><EndToEndId>E2</EndToEndId></PmtId>
<Amt><InstdAmt Ccy="EUR">1.00</InstdAmt></Amt><Purp><Cd>SALA</Cd></Purp>
<RmtInf><Strd><AddtlRmtInf>May salary</AddtlRmtInf></Strd></RmtInf></CdtTrfTxInf>
</PmtInf></CstmrCdtTrfInitn></Document>"""
CAMT = """<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>
<Stmt><Acct><Id><IBAN>GB82WEST12345698765432</IBAN></Id></Acct>
<Ntry><Amt Ccy="GBP">30.00</Amt><CdtDbtInd>DBIT</CdtDbtInd><BookgDt><Dt>2024-05-07</Dt></BookgDt>
<NtryDtls><TxDtls><Amt Ccy="GBP">10.00</Amt><RmtInf><Ustrd>rent</Ustrd></RmtInf></TxDtls>
<TxDtls><Amt Ccy="GBP">20.00</Amt><RmtInf><Ustrd>power</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>
<Ntry><Amt Ccy="GBP">5.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><BookgDt><Dt>2024-05-08</Dt></BookgDt>
<AddtlNtryInf>interest</AddtlNtryInf></Ntry>
</Stmt></BkToCstmrStmt></Document>"""


def write(folder: Path, content: str | bytes) -> Path:
    (folder / "m.xml").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_orders_become_records(tmp_path: Path, pack: type[bytes]) -> None:
    records = read(PAYMENTS, write(tmp_path, pack(PAIN.encode())))
    assert [r.fields["prompt"] for r in records] == ["Invoice 7 & 8 thanks", "May salary"]
    assert [r.fields["label"] for r in records] == ["SUPP", "SALA"]
    assert {r.unit_id for r in records} == {"DE89370400440532013000"}
    fields = raw(PAYMENTS, tmp_path)[0].fields
    assert fields["amount"] == "12.50"
    assert fields["currency"] == "EUR"
    assert fields["date"] == "2024-05-06"
    assert fields["debtor_name"] == "Jane Doe"
    assert "ISO 20022, 1 files" in check(PAYMENTS, tmp_path)


def test_a_statements_entries_become_records_each_with_its_own_amount(tmp_path: Path) -> None:
    found = raw(PAYMENTS, write(tmp_path, CAMT))
    assert [
        (r.fields["remittance"], r.fields["amount"], r.fields["direction"], r.fields["date"])
        for r in found
    ] == [
        ("rent", "10.00", "DBIT", "2024-05-07"),
        ("power", "20.00", "DBIT", "2024-05-07"),
        (None, "5.00", "CRDT", "2024-05-08"),
    ]
    assert found[0].fields["entry_amount"] == "30.00"
    assert found[2].fields["information"] == "interest"
    assert {r.unit_id for r in found} == {"GB82WEST12345698765432"}


def test_a_name_and_an_account_are_in_no_text_unless_they_are_kept(tmp_path: Path) -> None:
    write(tmp_path, PAIN)
    text = read(PAYMENTS + 'prompt = "{*}"\ntext_columns = ["remittance", "amount"]', tmp_path)[
        0
    ].fields["prompt"]
    assert text is not None
    assert "12.50" in text
    assert not any(value in text for value in ("Jane", "DE89", "Shop"))
    named = PAYMENTS + 'prompt = "{debtor_name}"\n'
    assert "direct identifier" in str(refused(named, tmp_path))
    assert read(named + 'keep = ["debtor_name"]', tmp_path)[0].fields["prompt"] == "Jane Doe"


LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY lol "lol">'
    + "".join(
        f'<!ENTITY lol{i} "{f"&lol{i - 1 if i > 1 else str()};" * 10}">' for i in range(1, 10)
    )
    + "]>"
)


@pytest.mark.parametrize(
    "declaration",
    [
        LAUGHS,
        '<!DOCTYPE Document [<!ENTITY lol9 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE Document SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE Document [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]>',
    ],
)
def test_entities_are_refused_before_they_expand(tmp_path: Path, declaration: str) -> None:
    content = PAIN.replace('"UTF-8"?>', f'"UTF-8"?>{declaration}').replace("thanks", "&lol9;")
    begun = time.monotonic()
    error = refused(PAYMENTS, write(tmp_path, content))
    assert "without a document type declaration" in str(error)
    assert "m.xml, line 1" in str(error)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis", "klingon", "utf-7"])
def test_a_message_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    content = f'<?xml version="1.0" encoding="{encoding}"?><a>{CANARY}</a>'
    assert "m.xml: expected XML in UTF-8" in str(refused(PAYMENTS, write(tmp_path, content)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PAIN[:-40] + CANARY, "m.xml, line 12: expected XML"),
        (PAIN.replace("thanks", f"&{CANARY};"), "m.xml, line 8: expected XML"),
        (f"<a>{CANARY}</a>", "expected a message of pain.001 or camt.053"),
        ("", "expected XML"),
        ("<a>" * 100, "at most 64 elements"),
        (PAIN.replace("thanks", CANARY * 200_000), "characters in a transaction"),
        (PAIN.replace("DbtrAcct", "Other"), "transaction 1: expected a value in column 'account'"),
    ],
)
def test_a_message_that_cannot_be_used_is_named_by_file_and_place(
    tmp_path: Path, content: str, expected: str
) -> None:
    assert expected in str(refused(PAYMENTS, write(tmp_path, content)))
