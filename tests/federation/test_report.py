"""The report of a real run over real TLS, with real signatures and the real accountant."""

from datetime import UTC, datetime

import pytest

from privacy.audit.verify import verify_log
from privacy.compliance.controls import Status, assess
from privacy.compliance.documents.bundle import documents
from privacy.compliance.evidence import gather
from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import REGIMES, load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.words import Words
from tests.federation.world import Federation, make_plan


@pytest.mark.slow
def test_a_real_run_makes_a_report_in_both_languages_with_its_documents(
    federation: Federation,
) -> None:
    sites = [federation.enrol("hospital_a", 1.0), federation.enrol("bank_a", 3.0)]
    plan = make_plan([site.name for site in sites])
    federation.offer(plan)
    for site in sites:
        site.start()
        site.decide(plan)
    assert federation.wait(plan) == "finished"
    folder = federation.config.log_folder
    unsure = verify_log(folder)
    log = verify_log(folder, unsure.keys)
    evidence, regimes = gather(log), load_regimes(REGIMES, QUERIES)
    at = datetime.now(UTC)
    assert "ml-bom.cdx.json" in documents(evidence, regimes, {}, at=at)
    for language in ("en", "zh"):
        assessed = assess(evidence, regimes, {}, Words(language))
        rows = {row.control.id: row for regime in assessed for row in regime.controls}
        assert rows["mlps-8.1.4.3-b"].status is Status.EVIDENCED
        assert rows["iso-A.8.11"].status is Status.PARTLY
        page = render_report(log, Extras(regimes=assessed, language=language), at=at)
        assert len(page.encode()) < 2_000_000
        assert "compliant" not in page.lower()
        # What stands in no file of the log is said to be missing, not left out.
        assert rows["gdpr-35"].status is Status.NO_EVIDENCE
