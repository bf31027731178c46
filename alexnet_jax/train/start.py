"""How a run starts: what it says of itself first, and the state of its first step."""

import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from alexnet_jax import builder
from alexnet_jax.data import sources
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement, probe, towers
from alexnet_jax.model.towers import DATA, TOWER
from alexnet_jax.train import memory
from alexnet_jax.train.checkpoint import Checkpoints, restore_network
from alexnet_jax.train.metrics import Report, some_of
from alexnet_jax.train.resume import Resume, differs_in
from alexnet_jax.train.step import TrainState


def introduction(opened: builder.TrainSetup, where: Resume, workdir: Path) -> list[str]:
    """What this run is, for its first lines: nobody trains a toy by accident."""
    c, mesh, model, plan = opened.config, opened.mesh, opened.model, opened.plan
    rows, tower, device = mesh.shape[DATA], mesh.shape[TOWER], mesh.devices.flat[0]
    pixels, devices = c.data.crop_pixels, f"{rows * tower} {device.platform} device(s) ({device.device_kind})"
    parameters = models.count_parameters(model, placement.variables(model, pixels)["params"])
    resumed = "" if where.is_new else f", resumed after step {where.first_step:,}"
    return [
        f"data     {c.data.name}: {len(opened.split.source):,} images of {opened.split.name}, "
        f"{len(opened.evaluation.split.source):,} of {opened.evaluation.split.name} for evaluation",
        f"classes  {model.classes:,}: {some_of(opened.split.class_names)}",
        f"feed     {_feed_in_words(opened)}",
        f"network  {model.towers} tower(s), {parameters:,} parameters, {pixels} x {pixels} pixels",
        f"mesh     data {rows} x tower {tower} on {devices}: {placement.in_a_line(model, mesh)}",
        *(f"{'' if number else 'map':9}{line}" for number, line in enumerate(placement.map_of(mesh))),
        f"steps    {plan.steps:,} of {plan.batch_size} images ({plan.epoch(plan.steps):.1f} epochs){resumed}",
        f"workdir  {workdir}",
        *([_HUGE_PAGES] if _lacks_huge_pages(device.platform) else []),
    ]


_HUGE_PAGES = "hint     GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment makes steps on a CPU faster"


def _lacks_huge_pages(platform: str) -> bool:
    return platform == "cpu" and sys.platform == "linux" and "hugetlb" not in os.environ.get("GLIBC_TUNABLES", "")


def _feed_in_words(opened: builder.TrainSetup) -> str:
    mine, pixels = opened.feed, opened.inputs.crop_pixels
    share = opened.plan.batch_size // towers.feed_share(opened.mesh)[1]
    size = mine.batches_in_memory * share * pixels**2 * 3 / 1e6
    where = f"{mine.workers} worker(s) of {mine.threads} thread(s)" if mine.workers else f"{mine.threads} thread(s)"
    return f"{where} per process, at most {mine.batches_in_memory} batches ({size:,.0f} MB) in its memory"


def read_ahead(opened: builder.TrainSetup) -> list[str]:
    """Starts to read the data set into memory where config.data.cache says so; a line about it."""
    if not opened.config.data.cache:
        return []
    said = sources.read_ahead(opened.split.folder, free=memory.free_of_machine())
    return [f"cache    {said}"] if said else []


def first_state(opened: builder.TrainSetup, where: Resume, checkpoints: Checkpoints, report: Report) -> TrainState:
    """The state that the loop starts from: new, new with the weights of another run, or restored."""
    shapes = opened.shapes()
    if not where.is_new:
        state = checkpoints.restore(where.first_step, placement.on_mesh(opened.model, shapes, opened.mesh))
        assert isinstance(state, TrainState)
        return state
    # It runs once: a CPU takes 8 s to compile it at XLA's usual effort, 3 s at this one.
    quick = {"xla_backend_optimization_level": 1}
    shardings = placement.shardings(opened.model, shapes, opened.mesh)
    state = jax.jit(opened.new_state, out_shardings=shardings, compiler_options=quick)()
    assert isinstance(state, TrainState)
    if opened.config.init_from:
        state = _with_weights_of(Path(opened.config.init_from), opened, state, report)
    everywhere = NamedSharding(opened.mesh, towers.REPLICATED)  # so that XLA need not find a way to split the probe
    variables = jax.jit(lambda variables: variables, out_shardings=everywhere)(state.variables)
    found = probe.stages(opened.model, variables, opened.some_images(probe.IMAGES), opened.inputs)
    report.say(f"probe    {probe.in_a_line(found)}")
    if warning := probe.warning(found, opened.model.classes):
        report.say(f"warning  {warning}")
    return state


def _with_weights_of(workdir: Path, opened: builder.TrainSetup, state: TrainState, report: Report) -> TrainState:
    """The state with the latest weights of another run; the last layer stays new for other classes."""
    hybrid = f"mesh.hybrid={opened.config.mesh.hybrid}"  # they lie as these do
    theirs = restore_network(workdir, mesh=opened.mesh, overrides=(hybrid,))
    if fields := differs_in(opened.config, theirs.config):
        report.say(f"differs  config.{', config.'.join(fields)}: not as in {workdir}, whose weights these are")
    last = opened.model.stack[-1].name
    same = theirs.class_names == opened.split.class_names
    params = {name: leaves for name, leaves in theirs.variables["params"].items() if same or name != last}
    _check_shapes(workdir, state.params, params)
    head = (
        f"with its {len(theirs.class_names):,} classes"
        if same
        else f"a new {last} for {opened.model.classes:,} classes"
    )
    report.say(f"weights  step {theirs.step:,} of {workdir}, {head}")
    statistics = theirs.variables.get("batch_stats", state.statistics)
    return state.replace(params=state.params | params, statistics=statistics)


def _check_shapes(workdir: Path, ours: Any, theirs: Any) -> None:
    for name, leaves in theirs.items():
        wanted = {part: leaf.shape for part, leaf in ours.get(name, {}).items()}
        found = {part: leaf.shape for part, leaf in leaves.items()}
        if wanted != found:
            raise AlexNetError(
                f"config.init_from={workdir} is of another network: its {name} is {found}, and this one's is "
                f"{wanted or 'missing'}. Use the same recipe for both."
            )
