r"""The rules inside Presidio's frame: its analyzer, with no model and none of its patterns.

Presidio brings the registry that further recognisers join. Its own patterns are not used: they
stand on `\b`, and one that runs out of time is skipped with a warning, which lets personal data
pass.
"""

from collections.abc import Sequence

from presidio_analyzer import (
    AnalyzerEngine,
    ContextAwareEnhancer,
    EntityRecognizer,
    LocalRecognizer,
    RecognizerRegistry,
    RecognizerResult,
)
from presidio_analyzer.nlp_engine import NlpArtifacts, NoOpNlpEngine

from privacy.masking import recognisers
from privacy.masking.models import Model


class _NoContext(ContextAwareEnhancer):
    """Leaves scores as they are: our rules look at neighbours themselves.

    Presidio's own copies every finding, which takes a fifth of the time on short texts.
    """

    def __init__(self) -> None:
        super().__init__(
            context_similarity_factor=0,
            min_score_with_context_similarity=0,
            context_prefix_count=0,
            context_suffix_count=0,
        )

    def enhance_using_context(
        self,
        text: str,
        raw_results: list[RecognizerResult],
        nlp_artifacts: NlpArtifacts,
        recognizers: list[EntityRecognizer],
        context: list[str] | None = None,
    ) -> list[RecognizerResult]:
        """The same results."""
        del text, nlp_artifacts, recognizers, context
        return raw_results


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


class ModelRecogniser(LocalRecognizer):
    """A site's own model as one more recogniser."""

    def __init__(self, model: Model, entity_types: Sequence[str], language: str) -> None:
        super().__init__(
            supported_entities=list(entity_types), supported_language=language, name="model"
        )
        self._model = model

    def load(self) -> None:
        """Loaded already: what cannot be loaded is not built."""

    def analyze(
        self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts
    ) -> list[RecognizerResult]:
        """What the model finds of `entities`."""
        del nlp_artifacts
        return [
            RecognizerResult(span.entity_type, span.start, span.end, span.score)
            for span in self._model(text)
            if span.entity_type in entities
        ]


def build_analyzer(
    entity_types: Sequence[str], languages: Sequence[str], model: Model | None = None
) -> AnalyzerEngine:
    """An analyzer that finds `entity_types` by the rules of `languages`, and by `model`.

    To Presidio all of it is the first language: a text is searched by the rules of each.
    """
    language = languages[0]
    nlp_engine = NoOpNlpEngine(models=[{"lang_code": language, "model_name": "none"}])
    nlp_engine.load()
    recognizers: list[EntityRecognizer] = [RuleRecogniser(entity_types, languages)]
    if model is not None:
        recognizers.append(ModelRecogniser(model, entity_types, language))
    return AnalyzerEngine(
        registry=RecognizerRegistry(
            recognizers=recognizers,
            supported_languages=[language],
        ),
        nlp_engine=nlp_engine,
        context_aware_enhancer=_NoContext(),
        supported_languages=[language],
    )
