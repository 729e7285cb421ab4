"""The fuzzers themselves, a few hundred inputs of each target, what was found once, and hypothesis on top."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm_perception.cli.main import main
from mm_perception.core.errors import ConfigError, DataError
from mm_perception.fuzz.cost import measured
from mm_perception.fuzz.coverage_guided import entry_point
from mm_perception.fuzz.coverage_guided import main as coverage_guided
from mm_perception.fuzz.harness import check_input, fuzz, save_findings, shares
from mm_perception.fuzz.targets import Target, all_targets, find_targets, input_of, runs_clean

CORPUS = Path(__file__).with_name("corpus")
TARGETS = all_targets()
DEAR = ("mcap", "db3", "metadata")


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.bin")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_was_found_once_stays_mended(path):
    target = TARGETS[path.parent.name]
    runs_clean(target, b"")  # what is imported once is no cost of an input
    finding = check_input(target, path.read_bytes())
    assert finding is None, finding


@pytest.mark.parametrize("name", TARGETS)
def test_some_inputs_of_every_target_find_nothing(name):
    reports = fuzz([TARGETS[name]], 20 if name in DEAR else 150, seed=11)
    assert not reports[0].findings
    assert reports[0].inputs == (20 if name in DEAR else 150)


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_depends_on_its_number_alone(name):
    target = TARGETS[name]
    made = [input_of(target, 3, index) for index in range(30)]
    assert [input_of(target, 3, index) for index in reversed(range(30))] == made[::-1]
    assert len(set(made)) > 15 and made != [input_of(target, 4, index) for index in range(30)]


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in DEAR])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.binary(max_size=400) | st.integers(0, 2**40))
def test_hypothesis_finds_nothing(name, data):
    target = TARGETS[name]
    runs_clean(target, data if isinstance(data, bytes) else target.make(Random(data)))


KEYS = st.sampled_from(["name", "reference", "sensors", "kind", "topic", "max_pixels", "weights", "classes", "<<", "x"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates(), st.just("random:3")
)
YAML = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))


@pytest.mark.parametrize("name", ["rig", "settings", "card"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.dictionaries(KEYS, YAML, max_size=8))
def test_any_yaml_is_read_or_refused(name, content):
    import yaml

    runs_clean(TARGETS[name], yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


def broken(kind: str) -> Target:
    """A target that breaks a promise with the fourth input, and is fine with all others."""

    wanted: list[bytes] = []

    def run(data: bytes) -> None:
        if data != wanted[0]:
            raise DataError("not this one")
        if kind == "foreign":
            raise KeyError("here")
        if kind == "slow":
            end = time.process_time() + 2.2
            while time.process_time() < end:
                pass
        if kind == "large":
            np.ones(10_000_000)
        if kind == "crash":
            os._exit(3)

    target = Target(kind, lambda rng: rng.randbytes(8), run, 1)
    wanted.append(input_of(target, 0, 3))
    return target


@pytest.mark.parametrize("kind", ["foreign", "slow", "large", "crash"])
def test_each_kind_of_break_is_found_and_the_rest_still_run(kind, monkeypatch):
    monkeypatch.setattr("mm_perception.fuzz.harness.MOST_BYTES", 50_000_000)
    (report,) = fuzz([broken(kind)], 10, seed=0)
    assert [(one.kind, one.index) for one in report.findings] == [(kind, 3)]
    assert report.inputs == 10


def test_findings_are_saved_and_can_be_run_again(tmp_path, monkeypatch, capsys):
    def run(data: bytes) -> None:
        if data[0] % 2:
            raise ValueError("odd")

    target = Target("odd", lambda rng: bytes([rng.randrange(256)]), run, 1)
    monkeypatch.setattr("mm_perception.fuzz.targets.all_targets", lambda: {"odd": target})
    options = ["fuzz", "--inputs", "20", "--findings", str(tmp_path / "found"), "--json", str(tmp_path / "out.json")]
    assert main(options) == 1
    facts = json.loads((tmp_path / "out.json").read_text())["targets"][0]
    assert facts["inputs"] == 20 and 0 < len(facts["findings"]) < 20
    assert len(list((tmp_path / "found").glob("odd-0-*-foreign.bin"))) == len(facts["findings"])
    first = facts["findings"][0]["index"]
    assert main(["fuzz", "--target", "odd", "--at", str(first)]) == 1
    assert "foreign ValueError: odd" in capsys.readouterr().out
    file = next((tmp_path / "found").glob("*.bin"))
    assert main(["fuzz", "--target", "odd", "--file", str(file)]) == 1
    assert save_findings([], [target], tmp_path) == []


def test_inputs_are_shared_by_cost():
    counts = shares(list(TARGETS.values()), 100_000)
    assert sum(counts.values()) == 100_000 and counts["image"] > counts["mcap"] > 500


def test_unknown_targets_are_refused(capsys):
    with pytest.raises(ConfigError, match="expected one of image"):
        find_targets(["nonesuch"])
    assert main(["fuzz", "--target", "nonesuch"]) == 2
    assert main(["fuzz", "--at", "3"]) == 2
    assert main(["fuzz", "--list"]) == 0
    assert "safetensors" in capsys.readouterr().out


def test_other_fuzzers_can_feed_the_targets():
    entry_point("cloud")(b"\x00" * 50)
    with pytest.raises(ConfigError, match="name of a fuzz target"):
        coverage_guided(["program"])
    with pytest.raises(ConfigError, match="expected one of"):
        coverage_guided(["program", "nonesuch"])


def test_costs_are_of_the_call_alone():
    big = np.ones(8_000_000)
    assert measured(lambda: big.sum()).bytes < 20_000_000
    assert measured(lambda: np.ones(8_000_000)).bytes > 50_000_000
