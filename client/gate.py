"""The gate before a record is read: planted sentences are masked, and the figures must be enough.

It stands apart from `client.dataset`, so that who approves a plan passes it too and loads no
tokenizer for it.
"""

from client.config import SiteConfig
from privacy.errors import OverMaskingError, OwnNotesError, RecallError
from privacy.masking.canaries import (
    Measured,
    check_over_masking,
    check_recall,
    measure,
    notes_of,
    read_notes,
)
from privacy.masking.figures import OWN
from privacy.masking.masker import Masker
from privacy.plan import RunPlan


def pass_canaries(masker: Masker, config: SiteConfig, plan: RunPlan) -> Measured:
    """What `masker` makes of the plan's planted sentences and of the site's own notes.

    Raises:
      ConfigError: The site's own notes cannot be read.
      OwnNotesError: Too little is masked in the site's own notes, or too much; no record was read.
      RecallError: A planted type is found less often than the plan or this site demands; no
        record was read.
      OverMaskingError: Something is masked in more clean sentences than the plan or this site
        allows; no record was read.
    """
    notes = notes_of(plan.masking.languages)
    if config.masking.labelled_notes is not None:
        notes += read_notes(config.masking.labelled_notes)
    measured = measure(masker.mask, notes, plan.masking.entity_types)
    masking, policy = plan.masking, config.policy
    floor = max(masking.recall_floor, policy.recall_floor)
    ceiling = min(masking.max_over_masking, policy.max_over_masking)
    check_recall([r for r in measured.recalls if r.source != OWN], floor)
    check_over_masking([f for f in measured.over_masking if f.source != OWN], ceiling)
    # By another error: a refusal in the log that own notes decide would be a bit about records.
    try:
        check_recall(measured.recalls, floor)
        check_over_masking(measured.over_masking, ceiling)
    except (RecallError, OverMaskingError) as error:
        raise OwnNotesError(
            str(error),
            hint="these are your own labelled notes: nothing was decided, and no log says so;"
            " mend the notes or the recognisers, or set the limits of [policy] and plan anew",
        ) from None
    return measured
