"""The ledger: what its pages say is what its rows say, and the rows are of the runs that were predicted."""

import dataclasses
import functools
import itertools
import math
import random
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import builder, config as configs, ensembles
from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import placement
from experiments.ledger import claims, costs, pages, plans, plots, rows, verdicts

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
CLAIMS = claims.read_claims(EXPERIMENTS)
PROXIES = claims.read_proxies(EXPERIMENTS)
ROWS = rows.read(EXPERIMENTS)


def _named(name: str) -> claims.Claim:
    return claims.claim_named(CLAIMS, name)


# ---------------------------------------------------------------- the ledger that is in the repository


def test_every_page_says_what_the_rows_say() -> None:
    ledger = pages.Ledger(CLAIMS, PROXIES, ROWS)
    quoting = pages.pages_of(EXPERIMENTS)
    assert {claim.folder / "README.md" for claim in CLAIMS} <= set(quoting)
    for path in quoting:
        text = path.read_text(encoding="utf-8")
        assert ledger.fill(text, path) == text, f"{path}: run python -m experiments.ledger report"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_plot_is_of_the_rows(claim: claims.Claim) -> None:
    ledger = pages.Ledger(CLAIMS, PROXIES, ROWS)
    results = [ledger.results(claim, name) for name in ledger.proxies_of(claim)]
    path = claim.folder / pages.PLOT
    assert path.exists() == bool(results)
    assert not results or _description(path) == plots.digest(results), "run python -m experiments.ledger report"


def _description(path: Path) -> str:
    with Image.open(path) as picture:
        return str(picture.info["Description"])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_page_says_what_it_does_not_show(claim: claims.Claim) -> None:
    assert "**What this does not show.**" in (claim.folder / "README.md").read_text(encoding="utf-8")


def test_digest_of_every_row_is_that_of_its_config_today() -> None:
    """Of the config that a claim's recipe, proxy and overrides make now; so no row of an older variant is left, too."""
    wanted = {(run.digest, str(run.seed)): run.what for claim in CLAIMS for run in _runs(claim)}
    for claim in CLAIMS:
        for variant in (variant for variant in claim.variants.values() if variant.of):
            for proxy, seeds in claim.seeds.items():
                key = plans.ensemble_digest(variant, claim, PROXIES[proxy])
                wanted |= {(key, str(seed)): "" for seed in range(seeds)}
    assert len(ROWS) == len({(row["digest"], row["seed"]) for row in ROWS}) == 310
    for row in ROWS:
        assert wanted[row["digest"], row["seed"]] in row["what"]


def _runs(claim: claims.Claim) -> list[plans.Planned]:
    return [run for name, seeds in claim.seeds.items() for run in plans.planned(claim, PROXIES[name], seeds)]


