"""How a run starts: its first lines, and the state before its first step."""

import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from alexnet_jax import builder, config as configs
from alexnet_jax.data import feed, sources
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement, probe, towers
from alexnet_jax.model.towers import DATA, TOWER
from alexnet_jax.train import memory
from alexnet_jax.train.checkpoint import Checkpoints, restore_network
from alexnet_jax.train.checksums import Say
from alexnet_jax.train.metrics import format_names
from alexnet_jax.train.step import TrainState


def introduction(setup: builder.TrainSetup, workdir: Path, latest: int | None) -> list[str]:
    """What this run is, which resumes after step `latest` or is new: nobody trains a toy by accident."""
    mesh, model, plan, split, pixels = setup.mesh, setup.model, setup.plan, setup.split, setup.inputs.crop_pixels
    rows, tower, device, evaluation = mesh.shape[DATA], mesh.shape[TOWER], mesh.devices.flat[0], setup.evaluation
    devices = f"{rows * tower} {device.platform} device(s) ({device.device_kind})"
    parameters = models.count_parameters(model, placement.variables(model, pixels)["params"])
    resumed = "" if latest is None else f", resumed after step {latest:,}"
    lines = [
        f"data     {evaluation.data_name}: {len(split.source):,} images of {split.name}, "
        f"{len(evaluation.split.source):,} of {evaluation.split.name} for evaluation",
        f"classes  {model.classes:,}: {format_names(split.class_names)}",
        f"feed     {_describe_feed(setup)}",
        f"network  {model.towers} tower(s), {parameters:,} parameters, {pixels} x {pixels} pixels",
        f"mesh     data {rows} x tower {tower} on {devices}: {_describe_placement(model, mesh)}",
        f"steps    {plan.steps:,} of {plan.batch_size} images ({plan.epoch(plan.steps):.1f} epochs){resumed}",
        f"workdir  {workdir}",
    ]
    if device.platform == "cpu" and sys.platform == "linux" and "hugetlb" not in os.environ.get("GLIBC_TUNABLES", ""):
        lines.append("hint     GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment makes steps on a CPU faster")
    if setup.cache and (cached := sources.read_ahead(split.folder, free=memory.free_of_machine())):
        lines.append(f"cache    {cached}")
    return lines


def _describe_placement(model: models.AlexNet, mesh: Mesh) -> str:
    """Where the towers are and where they meet."""
    placed = placement.for_mesh(model, mesh)
    if placed.split_over > 1:
        split = [layer.name for layer in model.stack if placed.splits(layer)]
        return f"hybrid; the units of {' and '.join(split) or 'no layer'} are split over the devices"
    if model.towers == 1:
        return "one tower on each device"
    meet = ", ".join(row.name for row in placement.table(model) if row.exchange)
    if mesh.shape[TOWER] == 1:
        return f"all towers together on each device; they meet at {meet}"
    crossing = len({device.process_index for device in mesh.devices[0]}) > 1
    return f"one tower on each device; they exchange at {meet}" + ", between processes" * crossing


def _describe_feed(setup: builder.TrainSetup) -> str:
    threads, most = f"{setup.feed.threads} thread(s)", setup.feed.batches_in_memory
    size = most * setup.plan.batch_size // towers.feed_share(setup.mesh)[1] * setup.inputs.crop_pixels**2 * 3 / 1e6
    where = f"{setup.feed.workers} worker(s) of {threads}" if setup.feed.workers else threads
    return f"{where} per process, at most {most} batches ({size:,.0f} MB) in its memory"


def first_state(setup: builder.TrainSetup, checkpoints: Checkpoints, latest: int | None, say: Say) -> TrainState:
    """The state of checkpoint `latest`; without one a new state, with the weights of another run where asked for."""
    shapes = setup.shapes()
    if latest is not None:
        restored = checkpoints.restore(latest, placement.on_mesh(setup.model, shapes, setup.mesh))
        assert isinstance(restored, TrainState)
        return restored
    # It runs once: a CPU takes 8 s to compile it at XLA's usual effort, 3 s at this one.
    quick = {"xla_backend_optimization_level": 1}
    shardings = placement.shardings(setup.model, shapes, setup.mesh)
    state: TrainState = jax.jit(setup.new_state, out_shardings=shardings, compiler_options=quick)()
    if setup.init_from:
        state = _with_weights_of(Path(setup.init_from), setup, state, say)
    everywhere = NamedSharding(setup.mesh, towers.REPLICATED)  # so that XLA need not find a way to split the probe
    variables = jax.jit(lambda variables: variables, out_shardings=everywhere)(state.variables)
    found = _probed(setup, variables)
    say(f"probe    {probe.in_a_line(found)}")
    if warning := probe.warning(found, setup.model.classes):
        say(f"warning  {warning}")
    return state


def describe_probe(setup: builder.TrainSetup) -> str:
    """The probe of a new state, as a table (--mode=probe)."""
    return probe.describe(_probed(setup, jax.jit(setup.new_state)().variables), setup.model.classes)


def _probed(setup: builder.TrainSetup, variables: Any) -> list[probe.Stage]:
    images = feed.some_images(setup.split, setup.images, probe.IMAGES)  # the same ones in every process
    return probe.stages(setup.model, variables, images, setup.inputs)


def _with_weights_of(workdir: Path, setup: builder.TrainSetup, state: TrainState, say: Say) -> TrainState:
    """The state with the latest weights of another run; the last layer stays new for other classes."""
    hybrid = f"mesh.hybrid={setup.model.hybrid}"  # they lie as these do
    theirs = restore_network(workdir, mesh=setup.mesh, overrides=(hybrid,))
    if fields := [name for name, *_ in configs.differences(setup.config, theirs.config, configs.Role.NETWORK)]:
        say(f"differs  config.{', config.'.join(fields)}: not as in {workdir}, whose weights these are")
    last, classes = setup.model.stack[-1].name, theirs.class_names
    same = classes == setup.split.class_names
    params = {name: leaves for name, leaves in theirs.variables["params"].items() if same or name != last}
    for name, leaves in params.items():
        ours, found = _shapes(state.params.get(name, {})), _shapes(leaves)
        if ours != found:
            raise AlexNetError(
                f"config.init_from={workdir} is of another network: its {name} is {found}, and this one's is "
                f"{ours or 'missing'}. Use the same recipe for both."
            )
    head = f"with its {len(classes):,} classes" if same else f"a new {last} for {setup.model.classes:,} classes"
    say(f"weights  step {theirs.step:,} of {workdir}, {head}")
    statistics = theirs.variables.get("batch_stats", state.statistics)
    return state.replace(params=state.params | params, statistics=statistics)


def _shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in leaves.items()}
