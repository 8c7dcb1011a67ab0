"""Dates and phones as other countries write them: English notes quote those of other hospitals."""

from privacy.masking.patterns import AFTER, Rules, numbered

# Romance languages and German.
_MONTH_ELSEWHERE = (
    r"(?:enero|febrero|marzo|abril|mayo|junio|julio|agosto|sep?tiembre|octubre|noviembre|diciembre|"
    r"janeiro|fevereiro|mar\u00e7o|maio|junho|julho|setembro|outubro|novembro|dezembro|"
    r"gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|"
    r"janvier|f\u00e9vrier|mars|avril|mai|juin|juillet|ao\u00fbt|septembre|octobre|novembre|"
    r"d\u00e9cembre|"
    r"januar|februar|m\u00e4rz|juni|juli|oktober|dezember)"
)
_TO_YEAR = r"(?: |-| de | del | de l'| del a\u00f1o |/)"
_LETTER_BEFORE = r"(?<![A-Z])"

RULES: Rules = {
    "DATE": (
        (
            0.7,
            numbered(
                rf"[0-9]{{1,2}}(?:\.|\u00ba|er)?[ \-/]{{0,2}}(?:de )?{_MONTH_ELSEWHERE}(?![A-Z])"
                rf"(?:{_TO_YEAR}(?:[0-9]{{4}}|[0-9]{{2}}){AFTER})?",
            ),
        ),
        (
            0.7,
            numbered(
                rf"(?:19|20)[0-9]{{2}}{AFTER}",
                least=4,
                back=rf"{_LETTER_BEFORE}(?P<value>(?:{_MONTH_ELSEWHERE} (?:y|e|a|et|und|bis) )?"
                rf"{_MONTH_ELSEWHERE}{_TO_YEAR})",
                reach=40,
            ),
        ),
        # `en Junio 04`: a year of two digits where no day can stand.
        (
            0.7,
            numbered(
                rf"[0-9]{{2}}{AFTER}(?![.,:%/\-]?[0-9])",
                least=2,
                back=rf"(?:(?<![A-Z])(?:en|de|desde|hasta|em|im|seit) |\()"
                rf"(?P<value>{_MONTH_ELSEWHERE} )",
                reach=24,
            ),
        ),
        (
            0.7,
            numbered(
                rf"[0-9]{{2}}{AFTER}",
                least=2,
                back=rf"{_LETTER_BEFORE}(?P<value>{_MONTH_ELSEWHERE}[\-/])",
                reach=12,
            ),
        ),
    ),
    "PHONE": (
        # The second of two: `956 203 145 and 956 203 146`.
        (
            0.5,
            numbered(
                rf"[0-9]{{2,4}}(?:[ .\-][0-9]{{2,4}}){{2,4}}{AFTER}",
                least=9,
                back=r"[0-9]{2} ?(?:and|or|y|o|e|et|und|&|/) ",
                reach=8,
            ),
        ),
        # As Poland, Denmark, France without its zero, Greece and Brazil write them.
        (
            0.4,
            numbered(
                r"(?<![0-9.,] )(?:[4-9][0-9]{2} [0-9]{3} [0-9]{3}|[2-9][0-9](?: [0-9]{2}){3}|"
                r"[6-9][0-9]{2}(?: [0-9]{2}){3}|2[0-9]{3} [0-9]{6}|0[0-9]{2,4}/[0-9]{5,9}|"
                r"[0-9]{2} 9?[0-9]{4}-[0-9]{4}|"
                r"[0-9]{3}-[0-9]{2}-[0-9]{2})(?! ?[%0-9])",
                least=7,
            ),
        ),
    ),
}
