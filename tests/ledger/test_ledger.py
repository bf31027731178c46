"""The ledger: what its pages say is what its rows say, and the rows are of the runs that were predicted."""

import csv
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config as configs, ensembles, parts
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement
from experiments.ledger import claims, costs, pages, plans, plots, rows, runner, verdicts

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
CLAIMS = claims.read_claims(EXPERIMENTS)
PROXIES = claims.read_proxies(EXPERIMENTS)
ROWS = rows.read(EXPERIMENTS)

# ---------------------------------------------------------------- the ledger that is in the repository


def test_every_page_says_what_the_rows_say() -> None:
    ledger = pages.Ledger(CLAIMS, PROXIES, ROWS)
    quoting = pages.of(EXPERIMENTS)
    assert {EXPERIMENTS / claim.folder.name / "README.md" for claim in CLAIMS} <= set(quoting)
    for path in quoting:
        text = path.read_text(encoding="utf-8")
        assert ledger.filled(text, path) == text, (
            f"{path} is not what its rows say: run python -m experiments.ledger report"
        )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_plot_is_of_the_rows(claim: claims.Claim) -> None:
    ledger = pages.Ledger(CLAIMS, PROXIES, ROWS)
    found = [ledger.results(claim, name) for name in ledger.proxies_of(claim)]
    path = claim.folder / pages.PLOT
    if not found:
        assert not path.exists()
        return
    assert _description(path) == plots.digest(found), "run python -m experiments.ledger report"


def _description(path: Path) -> str:
    with Image.open(path) as picture:
        return str(picture.info["Description"])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_says_what_it_does_not_show(claim: claims.Claim) -> None:
    assert "**What this does not show.**" in (claim.folder / "README.md").read_text(encoding="utf-8")


def test_every_row_is_of_a_run_that_a_claim_asks_for() -> None:
    """So that no row of an older proxy or variant is left beside others."""
    wanted = set()
    for claim in CLAIMS:
        for name, seeds in claim.seeds.items():
            wanted |= {run.key for run in plans.planned(claim, PROXIES[name], seeds)}
            for variant in claim.variants.values():
                if variant.of:
                    key = plans.ensemble_digest(variant, claim, PROXIES[name])
                    wanted |= {(key, str(seed)) for seed in range(seeds)}
    keys = [(row["digest"], row["seed"]) for row in ROWS]
    assert len(keys) == len(set(keys))
    assert set(keys) <= wanted


