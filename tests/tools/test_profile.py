"""tools.profile_step: how the time of a trace is counted, what its operations are called, and one whole run."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tools import profile_step as profile

PROGRAM = """
HloModule jit_step

%inner (p: f32[2]) -> f32[2] {
  %a.1 = f32[2] add(%p, %p), metadata={op_name="jit(step)/jvp(vmap(AlexNet))/norm1/add"}
  %b.1 = f32[2] multiply(%a.1, %p), metadata={op_name="jit(step)/jvp(vmap(AlexNet))/norm1/mul"}
  ROOT %c.1 = f32[2] multiply(%b.1, %p), metadata={op_name="jit(step)/jvp(vmap(AlexNet))/norm1/mul"}
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %dot.1 = f32[2] dot(%p, %p), metadata={op_name="jit(step)/transpose(jvp(vmap(AlexNet)))/_weighted/conv2/dot_general"}
  %fusion.1 = f32[2] fusion(%dot.1), kind=kLoop, calls=%inner
  ROOT %copy.1 = f32[2] copy(%fusion.1), metadata={op_name="jit(step)/mul"}
}
"""


def test_busy_time_counts_parallel_threads_once() -> None:
    events = [("dot", 0.0, 10.0), ("dot", 4.0, 12.0), ("dot", 5.0, 6.0), ("dot", 20.0, 21.0), ("copy", 3.0, 4.0)]
    assert profile.busy(events) == {"dot": 13.0, "copy": 1.0}


def test_operations_have_the_names_of_the_source() -> None:
    assert profile.names_of(PROGRAM, {"conv2", "norm1"}.__contains__) == {
        "a.1": "norm1 forward: add",
        "b.1": "norm1 forward: mul",
        "c.1": "norm1 forward: mul",
        "dot.1": "conv2 backward: dot_general",
        "fusion.1": "norm1 forward: mul",  # as most of what it calls
        "copy.1": "the rest: mul",
    }


# As an error, this warning of the reader's own types in jax 0.12 would end the process.
@pytest.mark.filterwarnings("ignore:builtin type event:DeprecationWarning")
def test_profile_names_the_layers_and_leaves_a_trace(small_config: ConfigDict, tmp_path: Path) -> None:
    report = profile.profile(small_config, tmp_path)
    _, operations, layers, trace = report.split("\n\n")
    assert len(operations.splitlines()) == len(layers.splitlines()) == 12
    assert "conv2 backward" in layers or "conv2 forward" in layers or "conv1 backward" in layers
    path = Path(trace.split()[1])
    assert path.is_relative_to(tmp_path / "profile")
    assert path.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]
