"""Compiles the project for TPUs and GPUs that are not here, and says what the compilers made of it. Nothing runs.

    python benchmarks/deviceless.py meshes [v5e:4x4 ...]
    python benchmarks/deviceless.py step --target=v5e:4x4 --placement=towers --batch=1024 --json=FILE [--hlo=FOLDER]
    python benchmarks/deviceless.py step --target=h100:2 --placement=data --eval
    python benchmarks/deviceless.py table BEFORE AFTER

A target is a TPU slice as Google names it, by its chips (v5e:4x4, v5p:2x2x2), or so many devices of it or of a machine
with GPUs (v5e:1, h100:8). TPUs need libtpu (`pip install -e ".[deviceless]"`), NVIDIA's GPUs JAX's CUDA plugin
(`.[cuda]`, some GB); neither needs a device. A step of the full network takes minutes. `step` keeps one line of JSON a
compilation and does not compile again what is there, of the same commit and versions. `table` sets files side by side.

What is exact: collectives, types, temporaries, arguments, donation. What is not: `bytes` are operands and results of
each kernel, without those that a TPU keeps on the chip: more than what moves where a kernel reads a part, or a cache
has it. `accessed` is XLA's count on a TPU, which includes the chip's, `xla_ms` its estimate of the time. `roofline` is
the larger of products and `bytes` at the data sheet's rates, without collectives. `fits`, the largest global batch, is
computed from one compilation, all but the state in proportion to the batch. Nothing runs, and a GPU's program is not
tuned, for which XLA needs the GPU.
"""

import argparse
import collections
import dataclasses
import datetime
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 1_281_167  # of ImageNet, for the schedules


class Kind(NamedTuple):
    """The rates of a chip, from its data sheet: dense products, memory, and how much there is of it."""

    teraflops: float  # bfloat16
    teraflops_float32: float  # of float32 arrays by JAX's default: TF32 on a GPU, bfloat16 on a TPU
    gigabytes_per_second: float
    gigabytes: float
    devices: int = 1  # of a chip


# Google's pages on the system architecture, v2: Jouppi et al. 2020 (doi 10.1145/3360307). Memory: what libtpu 0.0.42.1
# says that a program has of it.
TPUS = {
    "v2": Kind(46, 46, 700, 16.1, 2),
    "v3": Kind(123, 123, 900, 33.2, 2),
    "v4": Kind(275, 275, 1228, 33.0),
    "v5e": Kind(197, 197, 819, 16.9),
    "v5p": Kind(459, 459, 2765, 102.8),
    "v6e": Kind(918, 918, 1638, 33.6),
    "tpu7x": Kind(2307, 2307, 7380, 203.5, 2),
}
# NVIDIA's data sheets, SXM, without sparsity.
GPUS = {
    "a100": Kind(312, 156, 2039, 80),
    "h100": Kind(989.4, 494.7, 3350, 80),
    "h200": Kind(989.4, 494.7, 4800, 141),
}
# What XLA asks of a GPU, from openxla/xla, xla/backends/gpu/target_config/specs/ (Apache-2.0), shortened: major compute
# capability, cores, FPUs of each, GHz, bytes of L2, of memory, per second, of a core's shared memory, of a block's.
_SPECS = {
    "a100": (8, 108, 64, 1.41, 41943040, 85100068864, 2039040000000, 167936, 166912),
    "h100": (9, 132, 128, 1.98, 52428800, 84942979072, 3352320000000, 233472, 232448),
    "h200": (9, 132, 128, 1.98, 52428800, 151397597184, 4800000000000, 233472, 232448),
}
_SIZES = {
    "v2 v3": "2x2 4x4 4x8 8x8 8x16 16x16",
    "v5e v6e": "2x2 2x4 4x4 4x8 8x8 8x16 16x16",
    "v4 v5p tpu7x": "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16",
}
TOPOLOGIES = [f"{kind}:{size}" for kinds in _SIZES for kind in kinds.split() for size in _SIZES[kinds].split()]
PLACEMENTS = {  # each over all devices
    "towers": ["mesh.tower=0"],  # a device each, where there are enough
    "data": ["mesh.tower=1"],
    "hybrid": ["mesh.tower=1", "mesh.hybrid=True"],
}


# ---------------------------------------------------------------- devices that are not here


