"""The synthetic mode as typed: what it prints and writes, and how an interrupted search goes on."""

import shutil

import pytest
import torch
from command_runs import as_typed, names_in, write
from conftest import D_MODEL, D_SAE, make_sae, topk_weights

from sae_analysis.artifacts import read_result
from sae_analysis.language_model import load_model
from sae_analysis.main import main
from sae_analysis.real_activations.stream import Reader
from sae_analysis.reconstruction import attach, fit_on_sample
from sae_analysis.sae_formats import load_sae


def synthetic_result(tmp_path):
    return read_result(tmp_path / "out" / "synthetic.json")


def test_a_search_writes_its_result_and_prints_the_header(
    searching, tmp_path, capsys, model_folder, fitting_sae_folder
):
    assert main(searching()) == 0
    printed = capsys.readouterr()
    result = synthetic_result(tmp_path)
    beyond = sum(stats.max_activation > 1.001 * stats.search.single_token[1] for stats in result.features)
    spent = max(stats.search.token_evaluations for stats in result.features)
    score, tokens = fit_on_sample(attach(load_sae(fitting_sae_folder), load_model(str(model_folder))))
    assert (score.explained_variance > 0.5, 400 < tokens <= 512) == (True, True)
    assert printed.out.splitlines() == [
        f"SAE:      {fitting_sae_folder}: dictionary_learning AutoEncoderTopK (dict_class in config.json), TopK(k=12), "
        f"{D_SAE} features",
        f"Model:    {model_folder}, float32 on cpu, 1 thread",
        "Hook:     blocks.1.hook_resid_post (the SAE's configuration says so)",
        "BOS:      not prepended (its tokenizer adds none)",
        "Text:     none to begin with",
        f"Fit:      explained variance {score.explained_variance:.3f}, cosine {score.cosine:.3f}, L0 {score.l0:.1f} on "
        f"{tokens} tokens of a text of our own",
        f"Search:   600 token-evaluations a feature, sequences of 4 tokens, seed 0; beginnings alone took {spent:,}, "
        "and nothing was searched: give a larger --budget",
        f"Features: 5 of 5 fired, {beyond} of them harder than by any token alone",
        f"Wrote 1 file to {tmp_path / 'out'}:",
        f"  {tmp_path / 'out' / 'synthetic.json'}",
    ]
    assert printed.err == ""
    assert [stats.feature_idx for stats in result.features] == [0, 1, 2, 3, 4]
    assert names_in(tmp_path / "out") == ["synthetic.json"]


def test_a_search_as_typed_finds_the_same_and_says_nothing_on_stderr(searching, tmp_path):
    assert main(searching()) == 0
    first = synthetic_result(tmp_path)
    found = as_typed(searching())
    assert (found.returncode, found.stderr) == (0, "")
    assert synthetic_result(tmp_path).features == first.features


def test_a_search_for_single_tokens_without_bos_is_whole_but_for_fluency(searching, tmp_path):
    """Nothing stands before such a token, so that the model is not surprised by it: JSON and pictures do without."""
    arguments = [one for one in searching(seq_len=1, features="0,1", firings=1) if one != "--no-figures"]
    assert main(arguments) == 0
    drawn = {"feature_0_synthetic.png", "feature_1_synthetic.png", "summary_1_synthetic.png"}
    assert drawn <= set(names_in(tmp_path / "out"))
    for stats in synthetic_result(tmp_path).features:
        assert stats.max_activation > 0
        assert any(len(example.token_ids) == 1 for example in stats.examples)
        for example in stats.examples:  # the best token alone stands behind one that is often expected
            is_alone = example.synthesis.provenance != "single token"
            assert (len(example.token_ids) == 1) == (example.synthesis.cross_entropy is None) == is_alone


def test_search_options_reach_the_result(searching, tmp_path):
    changes = {"learning_rate": 0.3, "fluency": 0.5, "seed": 3, "max_examples": 1, "bos": "always", "features": "7"}
    assert main(searching(**changes, hook="blocks.2.hook_resid_pre")) == 0
    result = synthetic_result(tmp_path)
    assert dict(result.provenance.options) == {
        "seq_len": 4,
        "budget": 600,
        "n_steps": 2,
        "learning_rate": 0.3,
        "fluency": 0.5,
        "max_examples": 1,
        "firings": None,
        "batch_size": 2,
        "seed": 3,
        "bos": "always",
        "list_length": 10,
        "real_windows": 0,
        "threads": "1",
    }
    assert result.provenance.hook == "blocks.2.hook_resid_pre"
    assert result.provenance.bos == "prepended, not counted (bos always)"
    assert [len(stats.examples) for stats in result.features] == [1]
    assert all(len(example.token_ids) <= 4 for example in result.features[0].examples)


