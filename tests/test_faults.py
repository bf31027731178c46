"""Two faults, or ten; `make faults` injects a hundred."""

import faults
import pytest


@pytest.mark.parametrize(("only", "count"), [("kill", 2), pytest.param("", 10, marks=pytest.mark.slow)])
def test_faults_end_in_a_sentence_and_lose_nothing(only: str, count: int) -> None:
    """In runs of one process and of two."""
    said: list[str] = []
    good = faults.inject(count, seed=0, jobs=2, only=only, say=said.append)
    assert good == count, "\n".join(said)
    assert {layout for layout in ("one", "two") for line in said if f"[{layout}, " in line} == {"one", "two"}