def compiler_of(target: str) -> str:
    """The name and version of what compiles for a target; ends with a sentence where it is not installed."""
    kind = target.partition(":")[0]
    if kind not in TPUS | GPUS:
        sys.exit(f"error: --target={target} is none of {', '.join([*TPUS, *GPUS])}.")
    names = ("libtpu",) if kind in TPUS else ("jax-cuda13-pjrt", "jax-cuda12-pjrt")
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    extra = "deviceless" if kind in TPUS else "cuda"
    sys.exit(f"error: {target} needs {names[0]}, which is not installed: pip install -e '.[{extra}]'.")


def devices_of(target: str, slices: int = 1) -> list[Any]:
    """The devices of a target, which can be compiled for and not run on."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3", "TPU_LOG_DIR": "disabled",
        # Ask no metadata server which TPU this is, and let several processes compile at once.
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }  # fmt: skip
    import jax
    from jax.experimental import topologies

    kind, _, size = target.partition(":")
    count = int(size or 1) if size in ("", "1", "2", "4") and kind in TPUS else None
    if count:
        size = "2x2" if kind in ("v2", "v3", "v5e", "v6e") else "2x2x1"
    what: dict[str, Any] = {"platform": "tpu", "topology_name": f"{kind}:{size}"}
    if kind in GPUS:
        what = {"platform": "cuda", "topology_name": kind, "target_config": _gpu(kind), "topology": f"1x1x{size or 1}"}
    elif slices > 1:
        what["num_slices"] = slices
    if kind == "v4":
        what["chip_config_name"] = "megacore"  # a device a chip, as JAX has it
    try:
        return topologies.get_topology_desc(**what).devices[:count]
    except jax.errors.JaxRuntimeError as error:
        sys.exit(f"error: --target={target}: {error}")


def _gpu(kind: str) -> str:
    """The text of the GpuTargetConfigProto of a GPU."""
    major, cores, fpus, clock, cache, memory, bandwidth, shared, shared_optin = _SPECS[kind]
    return f"""gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock} l2_cache_size: {cache}
      device_memory_size: {memory} memory_bandwidth: {bandwidth}
      shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared_optin}
      cuda_compute_capability {{ major: {major} }}
      driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
      name: "{kind}" }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{kind}"
    """


# ---------------------------------------------------------------- meshes


def meshes(args: argparse.Namespace) -> None:
    """A row for each mesh of each topology; status 1 if one of them cannot be fed, or has its towers far apart."""
    compiler = compiler_of("v5e")
    print(f"{compiler}, jax {importlib.metadata.version('jax')}\n")
    print(f"{'slices':<20} {'devices':>7} {'processes':>9} {'placement':<12} {'shares':>6} {'neighbors':<9} hops")
    failed = count = 0
    for topology, slices in itertools.product(args.topologies or TOPOLOGIES, (1, 2)):
        devices = devices_of(topology, slices)
        for tower, placement in ((2, "towers"), (1, "data, hybrid")):
            found = mesh_facts(devices, tower)
            good = not found["why"] and found["neighbors"] and found["hops"] <= 1
            failed, count = failed + (not good), count + 1
            row = f"{slices} x {topology:<16} {len(devices):>7} {found['processes']:>9} {placement:<12} "
            row += f"{found['shares']:>6} {'yes' if found['neighbors'] else 'no':<9} {found['hops']:>4}"
            print(row if good else f"{row}  {found['why'] or 'FAILS'}", flush=True)
    print(f"\n{failed} of {count} meshes fail")
    sys.exit(min(failed, 1))


def mesh_facts(devices: list[Any], tower: int) -> dict[str, Any]:
    """Shares of the feed, whether the rows of a process are neighbors, links between towers, why it has no feed."""
    import jax
    import numpy as np

    from alexnet_jax.errors import AlexNetError
    from alexnet_jax.model import towers

    found: dict[str, Any] = {"processes": len({device.process_index for device in devices}), "shares": 0, "why": ""}
    mesh = towers.make_mesh(towers=2, tower=tower, devices=devices)
    owners = [row[0].process_index for row in mesh.devices]
    found["neighbors"] = len([*itertools.groupby(owners)]) == found["processes"]
    found["hops"] = max(int(np.abs(np.subtract(row[0].coords, row[-1].coords)).sum()) for row in mesh.devices)
    try:
        some = sorted(set(owners))[:: found["processes"] // 64 + 1]  # a call reads the whole mesh
        shares = []
        for process in some:
            with mock.patch.object(jax, "process_index", return_value=process):
                shares.append(towers.feed_share(mesh))
        found["shares"] = shares[0][1]
        if len(set(shares)) < len(some) or {count for _, count in shares} != {found["processes"]}:
            found["why"] = "the shares are no partition"
    except AlexNetError as error:
        found["why"] = str(error)
    return found


# ---------------------------------------------------------------- the text of a compiled program


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of HLO: its result's shape, its operation, and the names of its operands."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    line: str

    def attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.line)
        return match[1] if match else ""


Computation = dict[str, Instruction]
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_FREE = {  # they move nothing
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota", "partition-id", "replica-id",
    "opt-barrier",
}  # fmt: skip
_PRODUCT = re.compile(r"__cudnn\$conv|__cublas")  # the custom calls that are products


def computations(hlo: str) -> dict[str, Computation]:
    """{name: its instructions} of the text of a module; the one that is run has the name ENTRY."""
    found: dict[str, Computation] = {}
    here: Computation = {}
    for line in hlo.splitlines():
        if line[:1] in "%E" and line.endswith("{"):
            name = "ENTRY" if line.startswith("ENTRY") else line.split(" ", 1)[0].lstrip("%")
            here = found[name] = {}
        elif match := _LINE.match(line):
            name, shape, operation, rest = match.groups()
            operands = re.findall(r"%([\w.\-]+)", re.split(r"\)(?:,|$)", rest, maxsplit=1)[0])
            here[name] = Instruction(name, shape, operation, tuple(operands), line)
    return found


def array_bytes(shape: str, *, on_chip: bool = True) -> int:
    """The bytes of "bf16[8,128]{1,0}" or of all arrays of a tuple; `on_chip`: also those on a TPU's chip, S(1)."""
    return sum(
        math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8  # pred has no bits
        for bits, dims, layout in re.findall(r"\b(?:bf|f|s|u|c|pred)(\d*)\w*\[([\d,]*)\](\{[^}]*\})?", shape)
        if on_chip or "S(1)" not in layout
    )


