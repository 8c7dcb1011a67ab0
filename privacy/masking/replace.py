"""What stands in a span's place, in the three modes of a plan.

`placeholder` (the default) writes the type, `redact` nothing but `[...]`, `surrogate` a made-up
value of the type (`privacy.masking.surrogates`). Nothing outside the spans changes in any mode.
Masking twice is masking once with placeholders and redaction.
"""

import hashlib
from collections.abc import Sequence

from privacy.errors import MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.mask import REDACTED, Span, mask, substitute
from privacy.masking.surrogates import SurrogateKey, Surrogates


class Replacer:
    """Replaces spans as a plan says."""

    def __init__(self, config: MaskingConfig, key: SurrogateKey | None = None) -> None:
        """Take the plan's mode, and the site's key where the mode needs one.

        Raises:
          MaskingError: Surrogates are asked for and there is no key: nothing else takes their
            place.
        """
        if config.mode == "surrogate" and key is None:
            raise MaskingError(
                "expected a key for mode surrogate, got none",
                hint="cloister-site mask --new-key makes one in the site's folder",
            )
        self._mode = config.mode
        self._surrogates = Surrogates(key) if config.mode == "surrogate" and key else None

    def replace(self, text: str, spans: Sequence[Span], *, subject: str | None = None) -> str:
        """`text` with each span replaced; `spans` as `Detector.find` returns them.

        Args:
          text: Any text.
          spans: In order, none overlapping another.
          subject: Whose record it is; dates of one subject move together. None: this text is a
            subject of its own.

        Raises:
          ValueError: Spans overlap, are empty, lie outside the text or are not in order.
        """
        if self._mode == "placeholder":
            return mask(text, spans)
        if self._surrogates is None:
            return substitute(text, spans, lambda span: REDACTED)
        surrogates = self._surrogates
        whose = subject
        if whose is None:
            whose = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return substitute(
            text,
            spans,
            lambda span: surrogates.of(
                span.entity_type, text[span.start : span.end], subject=whose
            ),
        )
