"""The books of the comparison of searches: what is charged, cut, gone on with, judged and written."""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_analysis.reconstruction import attach
from sae_analysis.sae_formats import load_sae
from sae_analysis.synth_activations import Vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import synthetic
from synthetic_methods import FLOORS, OPPONENTS, Circumstances, tuning_grid
from synthetic_subject import CE_LIMITS, History, Judge, Meter, Run, Trace
from synthetic_table import (
    OURS,
    interval,
    paired,
    put_between,
    ratio,
    report,
    seconds_to,
    seed_to_seed,
    speed,
    win_rate,
)

LENGTH = 6


@pytest.fixture(scope="module", params=[False, True], ids=["no BOS", "BOS"])
def site(request, model, bos_model, sae_folder):
    return attach(load_sae(sae_folder), bos_model if request.param else model)


@pytest.fixture(scope="module")
def vocabulary(model):
    return Vocabulary(model.tokens, model.d_vocab)


def drawn(vocabulary, count=7, seed=0):
    picks = torch.randint(len(vocabulary), (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return vocabulary.ids[picks]


def trace_of(values, ids=None):
    count = len(values)
    ids = np.arange(count)[:, None].repeat(LENGTH, 1) if ids is None else ids
    steps = np.arange(1.0, count + 1)
    return Trace(ids=ids, values=np.array(values, float), tokens=LENGTH * steps, seconds=steps, flops=steps)


def row(method, feature, value, *, seed=0, budget=20, curve=(), fluent=None):
    found = {"value": value, "valid": True}
    return {"method": method, "feature": feature, "seed": seed, "budget": budget, "best": found, "raw": found} | {
        "fluent": fluent or {},
        "curve": list(curve),
        "seconds": 1.0,
        "flops": 1e9,
    }


# --- what is charged -----------------------------------------------------------------------------------------------


def test_a_token_forward_is_one_backward_too_three_and_bos_none(site, vocabulary):
    run = Run(site, vocabulary, 3, budget=1000)
    ids = drawn(vocabulary)
    with run.meter:
        values = run.values(ids)
        assert run.meter.tokens == 7 * LENGTH
        stopped = run.meter.flops
        run.slopes(ids)
        assert run.meter.tokens == 4 * 7 * LENGTH
        assert run.meter.flops == 4 * stopped
        whole, logits = run.whole(site.model.embed(ids))
        assert run.meter.tokens == 5 * 7 * LENGTH
        assert run.meter.flops > 5 * stopped, "all blocks, and the logits"
    run.values(ids)
    assert run.meter.tokens == 5 * 7 * LENGTH, "nothing is charged outside"
    torch.testing.assert_close(whole, values, rtol=1e-5, atol=1e-6)
    assert logits.shape == (7, LENGTH, site.model.d_vocab)


def test_what_is_remembered_is_not_charged_again_and_every_call_is_stamped(site, vocabulary):
    from transformers import DynamicCache

    ids = drawn(vocabulary, 4)
    run = Run(site, vocabulary, 3, budget=1000)
    with Meter(site) as meter:
        with run.meter:
            run.values(ids)
            run.slopes(ids)
        memory = DynamicCache()
        ids[1], ids[3] = ids[0], ids[2]
        ids[:, 2:] = drawn(vocabulary, 4, seed=1)[:, 2:]
        with torch.no_grad():
            site.model.module(input_ids=run.scorer.with_bos(ids[::2, :2]), past_key_values=memory)
            memory.batch_repeat_interleave(2)
            site.model.module(input_ids=ids[:, 2:], past_key_values=memory)
    costs = [4 * LENGTH, 3 * 4 * LENGTH, 2 * 2, 4 * (LENGTH - 2)]
    tokens, seconds = zip(*meter.stamps, strict=True)
    assert list(tokens) == [0, *itertools.accumulate(costs)]
    assert list(seconds) == sorted(seconds)


def test_slopes_are_finite_differences(site, vocabulary):
    run = Run(site, vocabulary, 3, budget=1000)
    ids = drawn(vocabulary, 2)
    with run.meter:
        slopes = run.slopes(ids)
        base, step = site.model.embed(ids), 1e-3
        for place, token in ((1, 5), (LENGTH - 1, 9)):
            moved = base.clone()
            moved[:, place] += step * run.allowed[token]
            change = (run.whole(moved)[0] - run.whole(base)[0]) / step
            torch.testing.assert_close(change, slopes[:, place, token], rtol=0.05, atol=0.02)


# --- what a budget pays for ----------------------------------------------------------------------------------------


def test_a_budget_cuts_the_history_inside_a_batch():
    history = History()
    history.add(np.zeros((4, 3), int), np.arange(4.0), tokens=(0, 12), seconds=1.0, flops=10.0)
    # Nine tokens in between went into a gradient.
    history.add(np.ones((4, 3), int), np.arange(4.0, 8.0), tokens=(21, 33), seconds=2.0, flops=20.0)
    assert history.until(12).values.tolist() == [0, 1, 2, 3]
    assert history.until(29).values.tolist() == [0, 1, 2, 3, 4, 5]
    assert history.until(29).tokens.tolist() == [3, 6, 9, 12, 24, 27]
    assert history.until(1000).seconds.tolist() == [1] * 4 + [2] * 4


@pytest.mark.parametrize("name", FLOORS)
def test_floors_spend_their_budget_and_know_no_other_tokens(site, vocabulary, name):
    run = Run(site, vocabulary, 3, budget=2000)
    with run.meter:
        FLOORS[name](run, Circumstances(seed=0, seq_len=LENGTH, scale=1.0))
    trace = run.history.until(2000)
    assert set(trace.ids.ravel().tolist()) <= set(vocabulary.ids.tolist())
    assert trace.tokens[-1] <= 2000
    if name != synthetic.SWEEP:
        assert len(trace.ids) == 2000 // LENGTH
    assert trace.values.max() > 0


# --- judging -------------------------------------------------------------------------------------------------------


def test_only_text_counts_and_the_best_is_scored_again(site, vocabulary):
    judge = Judge(site, vocabulary, scan=100)
    [good] = site.model.tokens.tokenize(["the sea of the old ship and the crew"])
    good = np.array(good[:LENGTH])
    [a, b] = (site.model.tokens.tokenize([part])[0] for part in ("sh", "ip"))
    bad = np.array([*a, *b, *good][:LENGTH])
    assert judge.are_text(np.stack([good, bad])).tolist() == [True, False]
    run = Run(site, vocabulary, 3, budget=1000)
    with run.meter:
        [value] = run.values(torch.from_numpy(good[None])).tolist()
    verdict = judge.verdict(3, trace_of([5.0, 9.0, 1.0], np.stack([good, bad, good])))
    assert verdict["best"]["ids"] == good.tolist()
    assert verdict["best"]["value"] == pytest.approx(value, rel=1e-5)
    assert not verdict["raw"]["valid"]
    assert verdict["unique"] == 2
    assert verdict["curve"] == [(LENGTH, 1.0, 5.0)]
    assert set(verdict["fluent"]) == {f"{limit:g}" for limit in CE_LIMITS if verdict["best"]["ce"] <= limit}
    assert all(found["ids"] == good.tolist() for found in verdict["fluent"].values())


def test_cross_entropy_is_that_of_every_token_behind_another(site, vocabulary):
    ids = drawn(vocabulary, 3)
    whole = torch.cat((torch.full((3, 1), site.model.tokens.bos_token_id), ids), 1) if site.prepend_bos else ids
    with torch.no_grad():
        surprise = -site.model.forward(whole).log_softmax(-1)
    expected = [np.mean([float(surprise[r, p - 1, whole[r, p]]) for p in range(1, whole.shape[1])]) for r in range(3)]
    assert Judge(site, vocabulary, 1).cross_entropy(ids.numpy()) == pytest.approx(expected, rel=1e-4)
    run = Run(site, vocabulary, 3, budget=1000)
    with run.meter:
        run.whole(site.model.embed(ids), ids)
    assert run.history.until(1000).surprise == pytest.approx(expected, rel=1e-4)


# --- jobs and files ------------------------------------------------------------------------------------------------


def test_features_come_from_every_stratum_and_the_rest_is_apart():
    counts = [0] * 8 + list(range(1, 91))
    chosen, rest = synthetic.draw(counts, 20, 5, seed=3)
    assert len(chosen) == len(set(chosen)) == 20
    assert sum(counts[feature] == 0 for feature in chosen) == 5
    assert [sum(low < counts[f] <= low + 18 for f in chosen) for low in (0, 18, 36, 54, 72)] == [3] * 5
    assert sum(counts[feature] == 0 for feature in chosen[:8]) == 2, "a shorter list has its share of them"
    assert not set(chosen) & set(rest)
    assert synthetic.draw(counts, 20, 5, seed=3) == (chosen, rest)
    assert len(synthetic.draw([1] * 30, 10, 5, seed=0)[0]) == 10, "where none is dead others take the places"


def test_finished_cells_are_not_done_again_and_a_torn_line_is(tmp_path):
    path = tmp_path / "results.jsonl"
    synthetic.append(path, [{"subject": 1}])
    jobs = [synthetic.Job(method="m", features=(f,), seed=0, budgets=(20, 100)) for f in (1, 2)]
    done = [{"method": "m", "feature": f, "seed": 0, "budget": b} for f, b in ((1, 20), (1, 100), (2, 20), (2, 100))]
    synthetic.append(path, done)
    assert synthetic.unfinished(jobs, synthetic.read(path)[1]) == []
    path.write_bytes(path.read_bytes()[:-5])
    header, rows = synthetic.read(path)
    assert header == {"subject": 1}
    assert synthetic.unfinished(jobs, rows) == [jobs[1]]
    synthetic.append(path, done[2:])
    assert synthetic.unfinished(jobs, synthetic.read(path)[1]) == []


def test_one_run_of_an_opponent_answers_for_every_budget_and_ours_for_one():
    options = argparse.Namespace(
        long_features=2, tune=False, budgets=[20, 100], long_budget=1000, seeds=2, methods=None, features=3
    )
    jobs = synthetic.jobs(options, [7, 8, 9])
    assert {job.budgets for job in jobs if job.method == "EPO" and job.seed == 0} == {(20, 100), (20, 100, 1000)}
    assert [job.features for job in jobs if job.method == OURS and job.budgets == (1000,)] == [(7, 8)]
    assert {job.features for job in jobs if job.method == OURS and job.budgets == (20,)} == {(7, 8, 9)}
    cells = [cell for job in jobs for cell in job.cells()]
    assert len(cells) == len(set(cells))
    options.methods = ["GCG"]
    assert {job.method for job in synthetic.jobs(options, [7, 8, 9])} == {"GCG"}
    assert OPPONENTS.keys().isdisjoint(tuning_grid())


# --- the table -----------------------------------------------------------------------------------------------------


def test_differences_are_paired_and_their_interval_is_of_the_median():
    differences = paired({1: 1.0, 2: 3.0, 3: 5.0}, {1: 0.5, 2: 3.0, 4: 9.0})
    assert differences.tolist() == [0.5, 0.0]
    assert win_rate(differences) == 0.75
    spread = np.random.default_rng(0).normal(1.0, 1.0, 400)
    low, high = interval(spread)
    assert low < np.median(spread) < high
    assert high - low == pytest.approx(4 * np.sqrt(np.pi / 2) / 20, rel=0.25), "of the median of a normal sample"
    assert interval(np.array([0.3])) == (0.3, 0.3)


def test_what_seeds_matter_is_a_deviation_by_feature():
    rows = [row(OURS, 1, value, seed=seed) for seed, value in enumerate((9.0, 10.0, 11.0))]
    rows += [row(OURS, 2, 20.0, seed=seed) for seed in range(3)]
    assert seed_to_seed(rows, ratio({1: 5.0, 2: 5.0})) == pytest.approx((0.05, 0.09))
    assert seed_to_seed(rows[:1], ratio({1: 5.0})) is None


def test_nothing_found_counts_zero():
    measure = ratio({1: 2.0}, limit="6")
    assert measure(row("m", 1, 4.0)) == 0
    assert measure(row("m", 1, 4.0, fluent={"6": {"value": 3.0}})) == 1.5
    assert ratio({1: 2.0})(row("m", 1, -1.0)) == 0


def test_time_is_compared_at_the_value_that_the_opponent_ended_with():
    ours = [row(OURS, 1, 5.0, curve=[(5, 1.0, 2.0), (9, 4.0, 5.0)])]
    theirs = row("EPO", 1, 3.0, curve=[(5, 10.0, 1.0), (9, 20.0, 3.0)])
    assert seconds_to(ours[0], 2.0) == 1.0
    assert speed(ours, [theirs]) == (4.0 / 20.0, 1.0)
    assert speed(ours, [theirs, theirs | {"seed": 1}]) == (0.2, 1.0), "runs that we have no match for do not count"
    share, reached = speed(ours, [theirs | {"curve": [(1, 1.0, 9.0)]}]) or (0, 1)
    assert (share, reached) == (float("inf"), 0.0)


def test_the_table_says_what_the_rows_say():
    features = [{"feature": f, "maximum": m} for f, m in ((1, 2.0), (2, 4.0), (3, 0.0))]
    header = {"features": features, "words": "A model.", "methods": ["EPO", OURS]}
    values = {("EPO", 1): 1.0, ("EPO", 2): 4.0, ("EPO", 3): 0.0, (OURS, 1): 3.0, (OURS, 2): 8.0, (OURS, 3): 0.5}
    rows = [row(method, f, value + seed, seed=seed) for (method, f), value in values.items() for seed in (-1, 0, 1)]
    text = report(header, rows)
    lines = text.splitlines()
    assert "### 20 token-evaluations a feature: 2 features, 3 seeds" in lines
    [epo, ours] = [line for line in lines if line.startswith(("| EPO", f"| {OURS}"))][:2]
    assert epo.startswith("| EPO | 0.750 | 0.62 to 0.88 | 0 % | +1.000 [+1.000, +1.000] | 100 % | 0.750 | 100 % |")
    assert ours.startswith(f"| {OURS} | 1.750 | 1.62 to 1.88 | 100 % |  |  |")
    assert "| EPO | 1 | 0 % | 0 % |" in lines, "never active in the corpus"
    assert f"| {OURS} | 1 | 100 % | 100 % |" in lines


def test_a_section_takes_its_own_place_and_leaves_the_others():
    page = put_between("# Benchmarks\n", "small", "old")
    page = put_between(page, "demo", "other")
    page = put_between(page + "\nBy hand.\n", "small", "new")
    assert "old" not in page
    assert page.index("new") < page.index("other") < page.index("By hand.")