def _at(commit: str, path: str) -> str | None:
    """A file as it was at a commit; None where this checkout does not reach so far back."""
    git = ["git", "-C", str(ROOT), "show", f"{commit}:{path}"]
    done = subprocess.run(git, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def test_every_claim_was_written_before_its_rows() -> None:
    """The commit that a row was run on holds its claim, with the same prediction, or the run belongs to another one.

    A run that several claims share is older than some of them.
    """
    if _at("HEAD", "README.md") is None:
        pytest.skip("no git checkout: the history tells what was predicted when")
    commits = {row["commit"] for row in ROWS}
    if any(_at(commit, "README.md") is None for commit in commits):
        pytest.skip("a shallow checkout: the commits of the rows are not in it")
    for row in ROWS:
        path = "experiments/{}/claim.toml"
        mine = [claim for claim in CLAIMS if (row["digest"], row["seed"]) in _keys(claim)]
        texts = [(claim, _at(row["commit"], path.format(claim.folder.name))) for claim in mine]
        held = [claim for claim, text in texts if text is not None and _promised(text) == _promised_now(claim)]
        assert held, f"no claim at {row['commit']} predicted anything of {row['what']}"
        changed = [claim.name for claim, text in texts if text is not None and _promised(text) != _promised_now(claim)]
        assert not changed, f"{changed} predicted something else at {row['commit']}, when {row['what']} was run"


def _keys(claim: claims.Claim) -> set[tuple[str, str]]:
    found = {run.key for name, seeds in claim.seeds.items() for run in plans.planned(claim, PROXIES[name], seeds)}
    of = [(v, name, seeds) for v in claim.variants.values() if v.of for name, seeds in claim.seeds.items()]
    return found | {(plans.ensemble_digest(v, claim, PROXIES[n]), str(s)) for v, n, seeds in of for s in range(seeds)}


def _promised(text: str) -> Any:
    table = tomllib.loads(text)
    return [table.get(part) for part in ("question", "prediction", "variants", "comparisons")]


def _promised_now(claim: claims.Claim) -> Any:
    return _promised((claim.folder / claims.FILE).read_text())


# ---------------------------------------------------------------- from a claim to its runs


@pytest.mark.parametrize(
    "recipe", ["alexnet", "half", "no_communication", "no_conv5", "conv6", "nonoverlap", "caffenet"]
)
def test_the_inputs_of_a_unit_are_those_of_the_live_model(recipe: str) -> None:
    config = configs.load_recipe(f"{recipe}:cifar10", ["data.crop_pixels=131"])
    params = placement.variables(parts.network(config, classes=10), 131)["params"]
    live = {name: math.prod(params[name]["kernel"].shape[1:-1]) for name in config.model.layers}
    assert plans._fan_in(config, 131) == live


def test_a_reduced_network_keeps_the_spread_of_its_signal() -> None:
    """std times the root of the inputs is what it is at full size, in every layer."""
    run = plans.variant_run(claims.Variant("alexnet", "alexnet"), PROXIES["cifar"], 0)
    small, full = configs.load_recipe(run.recipe, run.overrides), configs.load_recipe("alexnet:cifar10")
    assert small.model.conv2.features == full.model.conv2.features * PROXIES["cifar"].width
    spread = [
        {
            name: c.model[name].init_std * math.sqrt(inputs)
            for name, inputs in plans._fan_in(c, c.data.crop_pixels).items()
        }
        for c in (small, full)
    ]
    assert spread[0] == pytest.approx(spread[1], rel=1e-3)


def test_a_digest_is_of_what_decides_the_run() -> None:
    def digest(*overrides: str) -> str:
        return plans.digest(configs.load_recipe("alexnet:digits", overrides))

    assert digest() == digest("train.seed=3", "data.data_dir=/elsewhere", "data.threads=1")
    assert len({digest(), digest("train.learning_rate=0.02"), digest("model.conv1.post_ops=relu")}) == 3
    older = configs.load_recipe("alexnet:digits", ["precision=float32"])
    text = json.dumps(older.to_dict())
    later = configs.load_recipe("alexnet:digits", ["precision=float32"])
    with later.unlocked():
        for name in ("train.rollbacks", "log.track"):
            section, _, field = name.partition(".")
            del later[section][field]
    assert plans.digest(later) == plans.digest(older)
    assert json.dumps(older.to_dict()) == text


def test_a_run_is_the_planned_one_with_what_it_found_in_its_data() -> None:
    """A folder of pictures has statistics of its own, and the config of a run on it has them."""
    claim = claims.claim_named(EXPERIMENTS, "color_noise")
    run = plans.variant_run(claim.variants["source"], PROXIES["photographs"], 2)

    def ran(*overrides: str) -> bool:
        found = ["train.seed=2", "data.mean=(120.0,115.0,110.0)", "data.color_std=(3.0,2.0,1.0)"]
        found += ["data.color_vectors=((1.0,0.0,0.0),(0.0,1.0,0.0),(0.0,0.0,1.0))"]
        return plans.is_of(configs.load_recipe(run.recipe, [*run.overrides, *found, *overrides]), run)

    assert ran()
    assert not ran("train.seed=1")
    assert not ran("data.color_noise=0.2")
    given = plans.Planned(run.proxy, "", run.recipe, (*run.overrides, "data.mean=(1.0,2.0,3.0)"), 2, run.digest)
    assert not plans.is_of(configs.load_recipe(run.recipe, [*given.overrides, "train.seed=2"]), given)


def test_the_seeds_of_a_claim_come_in_whole_pairs() -> None:
    claim = claims.claim_named(EXPERIMENTS, "pooling")
    found = plans.planned(claim, PROXIES["cifar"], 2)
    assert [run.seed for run in found] == [0] * 3 + [1] * 3
    assert len({run.digest for run in found}) == 3


def test_an_ensemble_asks_for_its_members() -> None:
    claim = claims.claim_named(EXPERIMENTS, "crops_and_ensembles")
    found = plans.planned(claim, PROXIES["cifar"], 3)
    assert [run.seed for run in found] == list(range(15))


# ---------------------------------------------------------------- from rows to a verdict


_HEAD = """
question = "?"
source = "s"
number = "n"
prediction = "p"
core_minutes = 1
[seeds]
"""
_TEXT = f"""{_HEAD}cifar = 5
[variants.a]
recipe = "alexnet"
[variants.b]
recipe = "half"
[[comparisons]]
what = "a against b"
difference = ["a", "b"]
predicted = [0.0, inf]
"""


def _claim(predicted: str = "[0.0, inf]", pair: str = '["a", "b"]', more: str = "") -> claims.Claim:
    text = _TEXT.replace("[0.0, inf]", predicted).replace('["a", "b"]', pair)
    return claims.parse_claim(tomllib.loads(text + more), Path("experiments/001_x/claim.toml"))


def _row(claim: claims.Claim, variant: str, seed: int, **values: Any) -> rows.Row:
    of = claim.variants[variant]
    key = (
        plans.ensemble_digest(of, claim, PROXIES["cifar"])
        if of.of
        else plans.variant_run(of, PROXIES["cifar"], 0).digest
    )
    filled = {"digest": key, "seed": seed, "proxy": "cifar", "parameters": 1000, "seconds": 60, "commit": "c" * 40}
    return dict.fromkeys(rows.COLUMNS, "") | {name: str(value) for name, value in (filled | values).items()}


def _difference(claim: claims.Claim, every: list[rows.Row]) -> verdicts.Difference:
    return verdicts.differences(verdicts.results(claim, PROXIES["cifar"], every))[0]


def _pairs(claim: claims.Claim, values: list[tuple[float, float]]) -> list[rows.Row]:
    return [_row(claim, name, s, top1=v) for s, pair in enumerate(values) for name, v in zip("ab", pair, strict=True)]


def test_a_difference_is_paired_by_seed_and_has_students_interval() -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 60.0), (72.0, 70.0), (53.0, 50.0)])
    random.Random(0).shuffle(every)
    alone = [_row(claim, "b", 3, top1=1.0), _row(claim, "a", 4, top1=99.0)]  # seeds without their pairs
    found = _difference(claim, [*every, *alone])
    # 4.303: t of 2 degrees of freedom at 97.5 %, from a printed table.
    assert (found.n, found.mean) == (3, 2.0)
    assert found.high - found.mean == pytest.approx(4.303 * 1.0 / math.sqrt(3), rel=1e-3)
    assert found.low == pytest.approx(2 * found.mean - found.high)


@pytest.mark.parametrize(
    ("predicted", "verdict"),
    [
        ("[0.0, inf]", "as predicted"), ("[1.0, 3.0]", "as predicted"), ("[2.0, inf]", "undecided"),
        ("[-inf, 2.0]", "undecided"), ("[3.0, inf]", "refuted"), ("[-inf, 1.0]", "refuted"), ("[-1.0, 1.0]", "refuted"),
    ],
)  # fmt: skip
def test_the_verdict_is_by_the_interval(predicted: str, verdict: str) -> None:
    claim = _claim(predicted)
    every = _pairs(claim, [(62.0 + noise, 60.0) for noise in (-0.3, -0.1, 0.0, 0.1, 0.3)])
    assert _difference(claim, every).verdict == verdict
    assert _difference(claim, every[:-2]).verdict == "not all seeds yet"
    assert _difference(claim, []).verdict == "no runs yet"


def test_a_line_of_the_ledger_counts_the_verdicts_on_all_proxies() -> None:
    claim = claims.parse_claim(
        tomllib.loads(_TEXT.replace("cifar = 5", "cifar = 5\nphotographs = 5")), Path("experiments/001_x/claim.toml")
    )
    every = _pairs(claim, [(62.0, 60.0)] * 5)
    assert (
        "| +2.00 (+2.00 to +2.00) | 5 | 1 as predicted, 1 no runs yet |"
        in pages.Ledger([claim], PROXIES, every).table()
    )


