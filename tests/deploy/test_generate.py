"""The demo's data: reproducible, learnable, and nothing that was planted survives masking."""

import gzip
import json
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from deploy.demo.generate import SITES, DemoSite, Row, generate, main, make_rows
from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find

PLANTED = {
    "CREDIT_CARD",
    "DATE",
    "EMAIL",
    "IBAN",
    "IP_ADDRESS",
    "PHONE",
    "RECORD_NUMBER",
    "SSN",
    "URL",
}
BY_NAME = pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)


@cache
def rows_of(site: DemoSite) -> list[Row]:
    return make_rows(site, num_rows=400, seed=0)


@BY_NAME
def test_every_planted_identifier_is_masked(site: DemoSite) -> None:
    types = MaskingConfig().entity_types
    planted = 0
    for row in rows_of(site):
        text = row.record["prompt"]
        masked = mask(text, merge(find(text, types)))
        planted += len(row.planted)
        assert row.planted
        assert not [value for value in row.planted if value in masked]
    assert planted > 400


def test_each_kind_of_personal_data_is_planted() -> None:
    kinds = {
        span.entity_type
        for site in SITES
        for row in rows_of(site)
        for span in merge(find(row.record["prompt"], ENTITY_TYPES))
    }
    assert kinds >= PLANTED


@BY_NAME
def test_rows_have_the_fields_of_the_format_and_ids_of_their_own(site: DemoSite) -> None:
    records = [row.record for row in rows_of(site)]
    assert all(
        set(record) == {"id", "source", "prompt", "completion", "label", "unit_id"}
        and all(record.values())
        for record in records
    )
    assert len({record["id"] for record in records}) == len(records)
    sizes = Counter(record["unit_id"] for record in records)
    assert 300 < len(sizes) < 400
    assert max(sizes.values()) > 1


@BY_NAME
def test_the_label_can_be_learnt_from_the_words(site: DemoSite) -> None:
    rows = [row.record for row in rows_of(site)]
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for record in rows[:300]:
        words[record["label"]].update(set(record["prompt"].lower().split()))
    totals = sum(words.values(), Counter[str]())

    def guess(prompt: str) -> str:
        seen = set(prompt.lower().split())
        return max(
            words,
            key=lambda label: sum(words[label][w] / totals[w] for w in seen if totals[w] > 2),
        )

    right = sum(guess(record["prompt"]) == record["label"] for record in rows[300:])
    assert right > 80
    assert len(words) == 6


def test_sites_differ_in_what_they_see_and_share_labels() -> None:
    by_site = [Counter(row.record["label"] for row in rows_of(site)) for site in SITES]
    assert set(by_site[0]) == set(by_site[1])
    assert set(by_site[2]) == set(by_site[3])
    assert by_site[0].most_common(1)[0][0] != by_site[1].most_common(1)[0][0]


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", num_rows=20, seed=3)
    second = generate(tmp_path / "b", num_rows=20, seed=3)
    other = generate(tmp_path / "c", num_rows=20, seed=4)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() != other[0].read_bytes()
    assert [path.name for path in first] == [f"{site.name}.jsonl.gz" for site in SITES]


def test_the_command_writes_files_and_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--out", str(tmp_path), "--rows", "5"])
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(paths) == 4
    with gzip.open(paths[0], "rt") as lines:
        assert len([json.loads(line) for line in lines]) == 5
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path), "--rows", "0"])
    assert caught.value.code == 2
