r"""The rules inside Presidio's frame: its analyzer, with no model and none of its patterns.

Presidio brings the registry that further recognisers join. Its own patterns are not used: they
stand on `\b`, and one that runs out of time is skipped with a warning, which lets personal data
pass.
"""

from collections.abc import Sequence

from privacy.masking import recognisers
from privacy.masking.absent import absent
from privacy.masking.models import Model

# Of a model that runs on torch, spaCy was loaded before, with torch.
with absent("transformers", unless_loaded=("torch",)):
    from presidio_analyzer import (
        AnalyzerEngine,
        ContextAwareEnhancer,
        EntityRecognizer,
        LocalRecognizer,
        RecognizerRegistry,
        RecognizerResult,
    )
    from presidio_analyzer.nlp_engine import NlpArtifacts, NoOpNlpEngine


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


class _NoEnhancer(ContextAwareEnhancer):
    """Leaves scores as they are: rules look at their context themselves.

    Presidio's own copies every result and, without a model, can change none.
    """

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, 0)

    def enhance_using_context(
        self,
        text: str,
        raw_results: list[RecognizerResult],
        nlp_artifacts: NlpArtifacts,
        recognizers: list[EntityRecognizer],
        context: list[str] | None = None,
    ) -> list[RecognizerResult]:
        """The results as they came."""
        del text, nlp_artifacts, recognizers, context
        return raw_results


class Analyzer:
    """Presidio's analyzer for one list of types.

    To Presidio all of it is the first language: a text is searched by the rules of each.
    """

    def __init__(
        self, entity_types: Sequence[str], languages: Sequence[str], model: Model | None = None
    ) -> None:
        """Build one that finds `entity_types` by the rules of `languages`, or by `model` alone."""
        self._language = languages[0]
        self._entity_types = list(entity_types)
        self._engine = _engine(entity_types, languages, model)
        # Nothing was read from a text, so it is the same for each.
        self._artifacts = self._engine.nlp_engine.process_text("", self._language)

    def analyze(self, text: str) -> list[RecognizerResult]:
        """What is found in `text`; results may overlap."""
        results: list[RecognizerResult] = self._engine.analyze(
            text=text,
            language=self._language,
            entities=self._entity_types,
            nlp_artifacts=self._artifacts,
        )
        return results


def _engine(
    entity_types: Sequence[str], languages: Sequence[str], model: Model | None
) -> AnalyzerEngine:
    language = languages[0]
    nlp_engine = NoOpNlpEngine(models=[{"lang_code": language, "model_name": "none"}])
    nlp_engine.load()
    recognizer: EntityRecognizer = (
        RuleRecogniser(entity_types, languages)
        if model is None
        else ModelRecogniser(model, entity_types, language)
    )
    return AnalyzerEngine(
        registry=RecognizerRegistry(
            recognizers=[recognizer],
            supported_languages=[language],
        ),
        nlp_engine=nlp_engine,
        supported_languages=[language],
        context_aware_enhancer=_NoEnhancer(),
    )
