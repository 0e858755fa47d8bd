"""``real`` against a dense second opinion, and what must not change its result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import D_SAE, TEXTS, K, make_sae, topk_weights
from oracle import Dense, disagreements
from small_saes import interface

from sae_analysis.corpus import Corpus, Windowing
from sae_analysis.errors import CorpusError, FeatureError, FitError, ModelError, SAEFormatError
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import LanguageModel
from sae_analysis.real_activations import RealSettings, analyze, stream
from sae_analysis.reconstruction import attach
from sae_analysis.records import AnalysisResult, FeatureStats
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import (
    AbsTopK,
    ActivationRule,
    JumpReLU,
    Origin,
    SparseAutoencoder,
    TopK,
    UnifiedSAEInterface,
)

SHORT = RealSettings(windowing=Windowing(seq_len=24, batch_size=4), max_examples=6)


def run(
    sae: UnifiedSAEInterface, model: LanguageModel, corpus: Path, features: str = "all", settings: RealSettings = SHORT
) -> AnalysisResult:
    return analyze(attach(sae, model, None, settings.bos), parse_features(features), Corpus(source=corpus), settings)


@pytest.fixture
def documents_of_all_lengths(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.jsonl"
    lines = [json.dumps({"text": TEXTS[i % 5][: 3 + 7 * i]}) for i in range(12)] + [json.dumps({"text": ""})]
    path.write_text("\n".join([*lines, *lines[:4]]))
    return path


def test_every_statistic_equals_the_dense_one(
    model: LanguageModel,
    model_folder: Path,
    sae: UnifiedSAEInterface,
    sae_folder: Path,
    documents_of_all_lengths: Path,
) -> None:
    result = run(sae, model, documents_of_all_lengths)
    dense = Dense(model_folder, sae_folder, documents_of_all_lengths, layer=1, seq_len=24, bos=False)
    assert disagreements(result, dense) == []
    assert result.fit.document_count == 17, "empty documents are counted, not dropped"


def test_every_statistic_equals_the_dense_one_with_bos_of_id_zero(
    bos_model: LanguageModel,
    bos_model_folder: Path,
    sae: UnifiedSAEInterface,
    sae_folder: Path,
    documents_of_all_lengths: Path,
) -> None:
    result = run(sae, bos_model, documents_of_all_lengths)
    dense = Dense(bos_model_folder, sae_folder, documents_of_all_lengths, layer=1, seq_len=24, bos=True)
    assert disagreements(result, dense) == []
    assert result.fit.excluded["BOS"] == result.fit.window_count
    assert all(example.token_ids[0] != 0 for stats in result.features for example in stats.examples)


def essence(stats: FeatureStats) -> tuple:
    """What rounding must not change: counts, and examples by place and content."""
    examples = [(e.token_ids, e.peak_position, e.source, e.source_position) for e in stats.examples]
    tokens = [(row.token_id, row.active_count) for row in stats.top_tokens]
    return (stats.active_count, stats.histogram.counts, stats.position_histogram.counts, tokens, examples)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16, 1000])
def test_any_batch_size_gives_the_same_counts_and_examples(
    batch_size: int, model: LanguageModel, sae: UnifiedSAEInterface, documents_of_all_lengths: Path
) -> None:
    reference = run(sae, model, documents_of_all_lengths)
    windowing = replace(SHORT.windowing, batch_size=batch_size)
    other = run(sae, model, documents_of_all_lengths, settings=replace(SHORT, windowing=windowing))
    for ours, theirs in zip(reference.features, other.features, strict=True):
        assert essence(ours) == essence(theirs)
        assert ours.max_activation == pytest.approx(theirs.max_activation, rel=1e-5)
        assert ours.is_dead or ours.mean_activation == pytest.approx(theirs.mean_activation, rel=1e-5)
    assert reference.fit.explained_variance == pytest.approx(other.fit.explained_variance, rel=1e-5)


def test_the_features_asked_for_do_not_change_what_is_said_of_each(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    everything = run(sae, model, corpus_file).by_feature()
    for features in ("7", "0-3,9,40", "top:5", "top:4:max"):
        for stats in run(sae, model, corpus_file, features).features:
            full = everything[stats.feature_idx]
            assert essence(stats) == essence(full)
            assert (stats.mean_activation, stats.quantiles) == (full.mean_activation, full.quantiles)
            assert [token for token, _ in stats.top_boosted_tokens] == [token for token, _ in full.top_boosted_tokens]


def test_a_feature_that_never_fires_is_an_answer(model: LanguageModel, tmp_path: Path, corpus_file: Path) -> None:
    weights = topk_weights()
    weights["encoder.bias"][5] = -1e6
    result = run(load_sae(make_sae(tmp_path / "dead", weights)), model, corpus_file, "5")
    (stats,) = result.features
    assert stats.is_dead
    assert (stats.density, stats.sparsity, stats.mean_activation, stats.max_activation) == (0.0, 1.0, None, 0.0)
    assert (stats.examples, stats.example_bands, stats.top_tokens, stats.quantiles) == ((), (), (), ())
    assert stats.top_boosted_tokens
    assert result.dictionary.dead_count >= 1
    assert run(load_sae(tmp_path / "dead"), model, corpus_file, "dead:1").features[0].is_dead


def test_rules_that_need_the_data_choose_by_it(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    everything = run(sae, model, corpus_file).features
    by_density = sorted(everything, key=lambda stats: (-stats.active_count, stats.feature_idx))[:3]
    by_maximum = sorted(everything, key=lambda stats: (-stats.max_activation, stats.feature_idx))[:3]
    assert list(run(sae, model, corpus_file, "top:3").by_feature()) == [s.feature_idx for s in by_density]
    assert list(run(sae, model, corpus_file, "top:3:max").by_feature()) == [s.feature_idx for s in by_maximum]
    assert list(run(sae, model, corpus_file, "random:6").by_feature()) == list(
        run(sae, model, corpus_file, "random:6").by_feature()
    )


def test_bands_hold_fresh_examples_within_their_quarter(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    settings = replace(SHORT, max_examples=1, windowing=Windowing(seq_len=8, batch_size=8))
    for stats in run(sae, model, corpus_file, settings=settings).features:
        quartiles = dict(stats.quantiles)
        inner = {0.25: quartiles.get(0.25), 0.5: quartiles.get(0.5), 0.75: quartiles.get(0.75)}
        shown = {(example.source, example.source_position) for example in stats.examples}
        for band in stats.example_bands:
            assert 1 <= len(band.examples) <= settings.band_examples
            for example in band.examples:
                assert example.max_activation == example.activations[example.peak_position] > 0
                assert (example.source, example.source_position) not in shown
                if band.lower_quantile > 0:
                    assert example.max_activation > inner[band.lower_quantile] * (1 - 1 / 64)
                if band.upper_quantile < 1:
                    assert example.max_activation <= inner[band.upper_quantile] * (1 + 1 / 64)
    assert any(len(stats.example_bands) == 4 for stats in run(sae, model, corpus_file, settings=settings).features)


def test_dictionary_and_fit_speak_of_every_feature(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    one, everything = run(sae, model, corpus_file, "3"), run(sae, model, corpus_file)
    assert one.dictionary == everything.dictionary
    assert one.fit == everything.fit
    assert one.dictionary.d_sae == D_SAE
    assert one.fit.l0 <= K
    assert sum(stats.active_count for stats in everything.features) == pytest.approx(
        everything.fit.l0 * everything.fit.token_count
    )
    assert sum(one.dictionary.density.counts) == D_SAE - one.dictionary.dead_count


def test_max_tokens_ends_the_reading_at_exactly_that_many(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    settings = replace(SHORT, windowing=replace(SHORT.windowing, max_tokens=101))
    fit = run(sae, model, corpus_file, "0", settings).fit
    assert (fit.token_count, fit.truncated) == (101, True)
    assert not run(sae, model, corpus_file, "0").fit.truncated


def test_norm_outliers_are_left_out_and_counted(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    everything = run(sae, model, corpus_file, "0").fit
    fewer = run(sae, model, corpus_file, "0", replace(SHORT, norm_outliers=1.3)).fit
    assert fewer.excluded["norm outlier"] > 0
    assert fewer.token_count + fewer.excluded["norm outlier"] == everything.token_count


def test_progress_adds_up_to_all_tokens(model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    site = attach(sae, model, None)
    documents = Corpus(source=corpus_file)
    result = analyze(
        site, parse_features("0"), documents, SHORT, progress=lambda done, expected: steps.append((done, expected))
    )
    assert sum(done for done, _ in steps) == result.fit.token_count
    total = steps[-1][1]
    assert total is not None
    assert abs(total - result.fit.token_count) <= 0.25 * result.fit.token_count, "JSON is some longer than its text"


def test_a_poor_fit_ends_the_run_unless_allowed(model: LanguageModel, tmp_path: Path, corpus_file: Path) -> None:
    weights = topk_weights()
    weights["decoder.weight"] *= -3
    poor = load_sae(make_sae(tmp_path / "poor", weights))
    with pytest.raises(FitError) as error:
        run(poor, model, corpus_file)
    value = run(poor, model, corpus_file, settings=replace(SHORT, allow_poor_fit=True)).fit.explained_variance
    assert value < 0
    assert str(error.value) == (
        f"The SAE does not fit blocks.1.hook_resid_post of {model.name}: its explained variance is {value:.3g}, and a "
        "mean would reach 0. Check `hook` (inspect tries them all), `bos` and `model`, or look at the results anyway "
        "with allow_poor_fit."
    )


@pytest.mark.parametrize(("tokens", "is_early"), [(1, True), (1_000_000, False)])
def test_a_hopeless_fit_ends_the_reading_early(
    *, tokens: int, is_early: bool, model: LanguageModel, tmp_path: Path, corpus_file: Path, monkeypatch
) -> None:
    read, chunks = stream.Reader.read, []
    monkeypatch.setattr(stream, "EARLY_CHECK_TOKENS", tokens)
    monkeypatch.setattr(
        stream.Reader, "read", lambda self, chunk, told=None: (chunks.append(chunk), read(self, chunk, told))
    )
    weights = topk_weights()
    weights["decoder.weight"] *= -3
    poor = load_sae(make_sae(tmp_path / "poor", weights))
    small = replace(SHORT, windowing=replace(SHORT.windowing, chunk_size=300))
    with pytest.raises(FitError, match="its explained variance is -"):
        run(poor, model, corpus_file, settings=small)
    assert (len(chunks) == 1) == is_early
    chunks.clear()
    run(poor, model, corpus_file, settings=replace(small, allow_poor_fit=True))
    assert len(chunks) > 1


def test_too_little_text_is_an_error(model: LanguageModel, sae: UnifiedSAEInterface, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_text("ship")
    with pytest.raises(CorpusError, match=r"The corpus has \d tokens to count, in 1 document: statistics need"):
        run(sae, model, tmp_path / "word.txt")


def test_a_feature_beyond_the_last_is_an_error(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    with pytest.raises(FeatureError) as error:
        run(sae, model, corpus_file, "3,48")
    assert str(error.value) == "Feature 48 does not exist: the SAE has features 0 to 47."


def test_activations_that_are_not_finite_are_an_error(
    model_folder: Path, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    from sae_analysis.language_model import load_model

    broken = load_model(str(model_folder), device="cpu")
    with torch.no_grad():
        broken.module.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_resid_post of .* gives values that are not finite"):
        run(sae, broken, corpus_file)


def test_the_same_run_twice_gives_the_same_result(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    first, second = run(sae, model, corpus_file), run(sae, model, corpus_file)
    assert replace(first, provenance=second.provenance) == second
    assert replace(first.provenance, created="") == replace(second.provenance, created="")


# --- only what is asked for, and transcoders ------------------------------------------------------------------------


def sae_with(rule: ActivationRule | None = None) -> UnifiedSAEInterface:
    """Return an SAE of a rule: TopK, whose features depend on each other, unless one is given."""
    return interface(topk_weights(), rule=rule or TopK(8), origin=Origin(hook="blocks.1.hook_resid_post"))


def jump_relu() -> UnifiedSAEInterface:
    """Return an SAE whose features do not depend on each other, with thresholds that let some fire."""
    return sae_with(JumpReLU(torch.linspace(0.1, 0.6, D_SAE)))


ONCE = replace(SHORT, allow_poor_fit=True, dictionary_tokens=1)
ALWAYS = replace(SHORT, allow_poor_fit=True)


def test_features_encoded_alone_have_the_same_statistics(model: LanguageModel, corpus_file: Path) -> None:
    sae = jump_relu()
    alone, together = (run(sae, model, corpus_file, "3,0,17,40", settings) for settings in (ONCE, ALWAYS))
    for one, other in zip(alone.features, together.features, strict=True):
        assert one.active_count == other.active_count > 0
        assert essence(one) == essence(other)
        assert one.position_histogram == other.position_histogram
        assert one.token_count == other.token_count == together.fit.token_count
        assert one.max_activation == pytest.approx(other.max_activation, rel=1e-6)


@pytest.mark.parametrize("rule", ["topk", "jumprelu"])
@pytest.mark.parametrize("dictionary_tokens", [1, 1_000_000])
def test_screened_and_dense_encoding_give_the_same(
    rule: str, dictionary_tokens: int, model: LanguageModel, corpus_file: Path
) -> None:
    sae = jump_relu() if rule == "jumprelu" else sae_with()
    settings = replace(ALWAYS, dictionary_tokens=dictionary_tokens)
    dense, screened = (
        run(sae, model, corpus_file, "3,0,17,40", replace(settings, encoder=encoder))
        for encoder in ("dense", "screened")
    )
    assert [result.provenance.options["encoder"] for result in (dense, screened)] == ["dense", "screened"]
    for one, other in zip(screened.features, dense.features, strict=True):
        assert one.active_count == other.active_count > 0
        assert essence(one) == essence(other)
        assert one.max_activation == pytest.approx(other.max_activation, rel=1e-5)
    assert screened.fit.explained_variance == pytest.approx(dense.fit.explained_variance, rel=1e-2)
    if dictionary_tokens > 1:
        assert screened.dictionary.density == dense.dictionary.density
        assert screened.fit.l0 == dense.fit.l0
        assert screened.fit.explained_variance == pytest.approx(dense.fit.explained_variance, rel=1e-5)


def test_how_it_encodes_is_measured_and_said(
    model: LanguageModel, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = jump_relu()
    for answer in (sae.new_screen(), None):
        monkeypatch.setattr(UnifiedSAEInterface, "faster_screen", lambda *_, answer=answer: answer)
        result = run(sae, model, corpus_file, "3", ALWAYS)
        assert result.provenance.options["encoder"] == ("screened" if answer else "dense")


def test_a_screen_that_there_is_not_is_refused(model: LanguageModel, corpus_file: Path) -> None:
    sae = sae_with(AbsTopK(8))
    with pytest.raises(SAEFormatError) as raised:
        run(sae, model, corpus_file, "3", replace(ALWAYS, encoder="screened"))
    assert str(raised.value) == (
        "encoder screened knows TopK, ReLU, JumpReLU and gated SAEs on a CPU, and this is AbsTopK(k=8) on cpu: leave "
        "the option out."
    )


def test_what_all_features_were_measured_on_is_said(model: LanguageModel, corpus_file: Path) -> None:
    alone, together = (run(jump_relu(), model, corpus_file, "3", s) for s in (ONCE, ALWAYS))
    assert 0 < alone.fit.measured_tokens < alone.fit.token_count == together.fit.measured_tokens
    assert alone.dictionary.dead_count >= together.dictionary.dead_count


def test_after_the_dictionarys_tokens_nothing_else_is_encoded(
    model: LanguageModel, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    encode = SparseAutoencoder.encode

    def spy(sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        widths.append(sae.W_enc.shape[1])
        return encode(sae, x)

    monkeypatch.setattr(SparseAutoencoder, "encode", spy)
    run(jump_relu(), model, corpus_file, "3,5", replace(ONCE, firings=0, encoder="dense"))
    assert (widths[0], set(widths[1:])) == (D_SAE, {2})


def test_where_all_features_are_asked_for_all_are_measured_on_everything(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path
) -> None:
    result = run(sae, model, corpus_file, "all", ONCE)
    assert result.fit.measured_tokens == result.fit.token_count
    assert result == replace(run(sae, model, corpus_file, "all", ALWAYS), provenance=result.provenance)


def test_a_transcoder_is_measured_against_what_it_writes(model: LanguageModel, corpus_file: Path) -> None:
    """Read at one hook, held against another, and its effect on the logits begins there."""
    reads, writes = "blocks.1.mlp.hook_in", "blocks.1.hook_resid_post"
    origin = Origin(hook=reads, hook_out=writes)
    transcoder = interface(topk_weights(), origin=origin, subtract_b_dec=False, is_transcoder=True)
    result = run(transcoder, model, corpus_file, "all", ALWAYS)
    x, target = [], []
    with torch.no_grad():
        for document in Corpus(source=corpus_file):
            [ids] = model.tokens.tokenize([document.text])
            for begin in range(0, len(ids), 24):
                window = torch.tensor([ids[begin : begin + 24]])
                x.append(model.activations(window, reads)[0])
                target.append(model.activations(window, writes)[0])
    x, target = torch.cat(x).double(), torch.cat(target).double()
    features = transcoder.encode(x.float()).sparse_features
    rebuilt = transcoder.decode(features).double()
    explained = 1 - (target - rebuilt).square().sum() / (target - target.mean(0)).square().sum()
    assert result.fit.explained_variance == pytest.approx(float(explained), rel=1e-5)
    for stats in result.features:
        assert stats.active_count == int((features[:, stats.feature_idx] != 0).sum())
        assert stats.encoder_decoder_cosine is None, "its directions lie in two places"
    run_of = result.provenance
    assert (run_of.hook, run_of.hook_out, run_of.place) == (reads, writes, f"{reads} -> {writes}")
    effects = model.logit_effects(transcoder.decoder_weights[:1], writes)
    assert effects is not None
    assert result.features[0].top_boosted_tokens[0][1] == pytest.approx(float(effects.max()), rel=1e-4)
