"""What the script of a report page computes, run by node, against Python."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from scipy.stats import binomtest

from rd_hf.pages.report import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def run(expression: str):
    """The value of an expression of `statistics`."""
    script = (
        f"const s = require({json.dumps(str(FOLDER / 'statistics.js'))}); console.log(JSON.stringify({expression}))"
    )
    done = subprocess.run([NODE, "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wilson_intervals_are_those_of_scipy():
    pairs = [(0, 1), (1, 1), (0, 50), (50, 50), (7, 9), (112, 115), (19999, 20000), (1, 3)]
    found = run(f"{json.dumps(pairs)}.map(([k, n]) => s.wilson(k, n))")
    for (k, n), (low, high) in zip(pairs, found, strict=True):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert run("s.wilson(0, 0)") is None


def test_rates_and_predictive_values_at_a_prevalence():
    tp, fp, positives, negatives, prevalence = 45, 30, 50, 150, 0.02
    rates = {rate["name"]: rate for rate in run(f"s.rates({tp}, {fp}, {positives}, {negatives})")}
    assert {name: rate["value"] for name, rate in rates.items()} == pytest.approx(
        {"sensitivity": 0.9, "specificity": 0.8, "PPV": 45 / 75, "NPV": 120 / 125}
    )
    assert (rates["NPV"]["k"], rates["NPV"]["n"]) == (120, 125)
    ppv, npv = run(f"s.atPrevalence(s.rates({tp}, {fp}, {positives}, {negatives}), {prevalence})")
    assert ppv["value"] == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.2 * 0.98))
    assert npv["value"] == pytest.approx(0.8 * 0.98 / (0.8 * 0.98 + 0.1 * 0.02))
    for one in (ppv, npv):
        assert one["interval"][0] < one["value"] < one["interval"][1]
    own = run(f"s.atPrevalence(s.rates({tp}, {fp}, {positives}, {negatives}), {positives / 200})")
    assert own[0]["value"] == pytest.approx(rates["PPV"]["value"])
    assert own[1]["value"] == pytest.approx(rates["NPV"]["value"])


def test_what_is_undefined_is_null():
    rates = run("s.rates(0, 0, 5, 5)")
    assert [rate["value"] for rate in rates] == [0, 1, None, 0.5] and rates[2]["interval"] is None
    assert run("s.atPrevalence(s.rates(0, 0, 0, 5), 0.1)") == [None, None]
    ppv, npv = run("s.atPrevalence(s.rates(0, 0, 5, 5), 0)")
    assert ppv is None and npv["value"] == 1


def test_places_on_a_curve():
    thresholds = [0.9, 0.5, 0.5 - 1e-12, 0.1]
    for value, place in ((0.95, -1), (0.9, 0), (0.5, 1), (0.3, 2), (0.0, 3)):
        assert run(f"s.placeOf({thresholds}, {value})") == place
    generator = np.random.default_rng(0)
    hits, alarms = (np.sort(generator.integers(0, 40, 30)).tolist() for _ in range(2))
    index = np.array(hits) / 40 - np.array(alarms) / 60
    assert run(f"s.youden({hits}, {alarms}, 40, 60)") == int(np.flatnonzero(index >= index.max() - 1e-12)[-1])