def test_steps_are_compared_as_ratios_and_a_run_that_never_gets_there_has_none() -> None:
    claim = _claim("[2.0, inf]", '["a.steps_to_25", "b.steps_to_25"]')
    curves = {"a": "100:80 700:20", "b": "100:35 200:15"}  # 25 % at 650 and at 150
    every = [_row(claim, name, seed, train_curve=text) for name, text in curves.items() for seed in range(3)]
    every += [_row(claim, "a", 3, train_curve="100:80 700:30"), _row(claim, "b", 3, train_curve=curves["b"])]
    found = _difference(claim, every)
    assert (found.n, found.missing) == (3, 1)
    assert found.mean == pytest.approx(650 / 150)
    every = [row | {"top1": "50.0"} for row in every]
    section = pages.Ledger([claim], PROXIES, every).section(claim)
    assert "| a | 1,000 | 4 | 50.00 | 0.00 |  | 22.50 | 3 of 4 came there |" in section
    assert "| b | 1,000 | 4 | 50.00 | 0.00 |  | 15.00 | 150 |" in section
    assert "steps to 25 %" not in pages.Ledger([claim], PROXIES, _pairs(claim, [(61.0, 60.0)])).section(claim)


def test_an_ensemble_is_compared_with_the_mean_of_its_own_members() -> None:
    claim = _claim(pair='["both", "a"]', more='[variants.both]\nof = "a"\nmembers = 2')
    every = [_row(claim, "a", seed, top1=value) for seed, value in enumerate((50.0, 60.0, 70.0, 90.0))]
    every += [_row(claim, "both", 0, top1=58.0), _row(claim, "both", 1, top1=84.0)]
    found = _difference(claim, every)
    assert (found.n, found.mean) == (2, pytest.approx((3.0 + 4.0) / 2))


def test_a_number_stands_for_the_second_variant() -> None:
    claim = _claim("[-0.5, 0.5]", '["a", 82.0]')
    found = _difference(claim, [_row(claim, "a", seed, top1=value) for seed, value in enumerate((81.8, 82.1, 82.0))])
    assert (found.n, found.mean) == (3, pytest.approx(-0.1 / 3))


def test_a_run_that_diverged_is_counted_and_not_compared() -> None:
    claim = _claim()
    every = [
        *_pairs(claim, [(61.0, 60.0), (62.0, 61.0)]),
        _row(claim, "a", 2, note="diverged"),
        _row(claim, "b", 2, top1=5),
    ]
    found = _difference(claim, every)
    assert (found.n, found.missing) == (2, 1)
    section = pages.Ledger([claim], PROXIES, every).section(claim)
    assert "| a | 1,000 | 2, 1 diverged | 61.50 |" in section
    assert "| 2, 1 without a pair |" in section


def test_what_is_set_on_one_proxy_only_stands_above_its_rows() -> None:
    claim = claims.claim_named(EXPERIMENTS, "rate_back_up")
    section = pages.Ledger([claim], PROXIES, []).section(claim)
    assert ", 8 epochs. Here continued has `train.epochs=12 train.drop_epochs=(5,7,10,11) " in section
    assert ". Here as_long has `train.epochs=12 train.drop_epochs=(8,11) " in section
    claim = claims.claim_named(EXPERIMENTS, "dropout")
    section = pages.Ledger([claim], PROXIES, []).section(claim)
    assert section.count("Here ") == 1
    assert "Here dropout and no_dropout have `train.epochs=40 " in section


