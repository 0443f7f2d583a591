"""The ledger tells the truth, and each of its rules can fail."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name, folder):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ledger = load("ledger", "docs")
benchmarks = load("benchmarks", "docs")
record = load("record", "tests/evidence")


@pytest.fixture
def rows():
    return {k: dict(v) for k, v in ledger.read(ROOT / "docs" / "systems.toml").items()}


def test_the_ledger_is_sound_and_its_page_is_current(rows):
    assert ledger.problems(rows) == []
    assert (ROOT / "docs" / "systems.md").read_text() == ledger.render(rows)


def test_the_ledger_names_every_system_of_the_list(rows):
    listed = ROOT.parent / "shared" / "systems.tsv"
    if not listed.exists():
        pytest.skip("../shared/systems.tsv is not here")
    lines = [line.split("\t") for line in listed.read_text().splitlines()[1:]]
    assert {(line[0], line[1]) for line in lines} == {(k, r["name"]) for k, r in rows.items()}


GOOD = {
    "status": "works",
    "where": "polydiff.core.sampling.Ancestral",
    "test": "tests/test_ledger.py::test_every_rule_can_fail",
    "figure": "1",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "done"}, "status 'done'"),
        ({**GOOD, "where": "polydiff.core.sampling.Nothing"}, "does not import"),
        ({**GOOD, "where": "polydiff.nowhere.X"}, "does not import"),
        ({**GOOD, "test": "tests/test_ledger.py::test_missing"}, "no test"),
        ({**GOOD, "test": "tests/nowhere.py::test_x"}, "no test"),
        ({**GOOD, "figure": ""}, "needs figure"),
        ({**GOOD, "status": "partial"}, "what falls short"),
        ({"name": ""}, "name is empty"),
        ({"colour": "red"}, "unknown field"),
    ],
)
def test_every_rule_can_fail(rows, change, words):
    rows["S005"] |= change
    assert any(words in p for p in ledger.problems(rows))


def test_rows_cannot_go_missing_or_double(rows):
    rows["S999"] = rows.pop("S005")
    wrong = ledger.problems(rows)
    assert any("S005 is missing" in p for p in wrong)
    assert any("S999 is no id" in p for p in wrong)
    rows["S999"] = dict(rows["S006"])
    assert any("2 times" in p for p in ledger.problems(rows))


def test_a_good_row_is_accepted_and_written_back(rows, tmp_path):
    rows["S005"] |= {**GOOD, "note": 'with "quotes" and \\ in it'}
    assert ledger.problems(rows) == []
    ledger.write(tmp_path / "x.toml", rows)
    assert ledger.read(tmp_path / "x.toml") == rows


def test_evidence_is_complete_and_its_page_is_current():
    found = benchmarks.entries()
    assert found
    assert {e["name"]: record.check(e) for e in found if record.check(e)} == {}
    assert (ROOT / "docs" / "benchmarks.md").read_text() == benchmarks.render(found)


def test_incomplete_evidence_is_noticed(tmp_path):
    import json

    path = record.record("x", "y", "metric", 0.5, interval=(0.4, 0.6), root=tmp_path)
    entry = json.loads(path.read_text())
    assert [p for p in record.check(entry) if "commit" not in p] == []
    assert record.check({**entry, "metric": ""})
    assert record.check({**entry, "interval": [0.6, 0.7]})
    assert record.check({**entry, "value": "good"})
