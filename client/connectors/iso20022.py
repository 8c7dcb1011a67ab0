"""Records from ISO 20022 payments: pain.001 (orders) and camt.053 (statements), read as a stream.

One transaction is one record: what its remittance says, amount, dates, parties and accounts. A
message may come from anybody who can send money, so a document type declaration is refused:
without one there are no entities to expand or to fetch ("billion laughs", XXE). One transaction is
in memory at a time.

Sources: ISO 20022 message definitions pain.001.001.03-12 and camt.053.001.02-13.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

# The bare parser: a declaration is refused before it means anything, see `_refuse`.
from xml.parsers import expat

from client.connectors.files import listed, opened
from client.connectors.record import Record, check_columns, make_record
from client.sources import Iso20022Section
from privacy.errors import ConfigError

MAX_TRANSACTION_CHARS: Final = 1024 * 1024
MAX_DEPTH: Final = 64
_CHUNK = 64 * 1024
_ROOTS: Final = {"CstmrCdtTrfInitn": "pain.001", "BkToCstmrStmt": "camt.053"}
# The element that is a record, within what it inherits from: an order's payment, a statement, an
# entry. Paths are of names without namespace, below the element.
_TRANSACTIONS: Final = frozenset({"CdtTrfTxInf", "TxDtls"})
_GROUPS: Final = frozenset({"PmtInf", "Stmt", "Ntry"})
_OWN: Final[dict[str, tuple[str, ...]]] = {
    "end_to_end_id": ("PmtId/EndToEndId", "Refs/EndToEndId"),
    "remittance": ("RmtInf/Ustrd", "RmtInf/Strd/AddtlRmtInf"),
    "reference": ("RmtInf/Strd/CdtrRefInf/Ref",),
    "purpose": ("Purp/Cd", "Purp/Prtry"),
    "amount": ("Amt/InstdAmt", "AmtDtls/TxAmt/Amt", "Amt"),
    "currency": ("Amt/InstdAmt@Ccy", "AmtDtls/TxAmt/Amt@Ccy", "Amt@Ccy"),
    "direction": ("CdtDbtInd",),
    "debtor_name": ("Dbtr/Nm", "RltdPties/Dbtr/Nm", "RltdPties/Dbtr/Pty/Nm"),
    "debtor_iban": ("DbtrAcct/Id/IBAN", "RltdPties/DbtrAcct/Id/IBAN"),
    "creditor_name": ("Cdtr/Nm", "RltdPties/Cdtr/Nm", "RltdPties/Cdtr/Pty/Nm"),
    "creditor_iban": ("CdtrAcct/Id/IBAN", "RltdPties/CdtrAcct/Id/IBAN"),
}
# What the element around it says, where the transaction itself does not.
_INHERITED: Final[dict[str, tuple[str, ...]]] = {
    "account": ("DbtrAcct/Id/IBAN", "DbtrAcct/Id/Othr/Id", "Acct/Id/IBAN", "Acct/Id/Othr/Id"),
    "date": ("ReqdExctnDt", "ReqdExctnDt/Dt", "BookgDt/Dt", "BookgDt/DtTm"),
    "code": ("BkTxCd/Domn/Fmly/SubFmlyCd", "BkTxCd/Domn/Fmly/Cd", "BkTxCd/Prtry/Cd"),
    "entry": ("AcctSvcrRef", "NtryRef", "PmtInfId"),
    "information": ("AddtlNtryInf",),
    "direction": ("CdtDbtInd",),
    # Of the whole entry, which may hold several transactions.
    "entry_amount": ("Amt",),
    "entry_currency": ("Amt@Ccy",),
    "debtor_name": ("Dbtr/Nm",),
    "debtor_iban": ("DbtrAcct/Id/IBAN",),
}
FIELDS: Final = tuple(dict.fromkeys(["message", *_OWN, *_INHERITED]))


class Iso20022Connector:
    """The transactions of ISO 20022 messages."""

    def __init__(self, data: Iso20022Section) -> None:
        self._data = data

    def check(self) -> str:
        """How many files, and the fields."""
        files = listed(self._data.path, (".xml",))
        check_columns(FIELDS, self._data, str(self._data.path))
        return f"ISO 20022, {len(files)} files, fields {', '.join(FIELDS)}"

    def records(self) -> Iterator[Record]:
        """The transactions in the files' order, files by name."""
        check_columns(FIELDS, self._data, str(self._data.path))
        for path in listed(self._data.path, (".xml",)):
            for number, fields in enumerate(_read(path), start=1):
                yield make_record(fields, self._data, f"{path}, transaction {number}")