def test_a_search_begins_with_the_corpus_or_with_a_real_result_of_it(searching, typed, tmp_path, corpus_file, capsys):
    assert main(searching(corpus=corpus_file)) == 0
    by_corpus = synthetic_result(tmp_path)
    windows = by_corpus.provenance.options["real_windows"]
    assert windows > 0
    said = f"Text:     {corpus_file}: the search began from {windows:,} of its windows, where features fired\n"
    first = capsys.readouterr().out
    assert said in first
    assert main(typed(seq_len=128, features="0-4")) == 0
    [fit] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Fit: ")]
    assert fit in first.splitlines(), "of the text that was read"
    assert main(searching(real=tmp_path / "out" / "real.json")) == 0
    assert fit in capsys.readouterr().out.splitlines(), "of the result that was given"
    by_result = synthetic_result(tmp_path)
    assert by_result.features == by_corpus.features
    assert by_result.provenance.corpus_sha256 == by_corpus.provenance.corpus_sha256 != ""


def test_an_sae_that_explains_less_than_the_mean_is_not_searched_without_text_either(searching, tmp_path, capsys):
    poor = make_sae(tmp_path / "poor", topk_weights() | {"b_dec": torch.full((D_MODEL,), 100.0)})
    assert main(searching(sae=poor)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: The SAE does not fit blocks.1.hook_resid_post of ")
    assert " tokens of a text of our own: its explained variance is -" in error
    assert not (tmp_path / "out").exists()
    assert main(searching("--allow-poor-fit", sae=poor)) == 0
    [fit] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Fit: ")]
    assert "; POOR FIT, the mean explains more: nothing here can be trusted; inspect SAE" in fit


def test_a_fit_is_said_not_to_be_measured_where_the_tokenizer_makes_nothing_of_our_text(searching, capsys, monkeypatch):
    monkeypatch.setattr("sae_analysis.reconstruction.search.SAMPLE_TEXT", ())
    assert main(searching()) == 0
    assert (
        "Fit:      not measured, since the tokenizer makes no token of the text of our own\n" in capsys.readouterr().out
    )


def test_text_decides_where_features_are_asked_for_by_what_they_do(searching, typed, tmp_path, corpus_file):
    assert main(typed(seq_len=128, features="top:3")) == 0
    expected = [stats.feature_idx for stats in read_result(tmp_path / "out" / "real.json").features]
    assert main(searching(corpus=corpus_file, features="top:3")) == 0
    assert [stats.feature_idx for stats in synthetic_result(tmp_path).features] == expected
    assert main(typed(seq_len=128, features="all")) == 0
    assert main(searching(real=tmp_path / "out" / "real.json", features="dead:2")) == 0
    assert [stats.feature_idx for stats in synthetic_result(tmp_path).features] == [32, 33]


def interrupted_after(monkeypatch, batches):
    """Let Ctrl-C be pressed when that many batches have been searched."""
    from sae_analysis.synth_activations import Search

    run, left = Search.run, [batches]

    def count_down(search, progress=None):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run(search, progress)

    monkeypatch.setattr(Search, "run", count_down)


def searched_features(monkeypatch):
    """Return a list that fills with the features that are searched."""
    from sae_analysis.synth_activations import Search

    run, seen = Search.run, []
    monkeypatch.setattr(
        Search, "run", lambda search, progress=None: (seen.extend(search._evaluator.features), run(search, progress))[1]
    )
    return seen


def test_an_interrupted_search_goes_on_where_it_was_and_comes_to_the_same(searching, tmp_path, capsys, monkeypatch):
    assert main(searching()) == 0
    expected = synthetic_result(tmp_path).features
    old = write(tmp_path / "out" / "synthetic.json", "what an earlier run wrote")
    with monkeypatch.context() as during:
        interrupted_after(during, 1)
        capsys.readouterr()
        assert main(searching()) == 130
    assert capsys.readouterr() == (
        "",
        "2 of 5 features finished; the same command goes on from there.\n"
        "Interrupted; what was written before is whole.\n",
    )
    assert old.read_text() == "what an earlier run wrote"
    assert len(names_in(tmp_path / "out")) == 2
    searched = searched_features(monkeypatch)
    assert main(searching()) == 0
    assert capsys.readouterr().err == "Going on with an interrupted run: 2 of 5 features finished.\n"
    assert synthetic_result(tmp_path).features == expected
    assert searched == [2, 3, 4]
    assert names_in(tmp_path / "out") == ["synthetic.json"]


def test_a_damaged_file_of_finished_features_costs_only_what_is_damaged(searching, tmp_path, capsys, monkeypatch):
    assert main(searching()) == 0
    expected = synthetic_result(tmp_path).features
    with monkeypatch.context() as during:
        interrupted_after(during, 2)
        assert main(searching()) == 130
    [kept] = (tmp_path / "out").glob("*.unfinished.jsonl")
    kept.write_bytes(kept.read_bytes()[:-100])
    searched = searched_features(monkeypatch)
    capsys.readouterr()
    assert main(searching()) == 0
    assert capsys.readouterr().err == (
        f"{kept} is damaged; what stands before the damage is used.\n"
        "Going on with an interrupted run: 3 of 5 features finished.\n"
    )
    assert synthetic_result(tmp_path).features == expected
    assert searched == [2, 3, 4], "the whole batch again, so that it is what it would have been"


def test_what_another_run_finished_is_neither_taken_nor_lost(searching, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as during:
        interrupted_after(during, 1)
        assert main(searching()) == 130
    [other] = (tmp_path / "out").iterdir()
    content = other.read_bytes()
    capsys.readouterr()
    searched = searched_features(monkeypatch)
    assert main(searching(seed=1)) == 0
    assert capsys.readouterr().err == (
        f"{other} belongs to a run of other features, settings or text: it is left as it is, and nothing taken.\n"
    )
    assert searched == [0, 1, 2, 3, 4]
    assert other.read_bytes() == content
    assert main(searching()) == 0
    assert searched == [0, 1, 2, 3, 4, 2, 3, 4], "and its own command still goes on from it"


def test_ctrl_c_before_anything_is_finished_leaves_nothing(searching, tmp_path, capsys, monkeypatch):
    interrupted_after(monkeypatch, 0)
    assert main(searching()) == 130
    assert capsys.readouterr().err == (
        "None of 5 features finished, and nothing is kept; the same command begins anew.\n"
        "Interrupted; what was written before is whole.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["synthetic", "compare"])
def test_the_text_is_not_read_again_after_a_search_that_was_interrupted_or_killed(
    mode, searching, corpus_file, tmp_path, monkeypatch
):
    from sae_analysis.synth_activations import Search

    def command(folder):
        return [mode, *searching(corpus=corpus_file, features="0-2", output=tmp_path / folder)[1:]]

    def stop(_search, _progress=None):
        shutil.copytree(tmp_path / "stopped", tmp_path / "killed")  # what a kill at this moment would leave
        raise KeyboardInterrupt

    assert main(command("quiet")) == 0
    with monkeypatch.context() as during:
        during.setattr(Search, "run", stop)
        assert main(command("stopped")) == 130
    monkeypatch.setattr(Reader, "read", None)
    for folder in ("stopped", "killed"):
        assert main(command(folder)) == 0
        assert names_in(tmp_path / folder) == names_in(tmp_path / "quiet")
        quiet, resumed = (read_result(tmp_path / one / "synthetic.json").features for one in ("quiet", folder))
        assert resumed == quiet


def test_a_comparison_keeps_what_it_read_and_searched_until_it_is_written(
    searching, corpus_file, tmp_path, monkeypatch
):
    from sae_analysis import comparison
    from sae_analysis.synth_activations import Search

    command = ["compare", *searching(corpus=corpus_file, features="0-2")[1:]]
    with monkeypatch.context() as during:
        during.setattr(comparison, "compare", interrupt)
        assert main(command) == 130
    monkeypatch.setattr(Reader, "read", None)
    monkeypatch.setattr(Search, "run", None)
    assert main(command) == 0
    assert names_in(tmp_path / "out") == ["comparison.json", "real.json", "synthetic.json"]


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt
