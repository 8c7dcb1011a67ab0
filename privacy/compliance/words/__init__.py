"""The report's languages: English stands in the code, other languages in a table beside it."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

LANGUAGES = ("en", "zh")


class Words:
    """Sentences of one language. The English one is the key; fields stand in braces."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise ValueError(f"expected a language of {', '.join(LANGUAGES)}, got {language!r}")
        self.language = language
        self._table = table(language)

    def __call__(self, english: str, /, **fields: object) -> str:
        """The sentence in this language; in English where nobody translated it.

        A test asks for every sentence of the code, so that none is missing.
        """
        sentence = self._table.get(english, english)
        return sentence.format(**fields) if fields else sentence


@cache
def table(language: str) -> Mapping[str, str]:
    """English sentence -> the language's."""
    if language == "en":
        return {}
    file = resources.files("privacy.compliance.words").joinpath(f"{language}.toml")
    return dict(tomllib.loads(file.read_text("utf-8")))