def test_training_errors_are_means_between_evaluations() -> None:
    entries = [{"step": 5, "top1": 40.0}, {"step": 10, "top1": 60.0}, {"step": 10, "eval_top1": 1.0}]
    entries += [{"step": 15, "top1": 90.0}, {"step": 20, "eval_top1": 2.0}]
    assert rows.train_curve(entries) == [(5, 50.0), (15, 10.0)]


def test_an_answer_in_chinese_has_all_differences_of_a_claim() -> None:
    lines = [claim for claim in CLAIMS if claim.name == "two_towers"]
    answer = pages.Ledger(lines, PROXIES, []).answer(lines[0]).splitlines()
    assert answer == [
        "| [015_two_towers](experiments/015_two_towers/README.md) | cifar |", "| --- | --- |",
        "| 两座塔对半个网络 |  |", "| 两座塔对一座宽塔 |  |", "| 有通信对没有 |  |", "| 在 conv3 通信对在 conv4 |  |",
    ]  # fmt: skip
    claim = _claim(more='\n[[comparisons]]\nwhat = "b against a"\ndifference = ["b", "a"]\npredicted = [0.0, inf]\n')
    answer = pages.Ledger([claim], PROXIES, _pairs(claim, [(61.0, 58.0)] * 5)).answer(claim).splitlines()
    assert answer[3] == "| b against a | -3.00 (-3.00 至 -3.00)\uff0cn = 5\uff0c被推翻 |"


def test_a_sentence_says_once_what_all_comparisons_share() -> None:
    claim = _claim(more='\n[[comparisons]]\nwhat = "b against a"\ndifference = ["b", "a"]\npredicted = [0.0, inf]\n')
    every = _pairs(claim, [(61.0, 58.0), (62.0, 59.0)])
    early = pages.Ledger([claim], PROXIES, every).sentence(claim)
    assert early.startswith(
        "On CIFAR-10, n = 2, not all seeds yet: a against b +3.00 (+3.00 to +3.00); b against a -3.00 ("
    )
    every = _pairs(claim, [(61.0, 58.0)] * 5)
    late = pages.Ledger([claim], PROXIES, every).sentence(claim)
    assert late.startswith("On CIFAR-10, n = 5: a against b +3.00 (+3.00 to +3.00), as predicted; b against a ")
    assert ", refuted. [Rows]" in late


def test_the_probes_warning_is_held_against_how_runs_begin() -> None:
    claim = claims.claim_named(EXPERIMENTS, "start")
    begun = [("alexnet", "2.0", "9:40.0"), ("alexnet", "8.0", "9:44.0"), ("paper_start", "1.9", "9:30.0")]
    every = [
        _row(claim, name, seed, probe=said, curve=f"{first} 18:60.0", top1=60.0 + seed)
        for seed, (name, said, first) in enumerate(begun)
    ]
    lines = pages.warned(pages.Ledger([claim], PROXIES, every)).splitlines()[2:]
    assert lines == [
        "| cifar | warns | 1 | 30.0 to 30.0 | 62.0 to 62.0 |", "| cifar | does not | 2 | 40.0 to 44.0 | 60.0 to 61.0 |",
    ]  # fmt: skip
    assert pages.warned(pages.Ledger([], PROXIES, every)) == "No run that the probe looked at has ended yet."


def test_the_towers_specialize_in_as_many_runs_as_the_rows_say() -> None:
    claim = claims.claim_named(EXPERIMENTS, "two_towers")
    seen = [("alexnet", 0, "0.01"), ("alexnet", 1, "0.05"), ("no_communication", 0, "0.04")]
    every = [_row(claim, name, s, top1=60.0, color_0=0.3, color_1=0.5, color_chance=by) for name, s, by in seen]
    ledger = pages.Ledger([claim], PROXIES, [*every, _row(claim, "one_wide_tower", 0, top1=60.0)])
    assert pages.specialization(ledger).splitlines()[2:] == [
        "| cifar | alexnet | 2 | 0.500 | 0.300 | 1 of 2 |", "| cifar | no_communication | 1 | 0.500 | 0.300 | 1 of 1 |",
    ]  # fmt: skip
    assert pages.specialization_in_short(ledger) == (
        "The towers differ in color in 2 of 3 runs on CIFAR-10, of those without communication in 1 of 1; by chance it "
        "would be one in twenty."
    )
    assert pages.specialization_in_short(pages.Ledger([], PROXIES, every)) == "No run with two towers has ended yet."