def _read(path: Path) -> Iterator[dict[str, str | None]]:
    reader = _Reader()
    try:
        with opened(path) as raw:
            while True:
                chunk = raw.read(_CHUNK)
                reader.read(chunk, path)
                yield from reader.taken()
                if not chunk:
                    break
    except expat.ExpatError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: expected XML, got {expat.ErrorString(error.code)}",
            hint="check that the file is complete",
        ) from None
    except _UnsafeError as error:
        raise ConfigError(
            f"{path}, line {reader.parser.CurrentLineNumber}: {error}",
            hint="no ISO 20022 message needs it; ask whoever sent the file",
        ) from None
    if reader.message is None:
        raise ConfigError(f"{path}: expected a message of {' or '.join(_ROOTS.values())}")


class _UnsafeError(Exception):
    """XML that a payment message has no use for and a reader must not follow."""


@dataclass(slots=True)
class _Element:
    """A group or a transaction, and the values that stand in it by their path below it."""

    name: str
    depth: int
    values: dict[str, list[str]] = field(default_factory=dict)
    num_transactions: int = 0


class _Reader:
    """Turns the parser's events into the fields of transactions."""

    def __init__(self) -> None:
        self.message: str | None = None
        self._path: list[str] = []
        self._open: list[_Element] = []
        self._text: list[str] = []
        self._num_chars = 0
        self._finished: list[dict[str, str | None]] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = _refuse
        self.parser.EntityDeclHandler = _refuse
        self.parser.ExternalEntityRefHandler = _refuse

    def read(self, chunk: bytes, path: Path) -> None:
        """Take in what comes next; nothing is the end.

        Raises:
          ConfigError: The message is written in an encoding that the parser does not know.
        """
        try:
            self.parser.Parse(chunk, not chunk)
        except (ValueError, LookupError):
            raise ConfigError(
                f"{path}: expected XML in UTF-8, got an encoding that cannot be read here",
                hint="write the file in UTF-8, as ISO 20022 has it",
            ) from None

    def taken(self) -> list[dict[str, str | None]]:
        """The transactions that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self._path.append(local)
        self._text = []
        if len(self._path) > MAX_DEPTH:
            raise _UnsafeError(f"expected at most {MAX_DEPTH} elements in each other, got more")
        if len(self._path) == 2:
            self.message = _ROOTS.get(local, self.message)
        if local in _TRANSACTIONS or local in _GROUPS:
            self._open.append(_Element(local, len(self._path)))
            self._num_chars = 0
        if "Ccy" in attributes and self._open:
            self._keep("@Ccy", attributes["Ccy"])

    def _characters(self, text: str) -> None:
        self._num_chars += len(text)
        if self._num_chars > MAX_TRANSACTION_CHARS:
            raise _UnsafeError(
                f"expected at most {MAX_TRANSACTION_CHARS} characters in a transaction, got more"
            )
        self._text.append(text)

    def _end(self, _name: str) -> None:
        text = "".join(self._text).strip()
        self._text = []
        element = self._open[-1] if self._open else None
        if element is not None and element.depth == len(self._path):
            self._close(self._open.pop())
        elif element is not None and text:
            self._keep("", text)
        self._path.pop()

    def _keep(self, attribute: str, text: str) -> None:
        element = self._open[-1]
        path = "/".join(self._path[element.depth :]) + attribute
        element.values.setdefault(path, []).append(text)

    def _close(self, element: _Element) -> None:
        # An entry without details is a transaction of its own.
        if element.name in _TRANSACTIONS or (
            element.name == "Ntry" and element.num_transactions == 0
        ):
            self._finished.append(self._fields(element))
            for around in self._open:
                around.num_transactions += 1
        if element.name == "Ntry":
            self._num_chars = 0

    def _fields(self, element: _Element) -> dict[str, str | None]:
        fields: dict[str, str | None] = dict.fromkeys(FIELDS)
        fields["message"] = self.message
        for name, paths in _OWN.items():
            fields[name] = _first(element, paths)
        # The nearest element around it speaks first.
        for around in (element, *reversed(self._open)):
            for name, paths in _INHERITED.items():
                # What is said of the entry is not to be found in one of its transactions.
                if fields[name] is None and (around.name == "Ntry" or name[:6] != "entry_"):
                    fields[name] = _first(around, paths)
        return fields


def _first(element: _Element, paths: tuple[str, ...]) -> str | None:
    for path in paths:
        if path in element.values:
            return " ".join(element.values[path])
    return None


def _refuse(*_: object) -> NoReturn:
    raise _UnsafeError("expected XML without a document type declaration, got one")
