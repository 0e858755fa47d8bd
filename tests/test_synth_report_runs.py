"""A run and its plan: the real text it begins with, what is refused, and the same result after it was killed."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import record_factory as make
from conftest import D_SAE, FEATURES, SHORT, K, make_sae, topk_weights
from small_saes import interface
from synth_runs import HOOK

from sae_analysis import comparison, synth_activations
from sae_analysis.errors import FeatureError, ModelError, OutputError
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import load_model
from sae_analysis.reconstruction import attach
from sae_analysis.records import FeatureResults
from sae_analysis.sae_formats import load_sae
from sae_analysis.synth_activations import Search, SynthSettings, generate_synthetic_maximizers, plan, synthesize
from sae_analysis.synth_activations.real_windows import check_origin, real_windows

# --- real text to begin with ---------------------------------------------------------------------------------------


def test_seeds_are_the_ends_of_real_windows_up_to_the_peak(real):
    seeds = real_windows(real, (3, 17), 5, frozenset({0, 1, 2}))
    for feature, windows in seeds.items():
        examples = real.by_feature()[feature].examples
        expected = [e.token_ids[max(0, e.peak_position - 4) : e.peak_position + 1] for e in examples]
        assert list(windows) == list(dict.fromkeys(expected))
    assert set(seeds) == {3, 17}
    assert real_windows(real.by_feature(), (3, 17), 5, frozenset()) == real_windows(real, (3, 17), 5, frozenset())


def test_seeds_begin_behind_special_tokens_and_leave_out_what_fires_downwards(real):
    stats = real.by_feature()[3]
    five = {"tokens": tuple("abcde"), "token_ids": (9, 1, 7, 8, 5), "activations": (0, 0, 0, 2, 0)}
    first = replace(stats.examples[0], **five, peak_position=3)
    special = replace(first, token_ids=(9, 7, 8, 1, 5))
    downwards = replace(first, max_activation=-2.0)
    known = {3: replace(stats, examples=(first, first, special, downwards)), 4: replace(stats, examples=(downwards,))}
    assert real_windows(known, (3, 4, 5), 12, frozenset({1})) == {3: ((7, 8),)}


def test_a_search_is_given_the_seeds_of_its_own_features(site, real, monkeypatch):
    given_ = {}
    start = Search.__init__

    def spy(search, evaluator, vocabulary, settings, seeds, *others):
        given_[evaluator.features] = seeds
        start(search, evaluator, vocabulary, settings, seeds, *others)

    monkeypatch.setattr(Search, "__init__", spy)
    result = synthesize(site, parse_features("3,17,40"), SHORT, real=real)
    expected = real_windows(real, (3, 17, 40), 5, frozenset({0, 1, 2}))
    assert given_ == {
        batch: {feature: expected[feature] for feature in batch if feature in expected} for batch in ((3, 17), (40,))
    }
    run = result.provenance
    assert run.options["real_windows"] == sum(map(len, expected.values())) > 0
    assert (run.corpus, run.corpus_sha256) == (real.provenance.corpus, real.provenance.corpus_sha256)


def refusal(kind, call, *arguments, **options):
    with pytest.raises(kind) as error:
        call(*arguments, **options)
    return str(error.value)


def test_a_real_result_of_something_else_is_refused(site, real, bos_model):
    def refused(**changes):
        other = replace(real, provenance=replace(real.provenance, **changes))
        return refusal(OutputError, synthesize, site, parse_features("3"), SHORT, real=other)

    advice = "Give a real.json of the same model, SAE and hook, or drop `real`."
    ours = f"{bos_model.name} (hash {bos_model.fingerprint[:12]})"
    assert refused(model="gpt2", model_sha256="0" * 64) == (
        f"The real result is of another model: it was made with gpt2 (hash {'0' * 12}), and the search is to run on "
        f"{ours}. {advice}"
    )
    origin = site.sae.origin
    assert refused(sae="theirs.pt", sae_sha256="") == (
        "The real result is of another SAE: it was made with theirs.pt (hash unknown), and the search is to run on "
        f"{origin.format_name} (hash {origin.sha256[:12]}). {advice}"
    )
    assert refused(hook="blocks.0.hook_resid_post") == (
        "The real result is of another hook: it was made with blocks.0.hook_resid_post, and the search is to run on "
        f"{HOOK}. {advice}"
    )
    assert refused(hook_out="blocks.1.hook_mlp_out") == (
        "The real result is of another hook to write to: it was made with blocks.1.hook_mlp_out, and the search is to "
        f"run on {HOOK}. {advice}"
    )
    assert refused(activation_rule="ReLU") == (
        "The real result is of another reading of the SAE: it was made with ReLU, and the search is to run on "
        f"TopK(k={K}). {advice}"
    )
    assert refused(analysis="synthetic") == (
        "A result of 'synthetic' was given as real text to begin with: give a real.json, or drop `real`."
    )


def test_all_that_compare_asks_for_is_asked_before_a_search(site, real):
    """Else it would be refused after it."""
    for name in comparison._SAME:
        other = replace(real, provenance=replace(real.provenance, **{name: "another"}))
        with pytest.raises(OutputError, match="The real result is of another"):
            check_origin(other, site)
    check_origin(real, site)


# --- what is to be done --------------------------------------------------------------------------------------------


def test_features_are_cut_into_batches_in_order(site):
    planned = plan(site, parse_features(FEATURES), SHORT)
    assert planned.batches == ((3, 17), (40, 8), (25,))
    assert planned.features == (3, 17, 40, 8, 25)
    again = plan(site, parse_features("random:6"), SHORT)
    assert again.features == parse_features("random:6").before_data(D_SAE, SHORT.seed)


def test_what_text_decides_is_read_off_a_real_analysis_of_all_features(site, real):
    stats = real.features
    by_density = sorted(stats, key=lambda one: (-one.active_count, one.feature_idx))
    by_maximum = sorted(stats, key=lambda one: (-one.max_activation, one.feature_idx))
    silent = replace(real, features=tuple(replace(s, active_count=0) if s.feature_idx in (9, 30) else s for s in stats))
    dead = [one.feature_idx for one in silent.features if one.is_dead]
    assert {9, 30} <= set(dead)
    assert plan(site, parse_features("dead:1"), SHORT, silent).features == (dead[0],)
    assert plan(site, parse_features("top:4"), SHORT, real).features == tuple(s.feature_idx for s in by_density[:4])
    assert plan(site, parse_features("top:4:max"), SHORT, real).features == tuple(s.feature_idx for s in by_maximum[:4])
    question = "features top:N, top:N:max and dead:N ask what features do on text, and "
    advice = ": give a `corpus` to scan, or a `real` result of all features."
    assert refusal(FeatureError, plan, site, parse_features("top:4"), SHORT) == f"{question}no text was read{advice}"
    some = replace(real, features=stats[:9])
    assert refusal(FeatureError, plan, site, parse_features("dead:4"), SHORT, some) == (
        f"{question}the real result describes 9 of {D_SAE} features{advice}"
    )
    assert refusal(FeatureError, plan, site, parse_features("top:49"), SHORT, real) == (
        "49 features were asked for: the SAE has 48. Ask for fewer."
    )


def test_sequences_that_the_model_cannot_read_are_refused(site, model, sae_folder, monkeypatch):
    long = replace(SHORT, seq_len=128)
    name = site.model.name
    assert refusal(ModelError, plan, site, parse_features("3"), long) == (
        f"seq_len 128 is more than {name} was made for beside BOS: give at most 127."
    )
    without = attach(load_sae(sae_folder), model)
    assert plan(without, parse_features("3"), long).features == (3,)
    assert refusal(ModelError, plan, without, parse_features("3"), replace(long, seq_len=129)) == (
        f"seq_len 129 is more than {model.name} was made for: give at most 128."
    )
    monkeypatch.setattr(site.model.tokens, "bos_token_id", None)
    assert refusal(ModelError, plan, site, parse_features("3"), SHORT) == (
        "BOS is to stand in front of each sequence, but this tokenizer has none: use bos never."
    )


def test_a_fingerprint_is_of_all_that_matters_and_of_nothing_else(site, real, bos_model, sae_folder, tmp_path):
    def of(site=site, features="3,17", settings=SHORT, real=None):
        return plan(site, parse_features(features), settings, real).fingerprint

    other_sae = attach(load_sae(make_sae(tmp_path / "other", topk_weights(seed=2))), bos_model)
    renamed = load_model(bos_model.name, device="cpu")
    renamed.name = "elsewhere"
    assert of() == of(attach(load_sae(sae_folder), renamed))
    different = [
        of(features="3,18"),
        of(features="17,3"),
        of(real=real),
        of(other_sae),
        of(attach(load_sae(sae_folder), bos_model, bos="never")),
        of(attach(load_sae(sae_folder), bos_model, "blocks.0.hook_resid_post")),
        *(
            of(settings=replace(SHORT, **{name: value}))
            for name, value in {
                "seq_len": 6,
                "budget": 1_501,
                "n_steps": 4,
                "learning_rate": 0.1,
                "fluency": 0.5,
                "max_examples": 5,
                "batch_size": 3,
                "seed": 1,
                "list_length": 9,
            }.items()
        ),
    ]
    assert len({of(), *different}) == len(different) + 1


# --- interrupted, resumed, repeated --------------------------------------------------------------------------------


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_was_killed_and_resumed_comes_to_the_same(after, site, result, monkeypatch):
    kept, searched = {}, []
    run = Search.run
    monkeypatch.setattr(
        Search,
        "run",
        lambda search, progress=None: (searched.extend(search._evaluator.features), run(search, progress))[1],
    )

    def keep(features):
        kept.update({stats.feature_idx: stats for stats in features})
        if len(kept) >= 2 * after:
            raise KilledError

    with pytest.raises(KilledError):
        synthesize(site, parse_features(FEATURES), SHORT, keep=keep)
    assert list(kept) == [3, 17, 40, 8][: 2 * after]
    resumed = synthesize(site, parse_features(FEATURES), SHORT, done=kept)
    assert resumed.features == result.features
    assert searched == [3, 17, 40, 8, 25], "each once"


def test_a_batch_of_which_a_feature_is_missing_is_searched_whole(site, result):
    three, _, forty, eight, _ = result.features
    done = {3: replace(three, token_count=-1), 40: replace(forty, token_count=-1), 8: eight}
    resumed = synthesize(site, parse_features(FEATURES), SHORT, done=done)
    assert resumed.features[:2] == result.features[:2]
    assert resumed.features[2].token_count == -1, "a whole batch is not searched again"
    assert resumed.features[4] == result.features[4]


def test_a_finished_run_searches_nothing(site, result, monkeypatch):
    monkeypatch.setattr(Search, "run", lambda *_: pytest.fail("nothing is left to search"))
    assert synthesize(site, parse_features(FEATURES), SHORT, done=result.by_feature()).features == result.features


def test_the_same_seed_gives_the_same_tokens_and_another_others(site, result):
    again = synthesize(site, parse_features(FEATURES), SHORT)
    assert replace(again, provenance=result.provenance) == result
    other = synthesize(site, parse_features(FEATURES), replace(SHORT, seed=1))
    found, others = ([e.token_ids for s in one.features for e in s.examples] for one in (result, other))
    assert found != others
    assert {e.synthesis.seed for s in other.features for e in s.examples} == {1}


def test_the_header_says_what_was_run(result, site):
    run = result.provenance
    assert (run.analysis, run.hook, run.corpus, run.corpus_sha256) == ("synthetic", HOOK, "", "")
    assert run.sae_sha256 == site.sae.origin.sha256
    assert dict(run.options) == {
        "seq_len": 5,
        "budget": 1_500,
        "n_steps": 3,
        "learning_rate": 0.2,
        "fluency": 0.4,
        "firings": None,
        "max_examples": 4,
        "batch_size": 2,
        "seed": 0,
        "bos": "auto",
        "list_length": 10,
        "real_windows": 0,
        "threads": "1",
    }
    assert (result.fit, result.dictionary) == (None, None)


def test_progress_adds_up_to_what_was_spent(site, result):
    steps = []
    synthesize(site, parse_features(FEATURES), SHORT, progress=lambda spent, total: steps.append((spent, total)))
    spent = np.cumsum([spent for spent, _ in steps])
    assert all(total >= so_far for so_far, (_, total) in zip(spent.tolist(), steps, strict=True))
    assert steps[0][1] == 5 * SHORT.budget
    assert 0.5 * 5 * SHORT.budget < spent[-1] <= 5 * SHORT.budget
    resumed = []
    done = {stats.feature_idx: stats for stats in result.features[:4]}
    synthesize(
        site, parse_features(FEATURES), SHORT, done=done, progress=lambda spent, total: resumed.append((spent, total))
    )
    assert resumed[0][1] == SHORT.budget, "what is finished is not counted"


def test_the_library_function_takes_paths_and_objects(bos_model, bos_model_folder, sae_folder, real):
    options = {"seq_len": 5, "budget": 1_500, "n_steps": 3, "max_examples": 4, "batch_size": 2}
    by_path = generate_synthetic_maximizers(str(sae_folder), str(bos_model_folder), "3,17", **options)
    site = attach(load_sae(sae_folder), bos_model)
    assert by_path == synthesize(site, parse_features("3,17"), SHORT).by_feature()
    sae = load_sae(sae_folder)
    assert generate_synthetic_maximizers(sae, bos_model, [3, 17], **options) == by_path
    without = attach(sae, bos_model, bos="never")
    assert generate_synthetic_maximizers(sae, bos_model, [3, 17], bos="never", **options) == (
        synthesize(without, parse_features("3,17"), SHORT).by_feature()
    )
    with_text = generate_synthetic_maximizers(sae, bos_model, [3, 17], real=real, **options)
    assert with_text == generate_synthetic_maximizers(sae, bos_model, [3, 17], real=real.by_feature(), **options)
    assert with_text != by_path
    of_another = replace(real, provenance=replace(real.provenance, sae_sha256="another"))
    with pytest.raises(OutputError, match="of another SAE"):
        generate_synthetic_maximizers(sae, bos_model, [3, 17], real=FeatureResults(of_another), **options)
    assert by_path.result.provenance.options["batch_size"] == 2
    briefly = generate_synthetic_maximizers(sae, bos_model, [3], firings=0, list_length=3, **options)[3]
    assert (len(briefly.top_boosted_tokens), {one.firing for one in briefly.examples}) == (3, {None})


def test_an_sae_given_as_a_module_is_searched_too(bos_model):
    [stats] = generate_synthetic_maximizers(
        interface(topk_weights()).model, bos_model, [3], hook=HOOK, seq_len=3, budget=600
    ).values()
    assert stats.max_activation > 0


def test_every_option_of_the_library_function_goes_where_it_belongs(bos_model, sae, real, monkeypatch):
    asked = {}

    def taking(name, answer):
        return lambda *given, **named: asked.update({name: (given, named)}) or answer

    monkeypatch.setattr(synth_activations, "attach", taking("place", "the site"))
    monkeypatch.setattr(synth_activations, "synthesize", taking("search", make.result()))
    numbers = {"seq_len": 5, "budget": 1_500, "n_steps": 3, "max_examples": 4, "batch_size": 2, "firings": 1, "seed": 7}
    settings = SynthSettings(**numbers, learning_rate=0.25, fluency=0.125, list_length=6, bos="never")
    generate_synthetic_maximizers(
        sae,
        bos_model,
        "3,17",
        **asdict(settings),
        hook="reads",
        hook_out="writes",
        center_residual="on",
        vsae_sign="signed",
        real=real,
        progress=print,
    )
    expected = {"hook_out": "writes", "centre": "on", "sign": "signed"}
    assert asked["place"] == ((sae, bos_model, "reads", "never"), expected)
    assert asked["search"] == (("the site", parse_features("3,17"), settings), {"real": real, "progress": print})