def kernels(
    program: dict[str, Computation], *, on_chip: bool = True, name: str = "ENTRY", times: int = 1
) -> Iterator[tuple[Instruction, int]]:
    """(instruction, bytes of its operands and results) of all that is run, loops as often as they are."""
    here = program[name]
    for it in here.values():
        operands = [here[operand].shape for operand in it.operands if operand in here]
        if it.operation in ("while", "call"):
            trips = int(it.attribute(r'"known_trip_count":\{"n":"(\d+)"') or 1)
            body = it.attribute(r"(?:body|to_apply)=%?([\w.\-]+)")
            yield from kernels(program, on_chip=on_chip, name=body, times=times * trips)
        elif it.operation == "slice-start":  # its shape has the operand, of which it reads a part
            yield it, times * (array_bytes(it.shape) - sum(map(array_bytes, operands)))
        elif it.operation not in _FREE and not it.operation.endswith("-done"):
            if it.operation.endswith("-start") and it.operation != "all-reduce-start":
                operands = []  # they are in its shape
            yield it, times * sum(array_bytes(shape, on_chip=on_chip) for shape in (it.shape, *operands))


def layer_of(it: Instruction, names: set[str]) -> str:
    """The layer, or the part of the step, whose name comes last in an instruction's path; ' marks a gradient."""
    path = it.attribute(r'op_name="([^"]*)"')
    found = [
        word for word in re.findall(r"\w+", path) if word in names or re.fullmatch(r"(exchange|split|sum)_\w+", word)
    ]
    return (found[-1] if found else "other") + ("'" if found and "transpose(" in path else "")


def operation_of(it: Instruction) -> str:
    """A library's name, or the kind of a fusion."""
    if it.operation == "fusion":
        product = "product" if re.match(r"gemm|triton|\w*convolution", it.name) else "fusion"
        return " ".join((product, it.attribute(r"kind=k(\w+)")))
    return it.attribute(r'custom_call_target="([^"]*)"').lstrip("_") or it.operation


