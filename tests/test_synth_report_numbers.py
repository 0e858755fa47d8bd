"""Every number of a report by another way, whatever the search said of it; which peaks are sinks."""

from dataclasses import replace

import pytest
import torch
from conftest import FEATURES, SHORT, make_model
from rerun import ALLOWED, Plain, differences
from synth_runs import HOOK, found_in, random_texts, searched_as

from sae_analysis.artifacts import write_result
from sae_analysis.errors import ModelError
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import load_model
from sae_analysis.reconstruction import attach
from sae_analysis.records import ActivationExample
from sae_analysis.sae_formats import load_sae
from sae_analysis.synth_activations import synthesize
from sae_analysis.synth_activations.scoring import SINK_MULTIPLE, Reader

# --- every number by another way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bos", [True, False])
def test_plain_transformers_give_every_number_of_every_example(
    *, has_bos, tmp_path, model_folder, bos_model_folder, sae_folder
):
    folder = bos_model_folder if has_bos else model_folder
    site = attach(load_sae(sae_folder), load_model(str(folder), device="cpu"))
    result = synthesize(site, parse_features(FEATURES), SHORT)
    assert site.prepend_bos == has_bos
    assert sum(len(stats.examples) for stats in result.features) > 5
    write_result(result, path := tmp_path / "synthetic.json")
    found = differences(folder, sae_folder, path)
    assert len(found) == 8
    assert max(found.values()) <= ALLOWED


def test_the_second_look_sees_what_is_wrong(tmp_path, result, bos_model_folder, sae_folder):
    (stats, *others) = result.features
    (example, *rest) = stats.examples
    assert example.synthesis is not None
    lost = (example.synthesis.attribution[0] + 0.01 * stats.max_activation, *example.synthesis.attribution[1:])
    wrong = {
        "peak activation": replace(example, max_activation=1.001 * example.max_activation),
        "activation": replace(example, activations=(0.0,) * len(example.tokens)),
        "pre-activation": with_synthesis(example, pre_activation=1.001 * example.synthesis.pre_activation),
        "cross-entropy": with_synthesis(example, cross_entropy=1.001 * (example.synthesis.cross_entropy or 0)),
        "attribution": with_synthesis(example, attribution=lost),
        "round trip": replace(example, text=example.text + "!"),
        "peak position": replace(example, peak_position=example.activations.index(min(example.activations))),
    }
    cases = {kind: replace(stats, examples=(changed, *rest)) for kind, changed in wrong.items()}
    cases["feature maximum"] = replace(stats, max_activation=1.001 * stats.max_activation)
    for kind, changed in cases.items():
        features = (changed, *others)
        write_result(replace(result, features=features), path := tmp_path / "synthetic.json")
        assert differences(bos_model_folder, sae_folder, path)[kind] > ALLOWED, kind


def with_synthesis(example: ActivationExample, **changes: object) -> ActivationExample:
    return replace(example, synthesis=replace(example.synthesis, **changes))


def test_counts_are_those_of_the_examples_tokens(result, bos_model_folder, sae_folder):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    for stats in result.features:
        runs = [plain.run(list(example.token_ids), stats.feature_idx)[0] for example in stats.examples]
        values = torch.cat(runs)
        active = values[values != 0].double()
        assert stats.token_count == len(values) == sum(stats.position_token_counts)
        assert stats.active_count == len(active) == stats.histogram.total == stats.position_histogram.total
        assert stats.density == len(active) / len(values)
        assert stats.sparsity == 1 - stats.density
        assert stats.max_activation == pytest.approx(float(values.max()), rel=1e-5) == stats.examples[0].max_activation
        assert stats.mean_activation == pytest.approx(float(active.mean()), rel=1e-5)
        assert stats.std_activation == pytest.approx(float(active.std(correction=0)), rel=1e-4, abs=1e-6)
        assert sum(row.active_count for row in stats.top_tokens) == len(active)
        for row in stats.top_tokens:
            held = [
                ids.index(row.token_id) for ids in (list(e.token_ids) for e in stats.examples) if row.token_id in ids
            ]
            assert held
            assert 0 < row.firing_rate <= 1


def test_what_weights_say_is_what_the_real_analysis_says(result, real):
    for stats in result.features:
        other = real.by_feature()[stats.feature_idx]
        assert stats.decoder_norm == other.decoder_norm
        assert stats.encoder_norm == other.encoder_norm
        assert stats.encoder_decoder_cosine == other.encoder_decoder_cosine
        assert [f for f, _ in stats.nearest_features] == [f for f, _ in other.nearest_features]
        assert [t for t, _ in stats.top_boosted_tokens] == [t for t, _ in other.top_boosted_tokens]
        assert [t for t, _ in stats.top_suppressed_tokens] == [t for t, _ in other.top_suppressed_tokens]


def test_every_text_is_cut_into_its_tokens_and_says_where_it_is_from(result, bos_model):
    for stats in result.features:
        assert stats.search is not None
        assert stats.search.shortest is not None
        for example in (*stats.examples, *stats.search.frontier, stats.search.shortest):
            assert bos_model.tokens.tokenize([example.text]) == [list(example.token_ids)]
            assert bos_model.tokens.strings(example.token_ids) == example.tokens
            assert example.synthesis is not None
            assert example.synthesis.is_text
            assert example.synthesis.seed == SHORT.seed
            assert example.source == example.synthesis.provenance != ""
            assert 0 < example.synthesis.token_evaluations <= SHORT.budget