@functools.cache
def _at(commit: str, path: str) -> str | None:
    """A file as it was at a commit; None where it was not there, or where this checkout does not reach so far back."""
    done = subprocess.run(["git", "-C", str(ROOT), "show", f"{commit}:{path}"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def _claim_at(commit: str, claim: claims.Claim) -> dict[str, Any] | None:
    text = _at(commit, f"experiments/{claim.folder.name}/{claims.FILE}")
    return None if text is None else _promised(text)


def _promised(text: str) -> dict[str, Any]:
    table = tomllib.loads(text)
    return {part: table.get(part) for part in ("question", "prediction", "variants", "comparisons")}


@pytest.fixture
def _whole_history() -> None:
    if any(_at(commit, "README.md") is None for commit in {"HEAD", *(row["commit"] for row in ROWS)}):
        pytest.skip("no git checkout, or a shallow one: its history says what was predicted when")


@pytest.mark.usefixtures("_whole_history")
def test_every_row_was_predicted_by_a_claim_at_its_commit() -> None:
    """With the same prediction as now. A run that several claims share is older than some of them."""
    keys = {claim.name: {run.key for run in _runs(claim)} | _ensemble_keys(claim) for claim in CLAIMS}
    now = {claim.name: _promised((claim.folder / claims.FILE).read_text()) for claim in CLAIMS}
    for row in ROWS:
        of = [claim for claim in CLAIMS if (row["digest"], row["seed"]) in keys[claim.name]]
        then = {claim.name: promised for claim in of if (promised := _claim_at(row["commit"], claim)) is not None}
        assert then, f"no claim at {row['commit']} predicted anything of {row['what']}"
        assert then == {name: now[name] for name in then}


def _ensemble_keys(claim: claims.Claim) -> set[tuple[str, str]]:
    ensembles_ = [variant for variant in claim.variants.values() if variant.of]
    return {
        (plans.ensemble_digest(variant, claim, PROXIES[proxy]), str(seed))
        for variant in ensembles_ for proxy, seeds in claim.seeds.items() for seed in range(seeds)
    }  # fmt: skip


@pytest.mark.usefixtures("_whole_history")
def test_claim_whose_variants_differed_before_it_says_what_was_known() -> None:
    """One older variant, such as net 145 itself, tells nothing of a difference; two do."""
    for claim in CLAIMS:
        for proxy in claim.seeds:
            digests = {plans.variant_run(v, PROXIES[proxy], 0).digest for v in claim.variants.values() if not v.of}
            mine = [row for row in ROWS if row["digest"] in digests]
            older = {row["digest"] for row in mine if _claim_at(row["commit"], claim) is None}
            assert len(older) < 2 or claim.known, claim.name
    assert {claim.folder.name[:3] for claim in CLAIMS if claim.known} == {"021", "024", "026"}


# ---------------------------------------------------------------- from a claim to its runs


@pytest.mark.parametrize("recipe", ["alexnet", "no_conv5", "nonoverlap"])
def test_fan_in_is_that_of_the_live_model(recipe: str) -> None:
    config = configs.load_recipe(f"{recipe}:cifar10", ["data.crop_pixels=131"])
    params = placement.variables(builder.model(config, classes=10), 131)["params"]
    live = {name: math.prod(params[name]["kernel"].shape[1:-1]) for name in config.model.layers}
    assert plans._fan_in(config, 131) == live


def test_reduced_network_keeps_the_spread_of_its_signal() -> None:
    """std times the root of the inputs is what it is at full size, in every layer."""
    run = plans.variant_run(claims.Variant("alexnet", "alexnet"), PROXIES["cifar"], 0)
    small, full = configs.load_recipe(run.recipe, run.overrides), configs.load_recipe("alexnet:cifar10")
    assert small.model.conv2.features == full.model.conv2.features * PROXIES["cifar"].width
    spread = [
        {name: c.model[name].init_std * math.sqrt(inputs) for name, inputs in plans._fan_in(c, pixels).items()}
        for c, pixels in ((small, small.data.crop_pixels), (full, full.data.crop_pixels))
    ]
    assert spread[0] == pytest.approx(spread[1], rel=1e-3)


def test_digest_depends_on_what_decides_the_run_alone() -> None:
    def digest(*overrides: str) -> str:
        return plans.digest(configs.load_recipe("alexnet:digits", overrides))

    assert digest() == digest("train.seed=3", "data.data_dir=/elsewhere", "data.threads=1")
    assert len({digest(), digest("train.learning_rate=0.02"), digest("model.conv1.post_ops=relu")}) == 3
    # Fields that came later, at what runs did without them, and at another value.
    assert digest() == digest("train.rollbacks=0", "log.track=")
    assert digest() != digest("train.rollbacks=1")


def test_last_override_of_a_field_counts() -> None:
    """A variant's own epochs are set over those of the proxy, in the commands of the runs too."""
    run = plans.variant_run(_named("dropout").variants["dropout"], PROXIES["photographs"], 0)
    assert [text for text in run.overrides if text.startswith("train.epochs=")] == ["train.epochs=40"]
    assert configs.load_recipe(run.recipe, run.overrides).train.epochs == 40


def test_run_is_the_planned_one_with_the_statistics_of_its_data() -> None:
    """A folder of pictures has statistics of its own, and the config of a run on it has them."""
    run = plans.variant_run(_named("color_noise").variants["source"], PROXIES["photographs"], 2)

    def is_of(planned: plans.Planned, *overrides: str) -> bool:
        from_data = ["train.seed=2", "data.mean=(120.0,115.0,110.0)", "data.color_std=(3.0,2.0,1.0)"]
        from_data += ["data.color_vectors=((1.0,0.0,0.0),(0.0,1.0,0.0),(0.0,0.0,1.0))"]
        fields = {text.partition("=")[0]: text for text in (*run.overrides, *from_data, *overrides)}
        return plans.is_of(configs.load_recipe(run.recipe, list(fields.values())), planned)

    assert is_of(run)
    assert not is_of(run, "train.seed=1")
    assert not is_of(run, "data.color_noise=0.2")
    assert not is_of(dataclasses.replace(run, overrides=(*run.overrides, "data.mean=(1.0,2.0,3.0)")))


def test_seeds_of_a_claim_come_in_whole_pairs() -> None:
    runs = plans.planned(_named("pooling"), PROXIES["cifar"], 2)
    assert [run.seed for run in runs] == [0] * 3 + [1] * 3
    assert len({run.digest for run in runs}) == 3


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_variants_of_a_claim_are_different_runs(claim: claims.Claim) -> None:
    for name in claim.seeds:
        trained = [plans.variant_run(v, PROXIES[name], 0).digest for v in claim.variants.values() if not v.of]
        assert len(set(trained)) == len(trained)


def test_ensembles_without_a_row_need_their_members() -> None:
    claim, cifar = _named("crops_and_ensembles"), PROXIES["cifar"]
    assert [run.seed for run in plans.planned(claim, cifar, 3)] == list(range(15))
    member = plans.variant_run(claim.variants["alexnet"], cifar, 0).digest
    done = {(plans.ensemble_digest(variant, claim, cifar), "0") for variant in claim.variants.values() if variant.of}
    assert plans.members(claim, cifar, 2, done) == {(member, str(seed)) for seed in range(5, 10)}
    assert plans.members(_named("lrn"), cifar, 5, set()) == set()


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
_REVERSE = """
[[comparisons]]
what = "b against a"
difference = ["b", "a"]
predicted = [0.0, inf]
"""


def _claim(*changes: tuple[str, str], more: str = "") -> claims.Claim:
    text = _TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return claims.parse_claim(tomllib.loads(text + more), Path("experiments/001_x/claim.toml"))


def _predicting(interval: str) -> claims.Claim:
    return _claim(("[0.0, inf]", interval))


def _comparing(pair: str, interval: str = "[0.0, inf]", more: str = "") -> claims.Claim:
    return _claim(('["a", "b"]', pair), ("[0.0, inf]", interval), more=more)


def _row(claim: claims.Claim, variant: str, seed: int, **values: Any) -> rows.Row:
    of = claim.variants[variant]
    key = (
        plans.ensemble_digest(of, claim, PROXIES["cifar"])
        if of.of
        else plans.variant_run(of, PROXIES["cifar"], 0).digest
    )
    row = {"digest": key, "seed": seed, "proxy": "cifar", "parameters": 1000, "seconds": 60, "commit": "c" * 40}
    return dict.fromkeys(rows.COLUMNS, "") | {name: str(value) for name, value in (row | values).items()}


def _pairs(claim: claims.Claim, values: list[tuple[float, float]]) -> list[rows.Row]:
    return [_row(claim, name, s, top1=v) for s, pair in enumerate(values) for name, v in zip("ab", pair, strict=True)]


def _difference(claim: claims.Claim, every: list[rows.Row]) -> verdicts.Difference:
    return verdicts.differences(verdicts.results(claim, PROXIES["cifar"], every))[0]


def _section(claim: claims.Claim, every: list[rows.Row]) -> str:
    return pages.section(pages.Ledger([claim], PROXIES, every), claim)


def test_difference_is_paired_by_seed_and_has_students_interval() -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 60.0), (72.0, 70.0), (53.0, 50.0)])
    random.Random(0).shuffle(every)
    alone = [_row(claim, "b", 3, top1=1.0), _row(claim, "a", 4, top1=99.0)]  # seeds without their pairs
    d = _difference(claim, [*every, *alone])
    # 4.303: t of 2 degrees of freedom at 97.5 %, from a printed table.
    assert (d.n, d.mean) == (3, 2.0)
    assert d.high - d.mean == pytest.approx(4.303 * 1.0 / math.sqrt(3), rel=1e-3)
    assert d.low == pytest.approx(2 * d.mean - d.high)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ("[0.0, inf]", "as predicted"), ("[1.0, 3.0]", "as predicted"), ("[2.0, inf]", "undecided"),
        ("[-inf, 2.0]", "undecided"), ("[3.0, inf]", "refuted"), ("[-inf, 1.0]", "refuted"), ("[-1.0, 1.0]", "refuted"),
    ],
)  # fmt: skip
def test_verdict_is_by_the_interval(interval: str, verdict: str) -> None:
    claim = _predicting(interval)
    every = _pairs(claim, [(62.0 + noise, 60.0) for noise in (-0.3, -0.1, 0.0, 0.1, 0.3)])
    assert _difference(claim, every).verdict == verdict
    assert _difference(claim, every[:-2]).verdict == "not all seeds yet"
    assert _difference(claim, []).verdict == "no runs yet"


