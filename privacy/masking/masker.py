"""The one way of a text: found, then replaced. Records and planted examples take the same."""

from privacy.masking.config import MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import Masked
from privacy.masking.replace import Replacer
from privacy.masking.surrogates import SurrogateKey


class Masker:
    """Masks any text as a plan says."""

    def __init__(
        self, config: MaskingConfig, key: SurrogateKey | None = None, *, ner: str = "none"
    ) -> None:
        """Build recognisers and replacer.

        Raises:
          MaskingError: A recogniser cannot be built or is blind, or surrogates have no key.
        """
        self._replacer = Replacer(config, key)
        self._detector = Detector(config, ner=ner)

    def mask(self, text: str, *, subject: str | None = None) -> Masked:
        """`text` with its personal data replaced; dates of one `subject` move together.

        Raises:
          MaskingError: A recogniser failed on this text.
        """
        spans = tuple(self._detector.find(text))
        return Masked(self._replacer.replace(text, spans, subject=subject), spans)
