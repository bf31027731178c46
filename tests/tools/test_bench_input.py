"""The benchmark of the feed: every stage has a figure, and one of them is named as the limit."""

import re

import jax
import pytest
from ml_collections import ConfigDict

from tools import bench_input


def test_bench_input_times_every_stage(small_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    monkeypatch.setattr(bench_input, "_SECONDS", 0.01)
    report = bench_input.bench_input(small_config)
    for stage in (
        "read",
        "decode",
        "crop",
        "batch",
        "all four, one thread",
        "the feed, ",
        "transfer",
        "the step, 1 cpu",
    ):
        assert f"\n{stage}" in report
    assert re.search(r"Of the feed's stages \w+ binds\. The step takes [\d,]+ images/s ", report)


@pytest.mark.parametrize(
    ("whole", "verdict"),
    [
        (500.0, "would be input-bound: the feed gives 50 % of that with 2 core(s). Give it 4 cores, or prepare"),
        (3000.0, "would not be input-bound: the feed gives 3.0 times that"),
    ],
)
def test_bench_input_names_what_binds(whole: float, verdict: str) -> None:
    cost = {"read": 50.0, "decode": 1500.0, "crop": 100.0, "batch": 20.0, "transfer": 1.0}
    assert verdict in " ".join(bench_input._verdict(cost, whole, 2, 1000.0))
