"""python -m tools.profile_step: where the time of a training step goes, as a table and as a trace for XProf."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from alexnet_jax import builder, files
from alexnet_jax.cli import app, devices
from alexnet_jax.cli.flags import HELP, take_recipe
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement, towers
from alexnet_jax.train import memory, speed

_WARM, _STEPS, _ROWS = 2, 3, 10
# Backward passes come first: their names have a forward pass's inside.
_DIRECTIONS = (("transpose(", "backward"), ("jvp(", "forward"))


def profile(config: ConfigDict, workdir: Path) -> str:
    """Traces a few training steps of new weights into WORKDIR/profile; the costliest operations as text.

    A run that lives in `workdir` is not touched. Raises AlexNetError.
    """
    setup = builder.train_setup(config, workdir)
    folder = workdir / "profile"
    files.make_folder(folder)
    batch = towers.to_devices(next(setup.batches(0)), setup.mesh)
    print("compiling the step ...", flush=True)
    shardings = placement.shardings(setup.model, setup.shapes(), setup.mesh)
    since = time.perf_counter()
    with memory.shortage_named("compiling the step"):
        state = jax.jit(setup.new_state, out_shardings=shardings)()
        compiled = setup.train_step().lower(state, batch).compile()
    took = memory.check_step(
        compiled, batch_size=setup.plan.batch_size, multiple=setup.mesh.shape[towers.DATA] * config.train.accumulate
    )
    print(f"compiled in {time.perf_counter() - since:.1f} s; memory: {took}; tracing {_STEPS} steps ...", flush=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the steps are one call each
    with memory.shortage_named("a step"), files.named(folder, "written"):
        for number in range(_WARM + _STEPS):
            if number == _WARM:
                jax.profiler.start_trace(folder, profiler_options=options)
                since = time.perf_counter()
            state, metrics = compiled(state, batch)
            jax.block_until_ready((state, metrics))
        seconds = (time.perf_counter() - since) / _STEPS
        jax.profiler.stop_trace()
    trace = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    spent = busy(_events(trace))
    if not spent:
        raise AlexNetError(f"{trace} has no operations of the step: this device does not say what it does when.")
    return "\n".join(_report(setup, compiled.as_text(), spent, seconds, trace))


def _events(trace: Path) -> Iterable[tuple[str, float, float]]:
    """(operation, begin, end in ns) of everything in a trace that is an operation of a compiled program."""
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if name := dict(event.stats).get("hlo_op"):
                    yield str(name), event.start_ns, event.end_ns


def busy(events: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """{operation: ns in which at least one thread or device was at it}."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for name, begin, end in events:
        spans.setdefault(name, []).append((begin, end))
    found = {}
    for name, pairs in spans.items():
        total = reached = 0.0
        for begin, end in sorted(pairs):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        found[name] = total
    return found


def names_of(program: str, known: Callable[[str], bool]) -> dict[str, str]:
    """{operation of a compiled program: "conv2 backward: dot_general"}, by the names that its source had.

    A fusion is called after its last operation, or, where that has no name, after most of those inside it.
    """
    own: dict[str, str] = {}
    calls: dict[str, str] = {}
    inside: dict[str, list[str]] = {}
    computation = ""
    for line in program.splitlines():
        if begin := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = begin[1]
        if not (operation := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
            continue
        if called := re.search(r"calls=%?([\w.\-]+)", line):
            calls[operation[1]] = called[1]
        if (source := re.search(r'op_name="([^"]+)"', line)) and "/" in source[1]:
            own[operation[1]] = source[1]
            inside.setdefault(computation, []).append(source[1])
    for name, computation in calls.items():
        if name not in own and (sources := inside.get(computation)):
            own[name] = max(sources, key=sources.count)
    return {name: _label(source, known) for name, source in own.items()}


def _label(source: str, known: Callable[[str], bool]) -> str:
    *way, operation = source.split("/")
    layer = next((part for part in reversed(way) if known(part)), "the rest")
    direction = next((f" {word}" for mark, word in _DIRECTIONS if any(mark in part for part in way)), "")
    return f"{layer}{direction}: {operation}"


def _report(setup: builder.TrainSetup, program: str, spent: dict[str, float], seconds: float, trace: Path) -> list[str]:
    layers = setup.model.stack
    scopes = {"images", "loss", "update"} | {layer.name for layer in layers}
    scopes |= {models.operation_name(word, layer.name) for layer in layers for word in layer.post_ops}
    labels = names_of(program, lambda part: part in scopes or part.startswith(("exchange_", "sum_", "split_")))
    by_layer: dict[str, float] = {}
    for operation, ns in spent.items():
        layer = labels.get(operation, "the rest").partition(":")[0]
        by_layer[layer] = by_layer.get(layer, 0.0) + ns
    rate = setup.plan.batch_size / seconds
    flops = rate * speed.flops_per_image(setup.model, setup.config.data.crop_pixels)
    peak = speed.peak(setup.model.compute_dtype)
    share = flops / (1e12 * peak.teraflops * setup.mesh.size)
    return [
        f"a step    {1e3 * seconds:,.1f} ms, {rate:,.1f} images/s, {flops / 1e12:.3g} TFLOP/s, {100 * share:.0f} % of "
        f"peak ({peak.numbers}, {peak.source})",
        "",
        *_table("operations", spent, seconds, labels),
        "",
        *_table("layers (operations that run side by side are counted one by one)", by_layer, seconds, {}),
        "",
        f"trace     {trace}",
        "          xprof --logdir=FOLDER, or TensorBoard with the plugin of XProf, shows it",
    ]  # fmt: skip


def _table(what: str, spent: dict[str, float], seconds: float, labels: dict[str, str]) -> list[str]:
    rows = sorted(spent.items(), key=lambda item: -item[1])[:_ROWS]
    width = max(len(name) for name, _ in rows)
    lines = [f"the {_ROWS} costliest {what}:", f"  {'':{width}}  {'ms a step':>10}  {'of it':>6}"]
    for name, ns in rows:
        mine = ns / 1e9 / _STEPS
        lines.append(
            f"  {name:{width}}  {1e3 * mine:10,.1f}  {100 * mine / seconds:4.0f} %  {labels.get(name, '')}".rstrip()
        )
    return lines


def main(argv: list[str]) -> None:
    """Profiles a recipe's step. Raises AlexNetError."""
    _, config, rest = take_recipe(argv)
    description = (
        "Where the time of a recipe's training step goes: its costliest operations and layers, and a trace for XProf. "
        "Run it from the top of a checkout."
    )
    parser = app.Parser(prog="python -m tools.profile_step", description=description, epilog=HELP)
    parser.add_argument("--workdir", type=Path, default=Path("runs/profile"), help="folder of the trace (%(default)s)")
    options = parser.parse_args(rest)
    devices.settle()
    print(profile(config, options.workdir))


if __name__ == "__main__":
    app.program("tools.profile_step")