def products(program: dict[str, Computation], names: set[str]) -> dict[str, dict[str, int]]:
    """{types of operands and result: {layer: how many}} of convolutions and matrix products, also those in fusions."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for here in program.values():
        for it in here.values():
            if it.operation in ("convolution", "dot") or _PRODUCT.match(it.attribute(r'custom_call_target="([^"]*)"')):
                shapes = [here[operand].shape for operand in it.operands[:2] if operand in here]
                types = [re.sub(r"\[.*", "", shape.lstrip("(")) for shape in (*shapes, it.shape)]
                highest = " highest" if "operand_precision={highest" in it.line else ""
                found[f"{' x '.join(types[:-1])} -> {types[-1]}{highest}"][layer_of(it, names)] += 1
    return {types: dict(layers) for types, layers in sorted(found.items())}


def sums(pairs: Iterator[tuple[str, int]]) -> dict[str, int]:
    """The sum of the numbers of each name, the largest first."""
    found: collections.Counter[str] = collections.Counter()
    for name, number in pairs:
        found[name] += number
    return dict(found.most_common())


# ---------------------------------------------------------------- a step


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that is lowered and not compiled, and what is known of it without a compiler."""

    lowered: Any
    mesh: Any
    names: set[str]  # of layers, operations and parts
    flops: float  # of a device
    state_bytes: int  # of a device, donated
    state_leaves: int
    input_bytes: int  # of a device's share of the batch


def make_step(args: argparse.Namespace, devices: list[Any]) -> Step:
    """The training or evaluation step of the recipe, as a run makes it."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding

    from alexnet_jax import builder, config as configs, evaluate, summary
    from alexnet_jax.model import placement, towers
    from alexnet_jax.train import step as steps

    sizes = [f"precision={args.precision}", f"train.batch_size={args.batch}", f"eval.batch_size={args.batch}"]
    config = configs.load_recipe(args.config, [*sizes, *PLACEMENTS[args.placement], *args.set])
    tower = config.mesh.tower if config.model.towers > 1 else 1
    mesh = towers.make_mesh(towers=config.model.towers, tower=tower, devices=devices)
    builder.check_batches(config, mesh)
    network = builder.model(config, args.classes)
    pixels = config.data.crop_pixels
    optimizer, _ = builder.optimizer(config, images=IMAGES, steps=IMAGES)
    settings = builder.step_settings(config)

    def new_state() -> Any:
        return steps.make_state(network, optimizer, seed=0, image_pixels=pixels, averaged=settings.ema_decay > 0)

    shapes = jax.eval_shape(new_state)
    state = placement.on_mesh(network, shapes, mesh)
    side = config.data.resize_pixels if args.eval else pixels
    parts = {"image": ((side, side, 3), np.uint8), "label": ((), np.int32), "place": ((), np.int32)}
    data = {
        name: jax.ShapeDtypeStruct((args.batch, *shape), dtype, sharding=NamedSharding(mesh, towers.BATCH_SHARDED))
        for name, (shape, dtype) in parts.items()
    }
    inputs = builder.inputs(config)
    macs = [row.macs for row in summary.layer_rows(network, pixels)]
    if args.eval:
        state = state.variables
        step: Any = evaluate.make_eval_step(network, mesh, inputs=inputs, views=builder.views(config)[:1])
        flops = 2 * sum(macs)
    else:
        step = steps.make_train_step(
            network, optimizer, mesh, shapes, batch_size=args.batch, inputs=inputs,
            augmentation=builder.augmentation(config, images=IMAGES), settings=settings,
        )  # fmt: skip
        flops = 2 * (3 * sum(macs) - macs[0])  # the image needs no gradient

    def bytes_of(tree: Any) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)

    names = {name.removesuffix("_out") for name in placement.shapes(network, pixels)} | {"images", "loss", "update"}
    return Step(
        step.lower(state, data), mesh, names, flops * args.batch / mesh.size, bytes_of(state),
        len(jax.tree.leaves(state)), bytes_of(data),
    )  # fmt: skip


def figures(step: Step, compiled: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What the compiler made of a step, of one device, in bytes."""
    from tools.traffic.compiled import collectives

    hlo, memory, costs = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis() or {}
    program, kind = computations(hlo), (TPUS | GPUS)[args.target.partition(":")[0]]
    run = [*kernels(program, on_chip=False)]
    moved = sum(size for _, size in run)
    rate = (kind.teraflops if args.precision == "bfloat16" else kind.teraflops_float32) / kind.devices
    products_ms = 1e-9 * step.flops / rate
    memory_ms = 1e-6 * moved / (kind.gigabytes_per_second / kind.devices)
    rows, free = step.mesh.shape["data"], 1e9 * kind.gigabytes / kind.devices - step.state_bytes
    row = {
        "mesh": dict(step.mesh.shape),
        "bytes": moved,
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "state": step.state_bytes,
        "donated": memory.alias_size_in_bytes,
        "donated_arrays": [len(re.findall(r"\{\d+\}: \(\d+", hlo.split("\n", 1)[0])), step.state_leaves],
        "roofline": {
            "products_ms": round(products_ms, 3),
            "memory_ms": round(memory_ms, 3),
            "images_per_second": round(1e3 * args.batch / max(products_ms, memory_ms)),
        },
        "fits": int(free / ((memory.temp_size_in_bytes + step.input_bytes) / args.batch * rows)) * rows,
        "kernels": len(run),
        "by_layer": sums((layer_of(it, step.names), size) for it, size in run),
        "by_operation": sums((operation_of(it), size) for it, size in run),
        "products": products(program, step.names),
        "collectives": [
            [sent.kind, sent.axis, sent.dtype, f"{'+'.join(sent.layers)} {sent.direction}", round(sent.bytes)]
            for sent in collectives(hlo, step.mesh)
        ],
    }
    if costs:  # of a TPU
        row["accessed"] = int(costs["bytes accessed"])
        # XLA counts -1 s for each of these, which it does not know; they move nothing.
        unknown = sum(it.attribute(r'target="(ConcatBitcast)"') != "" for it, _ in run)
        if (seconds := costs["optimal_seconds"] + unknown) > 0:
            row["xla_ms"] = round(1e3 * seconds, 3)
    return row