def test_the_noise_of_a_proxy_is_of_its_rows() -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 58.0), (62.0, 60.0), (63.0, 62.0)])
    filled = pages.noise(pages.Ledger([claim], PROXIES, every))
    # Stds 1 and 2 over seeds, root of 2.5; differences 3, 2, 1; t of 2, 4 and 9 degrees: 4.303, 2.776, 2.262.
    assert filled.splitlines()[2:] == ["| cifar | 6 | 1.58 | 1.00 | 2.5 | 1.2 | 0.7 |"]
    assert pages.noise(pages.Ledger([claim], PROXIES, every[:2])) == "No pairs of runs have ended yet."


def test_a_page_changes_with_its_rows_and_a_strange_mark_is_an_error(tmp_path: Path) -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 60.0), (62.0, 60.5)])
    text = "before\n<!-- rows: x -->\nold\n<!-- /rows -->\nafter\n"
    filled = pages.Ledger([claim], PROXIES, every).filled(text, tmp_path / "p.md")
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert "| a against b | at least 0 | 2 | +1.25 |" in filled
    every[0]["top1"] = "61.2"
    assert "| +1.35 |" in pages.Ledger([claim], PROXIES, every).filled(text, tmp_path / "p.md")
    for mark in ("y", "x at length"):
        with pytest.raises(AlexNetError, match=rf"p\.md has a mark of '{mark}'"):
            pages.Ledger([claim], PROXIES, every).filled(f"<!-- rows: {mark} -->\n<!-- /rows -->", tmp_path / "p.md")


def test_a_claim_says_nothing_of_a_proxy_on_which_only_another_one_ran() -> None:
    """013's network without color noise is, on CIFAR-10, the one that others share."""
    claim = claims.claim_named(EXPERIMENTS, "color_noise")
    shared = [row for row in ROWS if row["what"] == "alexnet" and row["proxy"] == "cifar"]
    assert shared
    assert verdicts.results(claim, PROXIES["cifar"], shared).rows["source"]
    assert pages.Ledger([claim], PROXIES, shared).proxies_of(claim) == []


def test_a_proxy_on_which_two_variants_are_the_same_run_says_nothing() -> None:
    claim = claims.claim_named(EXPERIMENTS, "rate_back_up")  # on CIFAR-10 alone does it change anything
    assert any(row["proxy"] == "photographs" and row["what"] == "alexnet" for row in ROWS)
    assert "photographs" not in pages.Ledger([claim], PROXIES, ROWS).proxies_of(claim)


def test_a_proxy_that_a_recipe_does_not_fit_is_left_out() -> None:
    """cifar10k sets the weight decay of fc4, which only cuda-convnet's networks have."""
    claim = claims.claim_named(EXPERIMENTS, "start")
    others = [dict.fromkeys(rows.COLUMNS, "") | {"proxy": "cifar10k", "what": "cuda_convnet_18pct", "digest": "x"}]
    assert pages.Ledger([claim], PROXIES, others).proxies_of(claim) == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_variants_of_a_claim_are_different_runs(claim: claims.Claim) -> None:
    for name in claim.seeds:
        trained = [plans.variant_run(v, PROXIES[name], 0).digest for v in claim.variants.values() if not v.of]
        assert len(set(trained)) == len(trained)