def test_steps_are_compared_as_ratios_of_the_runs_that_get_there() -> None:
    claim = _comparing('["a.steps_to_25", "b.steps_to_25"]', "[2.0, inf]")
    curves = {"a": "100:80 700:20", "b": "100:35 200:15"}  # 25 % at 650 and at 150
    every = [_row(claim, name, seed, train_curve=text) for name, text in curves.items() for seed in range(3)]
    every += [_row(claim, "a", 3, train_curve="100:80 700:30"), _row(claim, "b", 3, train_curve=curves["b"])]
    d = _difference(claim, every)
    assert (d.n, d.missing) == (3, 1)
    assert d.mean == pytest.approx(650 / 150)
    section = _section(claim, [row | {"top1": "50.0"} for row in every])
    assert "| a | 1,000 | 4 | 50.00 | 0.00 |  | 22.50 | 3 of 4 came there |" in section
    assert "| b | 1,000 | 4 | 50.00 | 0.00 |  | 15.00 | 150 |" in section
    assert "steps to 25 %" not in _section(claim, _pairs(claim, [(61.0, 60.0)]))


def test_ensemble_is_compared_with_the_mean_of_its_own_members() -> None:
    claim = _comparing('["both", "a"]', more='[variants.both]\nof = "a"\nmembers = 2')
    every = [_row(claim, "a", seed, top1=value) for seed, value in enumerate((50.0, 60.0, 70.0, 90.0))]
    every += [_row(claim, "both", 0, top1=58.0), _row(claim, "both", 1, top1=84.0)]
    d = _difference(claim, every)
    assert (d.n, d.mean) == (2, pytest.approx((3.0 + 4.0) / 2))


def test_number_stands_for_the_second_variant() -> None:
    claim = _comparing('["a", 82.0]', "[-0.5, 0.5]")
    d = _difference(claim, [_row(claim, "a", seed, top1=value) for seed, value in enumerate((81.8, 82.1, 82.0))])
    assert (d.n, d.mean) == (3, pytest.approx(-0.1 / 3))


def test_diverged_run_is_counted_and_not_compared() -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 60.0), (62.0, 61.0)])
    every += [_row(claim, "a", 2, note="diverged"), _row(claim, "b", 2, top1=5)]
    d = _difference(claim, every)
    assert (d.n, d.missing) == (2, 1)
    section = _section(claim, every)
    assert "| a | 1,000 | 2, 1 diverged | 61.50 |" in section
    assert "| 2, 1 without a pair |" in section


def test_training_errors_are_means_between_evaluations() -> None:
    entries = [{"step": 5, "top1": 40.0}, {"step": 10, "top1": 60.0}, {"step": 10, "eval_top1": 1.0}]
    entries += [{"step": 15, "top1": 90.0}, {"step": 20, "eval_top1": 2.0}]
    assert rows.train_curve(entries) == [(5, 50.0), (15, 10.0)]


def test_ensemble_weights_are_tuned_on_the_other_half_of_the_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    good = np.full((400, 10), 0.01)
    good[np.arange(400), labels] = 0.91
    bad = rng.dirichlet(np.ones(10), 400)
    tuned = rows.cross_tuned([good, bad], labels)
    assert ensembles.errors(tuned, labels)[0] <= ensembles.errors(ensembles.mixed([good, bad], [1, 1]), labels)[0]
    # The weights of the odd images come from the even ones: other labels of the odd ones leave them as they are.
    swapped = labels.copy()
    swapped[1::2] = (labels[1::2] + 5) % 10
    assert np.array_equal(rows.cross_tuned([good, bad], swapped)[1::2], tuned[1::2])


# ---------------------------------------------------------------- what the pages say


def test_ledger_line_counts_the_verdicts_on_all_proxies() -> None:
    claim = _claim(("cifar = 5", "cifar = 5\nphotographs = 5"))
    table = pages.overview(pages.Ledger([claim], PROXIES, _pairs(claim, [(62.0, 60.0)] * 5)))
    assert "| +2.00 (+2.00 to +2.00) | 5 | 1 as predicted, 1 no runs yet |" in table


def test_section_says_what_variants_set_on_one_proxy_only() -> None:
    section = _section(_named("rate_back_up"), [])
    assert ", 8 epochs. Here continued has `train.epochs=12 train.drop_epochs=(5,7,10,11) " in section
    assert ". Here as_long has `train.epochs=12 train.drop_epochs=(8,11) " in section
    section = _section(_named("dropout"), [])
    assert section.count("Here ") == 1
    assert "Here dropout and no_dropout have `train.epochs=40 " in section


def test_section_says_what_was_known() -> None:
    claim = _claim(("prediction", 'known = "k"\nprediction'))
    assert "**Known** when this was predicted. k\n\n**Predicted.** p" in _section(claim, [])
    assert "**Known**" not in _section(_claim(), [])
    assert pages.known(pages.Ledger([claim, _claim()], PROXIES, [])) == "None."  # of two of one name the last
    assert pages.known(pages.Ledger([claim], PROXIES, [])) == "* [001](001_x/README.md): k"


def test_chinese_table_has_all_differences_of_a_claim() -> None:
    claim = _named("two_towers")
    assert pages.chinese(pages.Ledger([claim], PROXIES, []), claim).splitlines() == [
        "| [015_two_towers](experiments/015_two_towers/README.md) | cifar |", "| --- | --- |",
        "| 两座塔对半个网络 |  |", "| 两座塔对一座宽塔 |  |", "| 有通信对没有 |  |", "| 在 conv3 通信对在 conv4 |  |",
    ]  # fmt: skip
    claim = _claim(more=_REVERSE)
    ledger = pages.Ledger([claim], PROXIES, _pairs(claim, [(61.0, 58.0)] * 5))
    assert pages.chinese(ledger, claim).splitlines()[3] == (
        "| b against a | -3.00 (-3.00 至 -3.00)\uff0cn = 5\uff0c被推翻 |"
    )


def test_sentence_says_once_what_all_comparisons_share() -> None:
    claim = _claim(more=_REVERSE)

    def sentence(values: list[tuple[float, float]]) -> str:
        return pages.sentence(pages.Ledger([claim], PROXIES, _pairs(claim, values)), claim)

    assert sentence([(61.0, 58.0), (62.0, 59.0)]).startswith(
        "On CIFAR-10, n = 2, not all seeds yet: a against b +3.00 (+3.00 to +3.00); b against a -3.00 ("
    )
    late = sentence([(61.0, 58.0)] * 5)
    assert late.startswith("On CIFAR-10, n = 5: a against b +3.00 (+3.00 to +3.00), as predicted; b against a ")
    assert ", refuted. [Rows]" in late


