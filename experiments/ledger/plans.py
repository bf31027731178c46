"""From a claim to its runs: the config of each variant on a proxy, and the digest that identifies a run."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Set
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import config as configs, schema
from alexnet_jax.model import layers
from experiments.ledger.claims import Claim, Proxy, Variant

# What a config may leave to the data set; that of a run has the values that were found (builder.with_statistics).
_FROM_DATA = ("data.mean", "data.color_std", "data.color_vectors")


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run: `recipe` as alexnet train takes it, with `overrides` ("section.field=value").

    `what` is the recipe and what the variant sets in it. `digest` is of the config without its seed.
    """

    proxy: Proxy
    what: str
    recipe: str
    overrides: tuple[str, ...]
    seed: int
    digest: str

    @property
    def key(self) -> tuple[str, str]:
        """(digest, seed), which identifies a row of runs.csv."""
        return self.digest, str(self.seed)

    @property
    def name(self) -> str:
        """The name of its workdir."""
        return f"{self.proxy.name}-{self.digest}-{self.seed}"


def planned(claim: Claim, proxy: Proxy, seeds: int) -> list[Planned]:
    """Every run of a claim on a proxy, seed by seed, so that a claim that is cut short has whole pairs.

    Of an ensemble, its members. Raises AlexNetError.
    """
    trained = {name: variant_run(variant, proxy, 0) for name, variant in claim.variants.items() if not variant.of}
    counts = dict.fromkeys(trained, seeds)
    for variant in claim.variants.values():
        if variant.of:
            counts[variant.of] = max(counts[variant.of], seeds * variant.members)
    pairs = [(seed, name) for seed in range(max(counts.values())) for name in trained if seed < counts[name]]
    runs = [dataclasses.replace(trained[name], seed=seed) for seed, name in pairs]
    return list({run.key: run for run in runs}.values())


def variant_run(variant: Variant, proxy: Proxy, seed: int) -> Planned:
    """The run of one variant on a proxy. Raises AlexNetError."""
    return dataclasses.replace(_run_of(variant.recipe, _own(variant, proxy), proxy), seed=seed)


def what(variant: Variant, proxy: Proxy) -> str:
    """The recipe of a variant and what it sets in it, on this proxy."""
    return " ".join((variant.recipe, *_own(variant, proxy)))


def _own(variant: Variant, proxy: Proxy) -> tuple[str, ...]:
    return (*variant.set, *variant.on.get(proxy.name, ()))


@functools.cache
def _run_of(name: str, own: tuple[str, ...], proxy: Proxy) -> Planned:
    recipe, overrides = f"{name}:{proxy.data}", _last_of_each((*proxy.set, *own))
    config = configs.load_recipe(recipe, overrides)
    if proxy.width < 1:
        small = reduced(config, crop_pixels=configs.find_recipe(recipe).data.crop_pixels, width=proxy.width)
        overrides = _last_of_each((*overrides, *small))
        config = configs.load_recipe(recipe, overrides)
    return Planned(proxy, " ".join((name, *own)), recipe, overrides, 0, digest(config))


def _last_of_each(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The last override of each field: a command line would join the tuples of a field that is given twice."""
    return tuple({override.partition("=")[0]: override for override in overrides}.values())


def ensemble_digest(variant: Variant, claim: Claim, proxy: Proxy) -> str:
    """The digest of an ensemble's rows."""
    member = variant_run(claim.variants[variant.of], proxy, 0).digest
    return f"{member}x{variant.members}{'t' if variant.tune else ''}"


def members(claim: Claim, proxy: Proxy, seeds: int, known: Set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The keys of the runs whose weights the ensembles of a claim need that have no row yet among the `known` ones."""
    keys = set[tuple[str, str]]()
    for variant in (variant for variant in claim.variants.values() if variant.of):
        member, key = variant_run(claim.variants[variant.of], proxy, 0).digest, ensemble_digest(variant, claim, proxy)
        for seed in (seed for seed in range(seeds) if (key, str(seed)) not in known):
            keys |= {(member, str(seed * variant.members + i)) for i in range(variant.members)}
    return keys


def reduced(config: ConfigDict, *, crop_pixels: int, width: float) -> tuple[str, ...]:
    """ "section.field=value" that bring a recipe to a `width` of its features, and its initial weights with them.

    A layer that sums over fewer inputs than it does at `crop_pixels` and full width gets larger weights, by the root
    of the ratio: the spread of what it puts out stays what it is in the full network, and its ratio to the biases.
    """
    m = config.model
    small = ConfigDict(config.to_dict())
    changes = list[str]()
    for layer in m.layers:
        if m[layer].features:
            small.model[layer].features = max(1, round(m[layer].features * width))
            changes.append(f"model.{layer}.features={small.model[layer].features}")
    before, after = _fan_in(config, crop_pixels), _fan_in(small, config.data.crop_pixels)
    for layer in m.layers:
        if m.init == "normal" and before[layer] != after[layer]:
            std = m[layer].init_std * math.sqrt(before[layer] / after[layer])
            changes.append(f"model.{layer}.init_std={std:.4g}")
    return tuple(changes)


def _fan_in(config: ConfigDict, pixels: int) -> dict[str, int]:
    """How many inputs a unit of each layer sums over, for images of so many pixels, as the live model has them."""
    m, side, channels, fan_in = config.model, pixels, 3, dict[str, int]()
    for name in m.layers:
        layer = m[name]
        inputs = channels * (m.towers if fan_in and name in m.exchange else 1)
        if "kernel_size" in layer:
            fan_in[name] = layer.kernel_size**2 * inputs
            side = (side + sum(layer.padding) - layer.kernel_size) // layer.stride + 1
        else:
            fan_in[name], side = side**2 * inputs, 1
        for _ in (word for word in layer.post_ops.split() if word in ("pool", "avg_pool")):
            side = layers.pooled_length(side, m.pool.size, m.pool.stride, m.pool.ceil)
        channels = layer.features
    return fan_in


def is_of(config: ConfigDict, run: Planned) -> bool:
    """Whether the config of a run, with what it took from its data set, is the one that was planned."""
    asked = configs.load_recipe(run.recipe, run.overrides)
    left = ConfigDict(config.to_dict())
    for section, _, field in (name.partition(".") for name in _FROM_DATA):
        if not asked[section][field]:
            left[section][field] = ()
    return digest(left) == run.digest and config.train.seed == run.seed


def computed_from(config: ConfigDict) -> dict[str, Any]:
    """{field: value} of all that decides which numbers a run computes.

    A field that came later counts only where it differs from what runs did before, so that older runs keep what they
    are known by.
    """
    rows = [(name, value, schema.field(name)) for name, value in configs.flat(config)]
    return {
        name: value
        for name, value, row in rows
        if row is None or (row.role > schema.Role.HOST and row.older != value)  # `ALWAYS` is not a field's value
    }


def digest(config: ConfigDict) -> str:
    """The digest of all fields that decide what a run computes, but for its seed."""
    fields = {name: value for name, value in computed_from(config).items() if name != "train.seed"}
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=6).hexdigest()
