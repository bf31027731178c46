"""Ten faults; `make faults` injects a hundred, and tests/train/test_loop.py kills a run in the quick tests."""

import faults
import pytest


@pytest.mark.slow
def test_faults_end_in_a_sentence_and_lose_nothing() -> None:
    """In runs of one process and of two."""
    said: list[str] = []
    good = faults.inject(10, seed=0, jobs=2, say=said.append)
    assert good == 10, "\n".join(said)
    assert {layout for layout in ("one", "two") for line in said if f"[{layout}, " in line} == {"one", "two"}