def commit() -> str:
    """The commit of this checkout, and a digest of what was changed since in what is compiled."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changes = git("diff", "HEAD", "--", "alexnet_jax", "configs")
    return git("rev-parse", "--short=7", "HEAD") + (
        f"+{hashlib.sha1(changes.encode()).hexdigest()[:6]}" if changes else ""
    )


def identity(args: argparse.Namespace) -> dict[str, Any]:
    """What a compilation is of: two of the same are the same."""
    return {
        "target": args.target, "slices": args.slices, "placement": args.placement, "batch": args.batch,
        "precision": args.precision, "program": "eval" if args.eval else "train", "config": args.config,
        "classes": args.classes, "set": args.set, "jax": importlib.metadata.version("jax"),
        "compiler": compiler_of(args.target), "commit": commit(),
    }  # fmt: skip


def read_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """The lines of the files in order; those that are not whole, as of a process that was killed, left out."""
    rows = []
    for line in (line for path in paths if path.exists() for line in path.read_text().splitlines()):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def step(args: argparse.Namespace) -> None:
    """Compiles a step, prints what came of it and keeps it."""
    wanted = identity(args)
    row = next((row for row in read_rows([args.json] if args.json else []) if wanted.items() <= row.items()), None)
    if row is None:
        row = wanted | {"date": str(datetime.date.today())} | compile_step(args)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            whole = not args.json.exists() or args.json.read_text()[-1:] in ("", "\n")
            with args.json.open("a") as file:
                file.write(("" if whole else "\n") + json.dumps(row) + "\n")
    print(describe(row))


def compile_step(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a step, or why the device's memory is too small for it."""
    devices = devices_of(args.target, args.slices)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # a program from there may have another's names
    made, start = make_step(args, devices), time.perf_counter()
    try:
        compiled = made.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"devices": len(devices), "error": str(error).splitlines()[0]}
    seconds = round(time.perf_counter() - start, 1)
    if args.hlo:
        args.hlo.mkdir(parents=True, exist_ok=True)
        words = [args.target, args.placement, args.batch, args.precision, "eval" if args.eval else "train", commit()]
        path = args.hlo / (re.sub(r"[^\w+]+", "_", "_".join(map(str, words))) + ".txt")
        path.write_text(compiled.as_text())
    return {"devices": len(devices), "compile_seconds": seconds} | figures(made, compiled, args)


# ---------------------------------------------------------------- what is said of it