def test_only_the_ensembles_that_are_missing_need_their_members() -> None:
    claim = claims.claim_named(EXPERIMENTS, "crops_and_ensembles")
    member = plans.variant_run(claim.variants["alexnet"], PROXIES["cifar"], 0).digest
    done = {
        (plans.ensemble_digest(claim.variants[n], claim, PROXIES["cifar"]), "0")
        for n in claim.variants
        if n != "alexnet"
    }
    assert plans.members(claim, PROXIES["cifar"], 2, done) == {(member, str(seed)) for seed in range(5, 10)}
    assert plans.members(claims.claim_named(EXPERIMENTS, "lrn"), PROXIES["cifar"], 5, set()) == set()


def test_a_plot_of_every_kind_of_claim(tmp_path: Path) -> None:
    from alexnet_jax.figures import drawing

    claim = _claim("[2.0, inf]", '["a.steps_to_25", "b.steps_to_25"]')
    every = [
        _row(claim, name, seed, top1=50 + seed, curve="10:40 20:50", train_curve=f"5:90 15:{20 - seed}")
        for name in "ab" for seed in range(3)
    ]  # fmt: skip
    found = [verdicts.results(claim, PROXIES["cifar"], every)]
    drawing.save(plots.plot(found), tmp_path / "p.png", about=plots.digest(found))
    assert _description(tmp_path / "p.png") == plots.digest(found)
    assert plots.digest([verdicts.results(claim, PROXIES["cifar"], every[1:])]) != plots.digest(found)