def test_nothing_of_what_the_search_measured_is_believed(told, site, vocabulary):
    sequences = random_texts(vocabulary, 6, 5)
    honest = told(site, 8, searched_as(found_in(sequences)))
    lies = [found_in([ids], value=float(n), position=4, cross_entropy=None)[0] for n, ids in enumerate(sequences)]
    assert told(site, 8, searched_as(tuple(lies))) == honest
    assert honest.search is not None
    assert honest.search.single_token[0] == site.model.tokens.strings([50])[0]
    assert honest.max_activation < 99


def test_the_best_single_token_is_measured_anew(told, site, bos_model_folder, sae_folder):
    plain, values = Plain(bos_model_folder, sae_folder, layer=1, bos=True), []
    for token in range(40, 56):
        values.append(float(plain.run([token], 8)[0].max()))
        stats = told(site, 8, searched_as(()), single_token=(token,))
        text = site.model.tokens.strings([token])[0]
        assert stats.search.single_token == (text, pytest.approx(values[-1], rel=1e-5))
    assert 0 < sum(value > 0 for value in values) < len(values), "else this says nothing"


def test_what_it_cost_and_how_it_went_is_passed_on(told, site, vocabulary):
    went = ((1, -3.0), (5, -1.0), (9, 0.0), (20, 0.5), (30, 0.5), (40, 2.0))
    stats = told(
        site,
        3,
        searched_as(
            found_in(random_texts(vocabulary, 1, 5), evaluations=123, provenance="relaxed"),
            token_evaluations=777,
            convergence=went,
            relaxation=(3.0, 2.5),
        ),
    )
    assert stats.search.token_evaluations == 777
    assert stats.search.convergence == ((20, 0.5), (40, 2.0)), "nothing fired before"
    assert (stats.search.relaxation.relaxed, stats.search.relaxation.discrete) == (3.0, 2.5)
    assert (stats.examples[0].synthesis.token_evaluations, stats.examples[0].source) == (123, "relaxed")


# --- sinks ---------------------------------------------------------------------------------------------------------


def test_the_usual_norm_is_that_of_tokens_with_many_before_them(site, vocabulary):
    reader = Reader(site, vocabulary)
    ids = torch.tensor([[0, *ids] for ids in random_texts(vocabulary, 40, 20, seed=5)])
    with torch.no_grad():
        norms = site.model.activations(ids, HOOK)[:, 10:].norm(dim=-1)
    assert reader.usual_norm == pytest.approx(float(norms.median()), rel=0.1)


def test_sinks_in_front_do_not_make_a_large_norm_usual(model, sae_folder, vocabulary, monkeypatch):
    site = attach(load_sae(sae_folder), model)
    before = Reader(site, vocabulary).usual_norm
    activations = model.activations

    def with_sinks(ids, hook):
        x = activations(ids, hook)
        return torch.cat((100 * x[:, :3], x[:, 3:]), dim=1)

    monkeypatch.setattr(model, "activations", with_sinks)
    assert Reader(site, vocabulary).usual_norm == before


def test_a_token_of_many_times_the_usual_norm_is_a_sink(tmp_path, sae_folder, vocabulary, told):
    loud = load_model(str(make_model(tmp_path / "loud", adds_bos=True)), device="cpu")
    token = int(vocabulary.ids[100])
    with torch.no_grad():
        loud.module.get_input_embeddings().weight[token] *= 1000
    site = attach(load_sae(sae_folder), loud)
    sequences = [ids for ids in random_texts(vocabulary, 60, 3) if token not in ids]
    sequences += [ids for ids in ((*ids[:2], token) for ids in sequences) if vocabulary.texts([ids])[0]]
    usual, seen = Reader(site, vocabulary).usual_norm, []
    with torch.no_grad():
        acts = site.sae.encode(loud.activations(torch.tensor([[0, *sequences[-1]]]), HOOK)[0, -1])
    for feature in (*acts.top_indices.tolist(), 8):
        for example in told(site, feature, searched_as(found_in(sequences))).examples:
            with torch.no_grad():
                norms = loud.activations(torch.tensor([[0, *example.token_ids]]), HOOK)[0, 1:].norm(dim=-1)
            is_loud = float(norms[example.peak_position]) > SINK_MULTIPLE * usual
            assert example.synthesis.is_sink == is_loud == (example.token_ids[example.peak_position] == token)
            seen.append(is_loud)
    assert 0 < sum(seen) < len(seen), "else this says nothing"


def test_values_that_are_not_finite_are_an_error(tmp_path, sae_folder, told, vocabulary):
    broken = load_model(str(make_model(tmp_path / "broken", adds_bos=True)), device="cpu")
    with torch.no_grad():
        broken.module.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    site = attach(load_sae(sae_folder), broken)
    with pytest.raises(ModelError) as error:
        told(site, 3, searched_as(found_in(random_texts(vocabulary, 1, 3))))
    assert str(error.value) == f"{site.name} gives values that are not finite in torch.float32: use dtype float32."