def test_probe_warnings_stand_beside_how_runs_begin() -> None:
    claim = _named("start")
    begun = [("alexnet", "2.0", "9:40.0"), ("alexnet", "8.0", "9:44.0"), ("paper_start", "1.9", "9:30.0")]
    every = [
        _row(claim, name, seed, probe=percent, curve=f"{first} 18:60.0", top1=60.0 + seed)
        for seed, (name, percent, first) in enumerate(begun)
    ]
    assert pages.probe_warnings(pages.Ledger([claim], PROXIES, every)).splitlines()[2:] == [
        "| cifar | warns | 1 | 30.0 to 30.0 | 62.0 to 62.0 |", "| cifar | does not | 2 | 40.0 to 44.0 | 60.0 to 61.0 |",
    ]  # fmt: skip
    assert pages.probe_warnings(pages.Ledger([], PROXIES, every)) == "No run that the probe looked at has ended yet."


def test_specialization_counts_the_runs_whose_towers_differ() -> None:
    claim = _named("two_towers")
    runs = [("alexnet", 0, "0.01"), ("alexnet", 1, "0.05"), ("no_communication", 0, "0.04")]
    every = [_row(claim, name, s, top1=60.0, color_0=0.3, color_1=0.5, color_chance=by) for name, s, by in runs]
    ledger = pages.Ledger([claim], PROXIES, [*every, _row(claim, "one_wide_tower", 0, top1=60.0)])
    assert pages.specialization(ledger).splitlines()[2:] == [
        "| cifar | alexnet | 2 | 0.500 | 0.300 | 1 of 2 |", "| cifar | no_communication | 1 | 0.500 | 0.300 | 1 of 1 |",
    ]  # fmt: skip
    assert pages.specialization_in_short(ledger) == (
        "The towers differ in color in 2 of 3 runs on CIFAR-10, of those without communication in 1 of 1; by chance it "
        "would be one in twenty."
    )
    assert pages.specialization_in_short(pages.Ledger([], PROXIES, every)) == "No run with two towers has ended yet."


def test_noise_of_a_proxy_is_of_its_rows() -> None:
    claim = _claim()
    every = _pairs(claim, [(61.0, 58.0), (62.0, 60.0), (63.0, 62.0)])
    # Stds 1 and 2 over seeds, root of 2.5; differences 3, 2, 1; t of 2, 4 and 9 degrees: 4.303, 2.776, 2.262.
    assert pages.noise(pages.Ledger([claim], PROXIES, every)).splitlines()[2:] == [
        "| cifar | 6 | 1.58 | 1.00 | 2.5 | 1.2 | 0.7 |"
    ]
    assert pages.noise(pages.Ledger([claim], PROXIES, every[:2])) == "No pairs of runs have ended yet."


def test_page_is_filled_from_its_rows_and_nothing_else(tmp_path: Path) -> None:
    claim, page = _claim(), tmp_path / "p.md"
    every = _pairs(claim, [(61.0, 60.0), (62.0, 60.5)])
    text = "before\n<!-- rows: x -->\nold\n<!-- /rows -->\nafter\n"
    filled = pages.Ledger([claim], PROXIES, every).fill(text, page)
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert "| a against b | at least 0 | 2 | +1.25 |" in filled
    every[0]["top1"] = "61.2"
    assert "| +1.35 |" in pages.Ledger([claim], PROXIES, every).fill(text, page)
    for mark in ("y", "x at length"):
        with pytest.raises(AlexNetError, match=rf"p\.md .*{mark!r}"):
            pages.Ledger([claim], PROXIES, every).fill(f"<!-- rows: {mark} -->\n<!-- /rows -->", page)