def test_weights_are_tuned_on_the_other_half_of_the_images() -> None:
    """One member is right on the first images of each half only by chance of the labels it was given."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    right = np.full((400, 10), 0.01)
    right[np.arange(400), labels] = 0.91
    wrong = rng.dirichlet(np.ones(10), 400)
    found = ensembles.cross_tuned([right, wrong], labels)
    assert ensembles.errors(found, labels)[0] <= ensembles.errors(ensembles.mixed([right, wrong], [1, 1]), labels)[0]
    # The weights of the odd images come from the even ones: other labels of the odd ones leave them as they are.
    swapped = labels.copy()
    swapped[1::2] = (labels[1::2] + 5) % 10
    again = ensembles.cross_tuned([right, wrong], swapped)
    assert np.array_equal(again[1::2], found[1::2])


def test_costs_come_from_rows_where_there_are_some() -> None:
    claim = _claim()
    runs = plans.planned(claim, PROXIES["cifar"], 2)
    every = [_row(claim, "a", 5, seconds=600), _row(claim, "b", 5, seconds=1200)]
    assert costs.in_words(runs, every, at_a_time=2)[0].startswith("cifar: 4 runs, about 30 min of steps, by the 2 rows")
    first = costs.in_words(plans.planned(claim, PROXIES["imagenet"], 1), every, at_a_time=2)[0]
    assert first.startswith("imagenet: 2 runs, about ")
    assert "233.2 million images" in first


# ---------------------------------------------------------------- errors of people who write claims


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("recipe = \"half\"", "recip = \"half\""), "variants.b must have recipe"),
        (("cifar = 5", "cifar = 0"), "seeds must be a table"),
        (("[\"a\", \"b\"]", "[\"a\", \"c\"]"), "comparisons.difference names c"),
        (("[\"a\", \"b\"]", "[\"a.speed\", \"b\"]"), "names a.speed"),
        (("[\"a\", \"b\"]", "\"a\""), "must be two variants"),
        (("[0.0, inf]", "[1.0, 0.0]"), r"must be \[low, high\]"),
        (("prediction = \"p\"", ""), "has no prediction"),
        (("core_minutes = 1", "core_minutes = \"1\""), "core_minutes must be"),
        (("core_minutes = 1", "core_minutes = 1\nchinese = [\"a\"]"), "chinese must be two texts"),
        (("core_minutes = 1", "core_minutes = 1\nchinese = [\"a\", \"b\", \"c\"]"), "one more for each other"),
        (("[\"a\", \"b\"]", "[\"a.steps_to_25\", \"b.steps_to_25\"]"), "is a ratio"),
    ],
)  # fmt: skip
def test_a_wrong_claim_is_one_sentence(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    path = tmp_path / claims.FILE
    path.write_text(_TEXT)
    claims.read_claim(path)
    path.write_text(_TEXT.replace(*change))
    assert path.read_text() != _TEXT
    with pytest.raises(AlexNetError, match=words):
        claims.read_claim(path)


# ---------------------------------------------------------------- runs that are killed

_TINY = """
[tiny]
what = "digits, tiny"
where = "on digits"
data = "digits"
classes = 10
images = 1498
width = 0.0625
cores = 1
set = [
  "data.resize_pixels=67", "data.crop_pixels=67", "train.steps=40", "log.every_steps=5", "checkpoint.every_steps=5",
  "checkpoint.keep=1", "precision=float32", "eval.views=center",
]
"""
_TOY = f"""{_HEAD}tiny = 1
[variants.alexnet]
recipe = "alexnet"
[variants.too_fast]
recipe = "alexnet"
set = ["train.learning_rate=1e9"]
[[comparisons]]
what = "a against b"
difference = ["alexnet", "too_fast"]
predicted = [0.0, inf]
"""
# The checkout of whoever runs the tests may have changes that are not committed.
_DRIVER = """
import sys
from experiments.ledger import runner
runner.commit_of = lambda root: sys.argv[1] * 40
from alexnet_jax.cli import border
sys.argv[1:] = ["run", "--experiments", sys.argv[2], "--workdirs", sys.argv[2] + "/runs"]
border.program("experiments.ledger.command")
"""


def _harness(folder: Path, commit: str = "c") -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, commit, str(folder)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _folder(path: Path) -> Path:
    (path / "001_toy").mkdir(parents=True)
    (path / claims.PROXIES).write_text(_TINY)
    (path / "001_toy" / claims.FILE).write_text(_TOY)
    return path


def _results(folder: Path) -> list[dict[str, str]]:
    found = list(csv.DictReader(io.StringIO((folder / rows.FILE).read_text())))
    return sorted(
        [{k: v for k, v in row.items() if k not in ("seconds", "date")} for row in found],
        key=lambda row: (row["digest"], row["seed"]),
    )


def test_a_harness_killed_at_random_gives_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Killed twice, the second time with a run that outlives it; what diverges has a row as well."""
    quiet, killed = _folder(tmp_path / "quiet"), _folder(tmp_path / "killed")
    whole = _harness(quiet)
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, said
    expected = _results(quiet)
    assert [bool(row["note"]) for row in expected].count(True) == 1
    assert all(row["curve"] for row in expected if not row["note"])

    rng = random.Random(1)
    for number in (signal.SIGTERM, signal.SIGKILL):
        harness = _harness(killed)
        begin, wait = time.monotonic(), 4.0 + 8.0 * rng.random()
        while harness.poll() is None and time.monotonic() - begin < wait:
            time.sleep(0.05)
        harness.send_signal(number)
        harness.communicate(timeout=120)
    last = _harness(killed)
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert _results(killed) == expected
    assert not list((killed / "runs").glob("*/checkpoints")), "weights that nobody needs are left"

    third = _harness(killed)
    said, _ = third.communicate(timeout=120)
    assert "2 runs, 2 of them have a row; 0 to run" in said


def test_a_run_begun_by_other_code_starts_anew(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "moved")
    run = plans.variant_run(claims.Variant("alexnet", "alexnet"), claims.read_proxies(folder)["tiny"], 0)
    workdir = tmp_path / run.name
    workdir.mkdir()
    (workdir / "commit.txt").write_text("d" * 40 + "\n")
    (workdir / "metrics.jsonl").write_text("left by other code\n")
    started = runner._start(run, tmp_path, (), "c" * 40, ())
    assert started is not None
    assert runner._start(run, tmp_path, (), "c" * 40, ()) is None, "two processes train in one workdir"
    assert not (workdir / "metrics.jsonl").exists() or "other code" not in (workdir / "metrics.jsonl").read_text()
    assert (workdir / "commit.txt").read_text() == "c" * 40 + "\n"
    runner._stop([started])
