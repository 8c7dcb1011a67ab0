"""Figures by round as sites hand them over: drawn, listed, and refused where they are none."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.entry import Event
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.chart import curve_chart
from privacy.compliance.evidence import gather
from privacy.compliance.paper import render_pdf
from privacy.compliance.report import Extras, render_report
from privacy.compliance.results import Point, Quality, Results, read_results
from privacy.compliance.words import Words
from privacy.errors import ConfigError
from tests.privacy.evidence import (
    COORDINATOR,
    Federation,
    digest,
    make_plan,
    quick_accountant,
)

AT = datetime(2026, 11, 21, tzinfo=UTC)
NUM_ROUNDS = 6
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    """A run of six rounds, of which the third failed."""
    folder = tmp_path_factory.mktemp("curves") / "log"
    federation = Federation(folder, plan=make_plan(num_rounds=NUM_ROUNDS, noise_multiplier=2.0))
    federation.begin()
    for number in range(1, NUM_ROUNDS + 1):
        if number == 3:
            federation.train("bank_a", number)
            failed: dict[str, Any] = {"server_round": number, "num_updates": 1}
            federation.say(COORDINATOR, Event.ROUND_FAILED, run_id=federation.run_id, **failed)
        else:
            federation.round(number)
    federation.finish(NUM_ROUNDS - 1)
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def after(number: int) -> str:
    """The adapter after a round; the third failed."""
    return digest(f"adapter {2 if number == 3 else number}")


def handed(log: VerifiedLog, site: str, rounds: list[int], every: int = 1) -> Results:
    (run,) = gather(log).runs.values()
    return Results(
        site=site,
        quality={"federated": Quality(loss=1.0, accuracy=0.5)},
        plan=run.digest,
        adapter=after(NUM_ROUNDS),
        every=every,
        points=tuple(
            Point(
                server_round=number,
                adapter=after(number),
                quality=Quality(loss=7.125 - number, accuracy=number / 8),
                num_examples=50,
            )
            for number in rounds
        ),
    )


def page(log: VerifiedLog, *results: Results, language: str = "en") -> str:
    return render_report(log, Extras(results=results, language=language), at=AT)


def figures(made: str) -> list[str]:
    """The drawings by round."""
    part = made.partition("By round, run triage")[2] or made.partition("逐轮，运行 triage")[2]
    return re.findall(r"<figure>.*?</figure>", part.partition("<h2>")[0])


def test_each_site_has_a_curve_of_loss_and_of_accuracy_and_all_figures_stand_in_a_table(
    log: VerifiedLog,
) -> None:
    every = list(range(NUM_ROUNDS + 1))
    made = page(log, handed(log, "bank_a", every), handed(log, "hospital_a", every))
    drawn = figures(made)
    assert len(drawn) == 2
    for site, figure in zip(("bank_a", "hospital_a"), drawn, strict=True):
        assert figure.count("<svg") == 2
        assert figure.count("<polyline") == 2
        assert f"<title>{site}: loss from 7.12 (round 0) to 1.12 (round 6)</title>" in figure
        assert f"<title>{site}: accuracy, % from 0.0 % (round 0) to 75.0 % (round 6)" in figure
        assert "50 records" in figure
    rows = re.findall(r"<tr>.*?</tr>", made.partition(">hospital_a: loss</th>")[2])
    for number in every:
        row = next(row for row in rows if row.startswith(f'<tr><th scope="row">{number}</th>'))
        assert row.count(f"{7.125 - number:.3f}") == 2
        assert ('href="#entry-' in row) == (number not in (0, 3))
    assert "not part of the log and no evidence" in made


def test_a_round_that_was_not_measured_is_a_gap_and_said_to_be(log: VerifiedLog) -> None:
    made = page(log, handed(log, "bank_a", [0, 1, 4, 6]))
    (figure,) = figures(made)
    # 0 and 1, then 4, then 6: no line goes over a gap, and single values are dots.
    assert figure.count("<polyline") == 6
    assert figure.count("<circle") == 8
    assert "; 3 rounds were not measured</title>" in figure
    assert made.count("not measured</td>") == 3 + 2  # and base and alone, which nobody gave
    # What was not due is no gap.
    (figure,) = figures(page(log, handed(log, "bank_a", [0, 2, 4, 6], every=2)))
    assert figure.count("<polyline") == 2
    assert "were not measured" not in figure


def test_without_rounds_there_are_no_curves_and_without_files_nothing_at_all(
    log: VerifiedLog,
) -> None:
    assert figures(page(log, handed(log, "bank_a", [], every=0))) == []
    assert "What the model learnt" not in page(log)


def test_the_curves_are_said_in_chinese_and_stand_on_paper(log: VerifiedLog) -> None:
    pytest.importorskip("typst")
    result = handed(log, "bank_a", [0, 2, 6])
    (figure,) = figures(page(log, result, language="zh"))
    assert "<title>bank_a：损失从 7.12 (第 0 轮) 到 1.12 (第 6 轮)；4 轮未测量</title>" in figure
    assert "50 条记录" in figure
    pdf = render_pdf(page(log, result), "report.html", Words("en"), at=AT)
    assert pdf.startswith(b"%PDF")


def test_figures_of_a_round_beyond_the_plan_or_of_another_adapter_are_refused(
    log: VerifiedLog,
) -> None:
    good = handed(log, "bank_a", [0, 1, 2, 3])
    page(log, good)
    beyond = replace(good.points[1], server_round=NUM_ROUNDS + 1)
    with pytest.raises(ConfigError, match=r"expected rounds 0 to 6 of run triage .* got 7"):
        page(log, replace(good, points=(*good.points, beyond)))
    # Round 3 failed: whoever measured it measured the adapter of round 2, and no other.
    for number, wrong in ((3, digest("adapter 3")), (2, after(1)), (0, after(1))):
        other = replace(good.points[number], adapter=wrong)
        with pytest.raises(ConfigError, match=f"the adapter after round {number}, got figures of"):
            page(log, replace(good, points=(other,)))


LONG = 1500


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    """A run of 1,500 rounds, of which none is over: every round is measured of one adapter."""
    federation = Federation(
        tmp_path_factory.mktemp("long") / "log",
        plan=make_plan(num_rounds=LONG, noise_multiplier=900.0),
        accountant=lambda *_: 0.5,
    )
    federation.begin()
    return verify_log(federation.folder, federation.ring, accountant=lambda *_: 0.5)


def handed_of_many(log: VerifiedLog, site: str, rounds: list[int]) -> Results:
    (first,) = handed(log, site, [0]).points
    initial = digest("adapter 0")
    points = tuple(replace(first, server_round=n, adapter=initial) for n in rounds)
    return replace(handed(log, site, []), adapter=initial, every=1, points=points)


def test_a_thousand_rounds_make_a_page_of_less_than_two_megabytes(long_log: VerifiedLog) -> None:
    most = [number for number in range(LONG + 1) if number % 97]
    sites = ("bank_a", "hospital_a", "hospital_b")
    made = page(long_log, *(handed_of_many(long_log, site, most) for site in sites))
    assert len(made.encode()) < 500_000
    assert "60 of 1501 rounds are listed." in made


def test_a_gap_at_every_other_of_a_thousand_rounds_makes_no_larger_page(
    long_log: VerifiedLog,
) -> None:
    made = page(long_log, handed_of_many(long_log, "bank_a", list(range(0, LONG + 1, 2))))
    assert len(made.encode()) < 500_000
    (figure,) = figures(made)
    assert figure.count("<circle") == 2 * 300
    assert "; 750 rounds were not measured</title>" in figure


@pytest.mark.parametrize("measured", [[7, 8], [7], [0], [LONG], [1, 2, 3, 700, 1499]])
def test_of_a_thousand_rounds_the_few_that_were_measured_are_drawn_and_listed(
    long_log: VerifiedLog, measured: list[int]
) -> None:
    made = page(long_log, handed_of_many(long_log, "bank_a", measured))
    (figure,) = figures(made)
    assert figure.count("<circle") == 2 * len(measured)
    assert f"; {LONG + 1 - len(measured)} rounds were not measured</title>" in figure
    assert f"from 7.12 (round {measured[0]}) to 7.12 (round {measured[-1]})" in figure
    table = made.partition(">bank_a: loss</th>")[2].partition("</table>")[0]
    for number in measured:
        assert f'<tr><th scope="row">{number}</th>' in table
    assert table.count("7.125") == len(measured)


@given(st.dictionaries(st.integers(0, 400), st.floats(0, 1e6) | st.none(), min_size=1))
def test_a_line_never_leaves_the_drawing_and_never_goes_over_a_gap(
    values: dict[int, float | None],
) -> None:
    known = [value for value in values.values() if value is not None]
    if not known:
        return
    made = curve_chart("bank_a", "loss", values, 1.12 * max(known) or 1.0)
    drawn = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'points="([^"]*)"', made)
    ]
    assert sum(map(len, drawn)) == len(known)
    for line in drawn:
        assert all(0 <= x <= 300 and 0 <= y <= 150 for x, y in line)
        assert all(a[0] <= b[0] for a, b in pairwise(line))


def test_a_name_cannot_break_the_drawing() -> None:
    made = curve_chart(HOSTILE, "loss", {0: 1.0, 1: None, 2: 3.0}, 4.0)
    assert "<script" not in made
    assert "&lt;script&gt;" in made


# -- the file ------------------------------------------------------------------------------------


def content(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON
    point = {"server_round": 1, "adapter": after(1), "loss": 2.0, "accuracy": 0.5}
    return {
        "site": "bank_a",
        "plan": digest("plan"),
        "adapter": after(2),
        "federated": {"loss": 1.5, "accuracy": 0.6, "num_examples": 9},
        "every": 1,
        "rounds": [{**point, "num_examples": 9}],
    } | changes


def written(tmp_path: Path, said: dict[str, Any]) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(said))
    return path


def test_a_file_with_rounds_is_read_and_one_from_before_there_were_any(tmp_path: Path) -> None:
    read = read_results(written(tmp_path, content()))
    assert read.every == 1
    assert [(p.server_round, p.quality.loss, p.num_examples) for p in read.points] == [(1, 2.0, 9)]
    old = content()
    del old["every"], old["rounds"]
    read = read_results(written(tmp_path, old))
    assert (read.every, read.points) == (0, ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"server_round": -1}, r"rounds\[1\]\.server_round: expected a number from 0, got -1"),
        ({"server_round": 1.5}, r"rounds\[1\]\.server_round: expected a number from 0, got 1\.5"),
        ({"server_round": 10**400}, r"server_round: expected a number from 0, got int"),
        ({"server_round": True}, r"server_round: expected a number from 0, got bool"),
        ({"server_round": 1}, r"rounds\[1\]: expected each round once, got round 1 twice"),
        ({"adapter": "sha256:12"}, r"adapter: expected a digest"),
        ({"adapter": ""}, r"adapter: expected a digest"),
        ({"loss": float("nan")}, r"loss: expected a finite number from 0"),
        ({"loss": float("inf")}, r"loss: expected a finite number from 0"),
        ({"loss": -0.5}, r"loss: expected a finite number from 0, got -0\.5"),
        ({"loss": "2"}, r"loss: expected a finite number from 0, got str"),
        ({"loss": 10**400}, r"loss: expected a finite number from 0"),
        ({"accuracy": 60}, r"accuracy: expected a number from 0 to 1, got 60"),
        ({"num_examples": 0}, r"num_examples: expected a number from 1, got 0"),
        ({"text": "of a record"}, r"rounds\[1\]: expected an object with server_round, adapter"),
    ],
)
def test_a_measurement_that_is_none_is_one_error_that_names_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    first = content()["rounds"][0]
    path = written(tmp_path, content(rounds=[first, {**first, "server_round": 2, **changes}]))
    with pytest.raises(ConfigError, match=said) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "of a record" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": {}},
        {"rounds": 3},
        {"rounds": [3]},
        {"every": -1},
        {"every": "1"},
        {"every": 1.0},
        {"plan": "", "adapter": ""},
    ],
)
def test_rounds_that_are_none_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"results\.json"):
        read_results(written(tmp_path, content(**changes)))