def test_claim_says_nothing_of_proxies_that_tell_nothing_of_it() -> None:
    # 013's network without color noise is, on CIFAR-10, the one that others share.
    noise, shared = _named("color_noise"), [row for row in ROWS if row["what"] == "alexnet" and row["proxy"] == "cifar"]
    assert verdicts.results(noise, PROXIES["cifar"], shared).rows["source"]
    assert pages.Ledger([noise], PROXIES, shared).proxies_of(noise) == []
    # 020 changes nothing but on CIFAR-10: elsewhere its variants are one run.
    back_up = _named("rate_back_up")
    assert any(row["proxy"] == "photographs" and row["what"] == "alexnet" for row in ROWS)
    assert "photographs" not in pages.Ledger([back_up], PROXIES, ROWS).proxies_of(back_up)
    # cifar10k sets the weight decay of fc4, which only cuda-convnet's networks have.
    start, row = _named("start"), {"proxy": "cifar10k", "what": "cuda_convnet_18pct", "digest": "x"}
    assert pages.Ledger([start], PROXIES, [dict.fromkeys(rows.COLUMNS, "") | row]).proxies_of(start) == []


def test_plot_file_has_the_digest_of_its_rows(tmp_path: Path) -> None:
    from alexnet_jax.figures import drawing

    claim = _comparing('["a.steps_to_25", "b.steps_to_25"]', "[2.0, inf]")
    every = [
        _row(claim, name, seed, top1=50 + seed, curve="10:40 20:50", train_curve=f"5:90 15:{20 - seed}")
        for name, seed in itertools.product("ab", range(3))
    ]
    results = [verdicts.results(claim, PROXIES["cifar"], every)]
    drawing.save(plots.plot(results), tmp_path / "p.png", about=plots.digest(results))
    assert _description(tmp_path / "p.png") == plots.digest(results)
    assert plots.digest([verdicts.results(claim, PROXIES["cifar"], every[1:])]) != plots.digest(results)


def test_costs_come_from_rows_where_there_are_some() -> None:
    claim = _claim()
    every = [_row(claim, "a", 5, seconds=600), _row(claim, "b", 5, seconds=1200)]
    line = costs.estimates(plans.planned(claim, PROXIES["cifar"], 2), every, at_a_time=2)[0]
    assert line.startswith("cifar: 4 runs, about 30 min of steps, by the 2 rows")
    line = costs.estimates(plans.planned(claim, PROXIES["imagenet"], 1), every, at_a_time=2)[0]
    assert line.startswith("imagenet: 2 runs, about ")
    assert "233.2 million images" in line


# ---------------------------------------------------------------- errors of people who write claims


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("recipe = \"half\"", "recip = \"half\""), "variants.b"),
        (("cifar = 5", "cifar = 0"), "seeds"),
        (("[\"a\", \"b\"]", "[\"a\", \"c\"]"), "comparisons.difference"),
        (("[\"a\", \"b\"]", "[\"a.speed\", \"b\"]"), "comparisons.difference"),
        (("[\"a\", \"b\"]", "\"a\""), "comparisons.difference"),
        (("[0.0, inf]", "[1.0, 0.0]"), "comparisons.predicted"),
        (("[\"a\", \"b\"]", "[\"a.steps_to_25\", \"b.steps_to_25\"]"), "comparisons.predicted"),
        (("prediction = \"p\"", ""), "prediction"),
        (("core_minutes = 1", "core_minutes = \"1\""), "core_minutes"),
        (("core_minutes = 1", "core_minutes = 1\nchinese = [\"a\", \"b\"]"), "chinese"),
    ],
)  # fmt: skip
def test_wrong_claim_is_an_error_of_its_field(change: tuple[str, str], field: str) -> None:
    _claim()
    with pytest.raises(AlexNetError, match=rf"^experiments/001_x/claim\.toml.* {field}\b|^[^ ]+: {field}\b"):
        _claim(change)
