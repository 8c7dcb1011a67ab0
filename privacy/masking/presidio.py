r"""The rules inside Presidio's frame: its analyzer, with no model and none of its patterns.

Presidio brings the registry that further recognisers join. Its own patterns are not used: they
stand on `\b`, and one that runs out of time is skipped with a warning, which lets personal data
pass.
"""

from collections.abc import Sequence

from presidio_analyzer import AnalyzerEngine, LocalRecognizer, RecognizerRegistry, RecognizerResult
from presidio_analyzer.nlp_engine import NlpArtifacts, NoOpNlpEngine

from privacy.masking import recognisers


class RuleRecogniser(LocalRecognizer):
    """The rules of all languages as one recogniser: one call a text."""

    def __init__(self, entity_types: Sequence[str], languages: Sequence[str]) -> None:
        super().__init__(
            supported_entities=list(entity_types), supported_language=languages[0], name="rules"
        )
        self._languages = tuple(languages)

    def load(self) -> None:
        """Nothing to load: rules are code."""

    def analyze(
        self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts
    ) -> list[RecognizerResult]:
        """Every place that looks like one of `entities`."""
        del nlp_artifacts
        return [
            RecognizerResult(span.entity_type, span.start, span.end, span.score)
            for span in recognisers.find(text, entities, self._languages)
        ]


def build_analyzer(
    entity_types: Sequence[str],
    languages: Sequence[str],
    models: Sequence[LocalRecognizer] = (),
) -> AnalyzerEngine:
    """An analyzer that finds `entity_types` by the rules of `languages`, and by `models`.

    To Presidio all of it is the first language: a text is searched by the rules of each.
    """
    language = languages[0]
    nlp_engine = NoOpNlpEngine(models=[{"lang_code": language, "model_name": "none"}])
    nlp_engine.load()
    return AnalyzerEngine(
        registry=RecognizerRegistry(
            recognizers=[RuleRecogniser(entity_types, languages), *models],
            supported_languages=[language],
        ),
        nlp_engine=nlp_engine,
        supported_languages=[language],
    )
