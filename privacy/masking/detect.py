"""Find personal data in a text. Fails closed: a detector that cannot detect is never built.

What is found is taken out and what is left is searched again, until nothing is found: a number
that a neighbour hid is seen once the neighbour is gone. So masking a masked text changes nothing.
"""

from privacy.errors import MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.mask import Span, mask, merge, unmasked_segments

__all__ = ["Detector", "Span"]

# Published test numbers and reserved names: nobody's data.
_CANARIES = {
    "CREDIT_CARD": "4111 1111 1111 1111",
    "DATE": "14 March 2019",
    "EMAIL": "jane.doe@example.org",
    "IBAN": "GB82 WEST 1234 5698 7654 32",
    "IP_ADDRESS": "192.0.2.44",
    "PHONE": "(202) 555-0143",
    "RECORD_NUMBER": "00482913",
    "SSN": "078-05-1120",
    "URL": "https://www.example.org/a?b=c",
}


class Detector:
    """Finds the entity types of a plan in any text."""

    def __init__(self, config: MaskingConfig) -> None:
        """Build the recognisers and check that each finds a planted canary.

        Raises:
          MaskingError: A recogniser cannot be built or is blind.
        """
        try:
            # Presidio imports spaCy and transformers: only who masks pays for it.
            from privacy.masking.presidio import build_analyzer

            self._analyzer = build_analyzer(config.entity_types, config.languages)
        except (ImportError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise MaskingError(
                f"cannot build the recognisers: {type(error).__name__}",
                hint="reinstall the pinned dependencies; nothing is trained without masking",
            ) from error
        self._language = config.languages[0]
        self._entity_types = list(config.entity_types)
        self._check_canaries()

    def find(self, text: str) -> list[Span]:
        """The personal data in `text`: spans in order, none overlapping another.

        Placeholders such as `[PHONE]` that stand in `text` already are left alone.

        Raises:
          MaskingError: A recogniser failed on this text.
        """
        spans: list[Span] = []
        pending = list(unmasked_segments(text))
        while pending:
            begin, end = pending.pop()
            found = self._analyze(text[begin:end])
            for span in found:
                start = begin + span.start
                spans.append(Span(start, begin + span.end, span.entity_type, span.score))
            if found:
                edges = [0, *(edge for span in found for edge in (span.start, span.end))]
                edges.append(end - begin)
                gaps = zip(edges[::2], edges[1::2], strict=True)
                pending += [(begin + left, begin + right) for left, right in gaps if left < right]
        return sorted(spans, key=lambda span: span.start)

    def _analyze(self, segment: str) -> list[Span]:
        try:
            results = self._analyzer.analyze(
                text=segment, language=self._language, entities=self._entity_types
            )
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            # `from None`: such an exception may quote the text that it failed on.
            raise MaskingError(f"a recogniser failed with {type(error).__name__}") from None
        return merge(
            [Span(found.start, found.end, found.entity_type, found.score) for found in results]
        )

    def _check_canaries(self) -> None:
        for entity_type in self._entity_types:
            text = f"Account no {_CANARIES[entity_type]} on file."
            if f"[{entity_type}]" not in mask(text, self.find(text)):
                raise MaskingError(
                    f"the recogniser of {entity_type} does not find its planted example",
                    hint="reinstall the pinned dependencies; nothing is trained without masking",
                )
