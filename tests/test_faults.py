"""Ten faults, two of them in runs of two processes; `make faults` injects a hundred."""

import faults
import pytest


@pytest.mark.parametrize(("only", "count"), [("", 10)])
def test_ten_faults_end_in_a_sentence_and_lose_nothing(only: str, count: int) -> None:
    said: list[str] = []
    good = faults.inject(count, seed=1, jobs=2, only=only, say=said.append)
    assert good == count, "\n".join(said)
    assert sum("[two, " in line for line in said) >= 2