def describe(row: dict[str, Any]) -> str:
    """A row in some lines."""
    names = ("target", "program", "placement", "batch", "precision", "config", "jax", "compiler", "commit")
    lines = [", ".join(str(row[name]) for name in names)]
    if "error" in row:
        return "\n".join([*lines, row["error"]])
    roofline, sizes = row["roofline"], ("bytes", "accessed", "temporaries", "arguments", "donated")

    def listed(sizes: dict[str, int]) -> str:
        return ", ".join(f"{name} {1e-9 * size:.3g}" for name, size in [*sizes.items()][:16])

    lines += [
        f"on each of {row['devices']}, GB: "
        + ", ".join(f"{name} {1e-9 * row[name]:.3g}" for name in sizes if name in row)
        + " ({} of {} arrays of the state)".format(*row["donated_arrays"]),
        f"by data sheet: products {roofline['products_ms']:.3g} ms, memory {roofline['memory_ms']:.3g} ms, at most "
        f"{roofline['images_per_second']:,} images/s"
        + (f"; XLA's own estimate {row['xla_ms']:.3g} ms" if "xla_ms" in row else "")
        + f"; a batch of {row['fits']:,} fits",
        f"GB by layer ({row['kernels']} kernels): {listed(row['by_layer'])}",
        f"GB by operation: {listed(row['by_operation'])}",
        *(f"products {types}: {', '.join(f'{n} {layer}' for layer, n in layers.items())}"
          for types, layers in row["products"].items()),
        *(f"{kind} over {axis}, {dtype}: {what}, {1e-6 * size:,.3f} MB" for kind, axis, dtype, what, size
          in row["collectives"]),
    ]  # fmt: skip
    return "\n".join(lines)


def table(args: argparse.Namespace) -> None:
    """Markdown: a row for each step; where the files have several of one, their figures in that order."""
    cells = {
        "GB a step": lambda row: f"{1e-9 * row['bytes']:.1f}",
        "accessed, GB": lambda row: f"{1e-9 * row['accessed']:.1f}" if "accessed" in row else "",
        "temporaries, GB": lambda row: f"{1e-9 * row['temporaries']:.2f}",
        "roofline, images/s": lambda row: f"{row['roofline']['images_per_second']:,}",
        "fits": lambda row: f"{row['fits']:,}",
        "sent by a device, MB": lambda row: f"{1e-6 * sum(sent[-1] for sent in row['collectives']):,.1f}",
    }
    heads = ("target", "devices", "step", "batch", *cells, "commit")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in read_rows(args.files):
        same = ("target", "slices", "program", "placement", "batch", "precision", "config", "classes")
        groups.setdefault((*(row[name] for name in same), *row["set"]), []).append(row)
    for rows in groups.values():
        first = rows[0]
        target = first["target"] + (f" x {first['slices']}" if first["slices"] > 1 else "")
        what = [first["placement"], first["precision"], *(["eval"] if first["program"] == "eval" else [])]
        line = [target, str(first["devices"]), ", ".join(what), f"{first['batch']:,}"]
        for cell in cells.values():
            values = ["too large" if "error" in row else cell(row) for row in rows]
            line.append(" → ".join(values if len({*values}) > 1 else values[:1]))
        print(f"| {' | '.join([*line, ' → '.join(row['commit'] for row in rows)])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("meshes", help="which TPU slices can be fed")
    command.add_argument("topologies", nargs="*")
    command.set_defaults(run=meshes)
    command = commands.add_parser("step", help="compile a step")
    command.add_argument("--target", required=True, help="v5e:4x4, v5p:2x2x2, v5e:1, h100:8, ...")
    command.add_argument("--slices", type=int, default=1, help="of a TPU, joined by the data center's network")
    command.add_argument("--batch", type=int, default=1024, help="images of all devices (%(default)s)")
    command.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    command.add_argument("--placement", choices=[*PLACEMENTS], default="towers")
    command.add_argument("--eval", action="store_true", help="the evaluation of center crops instead")
    command.add_argument("--config", default="alexnet:imagenet2012", help="a recipe that needs no data (%(default)s)")
    command.add_argument("--classes", type=int, default=1000)
    command.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the config")
    command.add_argument("--json", type=Path, help="where a line is kept for each compilation")
    command.add_argument("--hlo", type=Path, help="a folder for the compiled program's text")
    command.set_defaults(run=step)
    command = commands.add_parser("table", help="Markdown of what was kept")
    command.add_argument("files", nargs="+", type=Path)
    command.set_defaults(run=table)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from alexnet_jax.errors import AlexNetError

    try:
        args.run(args)
    except AlexNetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
