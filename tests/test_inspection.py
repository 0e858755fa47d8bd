"""``inspect``: what is said of a checkpoint, as text and as JSON, with and without a model."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from checkpoint_factory import openai, plain
from conftest import D_MODEL, D_SAE, K, make_sae, topk_weights
from training import gather, train_top_k

from sae_analysis.corpus import Document, TokenStream, Windowing
from sae_analysis.inspection import describe, inspect_sae, with_loss
from sae_analysis.main import main
from sae_analysis.reconstruction import SplicedLoss, attach, spliced_loss
from sae_analysis.reconstruction.search import SAMPLE_TEXT
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import SparseAutoencoder, TopK, UnifiedSAEInterface
from sae_analysis.wording import three_digits

ROOT = Path(__file__).resolve().parents[1]
PLACE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def trained_folder(model, tmp_path_factory):
    """An SAE trained at PLACE, whose configuration names another."""
    ids = torch.randint(3, 320, (120, 32), generator=torch.Generator().manual_seed(0))
    weights = train_top_k(gather(model, ids, [PLACE])[PLACE], d_sae=128, k=8)
    return make_sae(tmp_path_factory.mktemp("trained") / "sae", weights, k=8)


def test_without_a_model_it_says_what_the_file_tells(sae):
    weights = topk_weights()
    norms = weights["encoder.weight"].norm(dim=1)
    lowest, median, highest = (
        three_digits(float(one)) for one in (norms.min(), norms.double().quantile(0.5), norms.max())
    )
    found = list(describe(inspect_sae(sae, "some/sae")))
    assert found == [
        "SAE:        some/sae",
        "Format:     dictionary_learning AutoEncoderTopK (dict_class in config.json)",
        f"Shape:      {D_MODEL} -> {D_SAE} features -> {D_MODEL}, autoencoder",
        f"Rule:       TopK(k={K}); features cannot be encoded one by one",
        f"Encoder:    norms {lowest} to {highest}, median {median}",
        "Decoder:    norms 1.00 to 1.00, median 1.00",
        "Cosine:     encoder to decoder 1.00 to 1.00, median 1.00",
        "It says:    hook blocks.1.hook_resid_post",
        f"SHA-256:    {sae.origin.sha256}",
    ]


def test_the_file_may_be_named_without_an_option(sae_folder, capsys):
    assert main(["inspect", "--sae", str(sae_folder)]) == 0
    by_option = capsys.readouterr().out
    assert main(["inspect", str(sae_folder)]) == 0
    assert capsys.readouterr().out == by_option
    with pytest.raises(SystemExit):
        main(["inspect", str(sae_folder), "--sae", str(sae_folder)])
    assert "--sae: not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [["demo"], ["--sae", "demo"], []])
def test_demo_is_the_demo_sae(typed, capsys):
    assert main(["inspect", *typed]) == 0
    assert capsys.readouterr().out.startswith("SAE:        demo/sae (embedded default)\n")


def test_json_holds_the_same_and_more(sae_folder, capsys):
    assert main(["inspect", "--sae", str(sae_folder), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads(json.dumps(asdict(inspect_sae(load_sae(sae_folder), str(sae_folder)))))
    assert (found["k"], found["hook"], found["place"], found["warnings"]) == (K, "blocks.1.hook_resid_post", None, [])


def test_with_a_model_it_finds_the_place_and_contradicts_the_file(trained_folder, model_folder, corpus_file, capsys):
    arguments = ["--sae", str(trained_folder), "--model", str(model_folder), "--threads", "1"]
    assert main(["inspect", *arguments, "--corpus", str(corpus_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    [place] = [line for line in lines if line.startswith("Belongs:")]
    assert place == f"Belongs:    {PLACE}, clearly the best of 19 places of {model_folder} tried on 512 tokens"
    assert lines[lines.index(place) + 1].startswith("Best fit:   good, explained variance 0.")
    assert lines[lines.index(place) + 2].startswith("Loss:       recovered ")
    table = lines[lines.index(place) + 3 :]
    assert table[0].split() == ["explained", "variance", "cosine", "L0", "place"]
    assert table[1].endswith(f"  {PLACE}")
    assert table[13].split() == ["…", "7", "more"]
    assert "Warning:    It says that it reads blocks.1.hook_resid_post, and it reconstructs" in "\n".join(lines)


def test_json_lists_every_place(trained_folder, model_folder, capsys):
    assert main(["inspect", "--sae", str(trained_folder), "--model", str(model_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["place"]["scores"]) == 19
    assert found["place"]["winner"] == found["place"]["scores"][0]
    assert found["place"]["scores"][0]["hook"] == PLACE


def test_where_it_belongs_the_loss_recovered_is_measured(model, trained_folder):
    sae = load_sae(trained_folder)
    place = inspect_sae(sae, "x", model).place
    documents = [Document(name="", text=text) for text in SAMPLE_TEXT]
    windows = Windowing(seq_len=64, max_tokens=512, batch_size=3)
    site = attach(sae, model, PLACE)
    expected = spliced_loss(site, lambda: TokenStream(documents, model.tokens, windows, prepend_bos=False))
    assert place.loss.tokens == expected.tokens
    for kind in ("clean", "spliced", "zero", "mean"):
        assert getattr(place.loss, kind) == pytest.approx(getattr(expected, kind), rel=1e-5)


@pytest.mark.parametrize(
    ("zero", "mean", "said"),
    [
        (12.0, 6.0, ["Loss:       recovered 90.0 % against zero-ablation, 75.0 % against mean-ablation, over 9 "]),
        (12.0, 1.0, ["Loss:       recovered 90.0 % against zero-ablation, over 9 "]),
        (2.001, 2.0, []),
    ],
)
def test_a_share_of_the_loss_is_said_only_where_ablation_costs_something(zero, mean, said, model, sae):
    loss = SplicedLoss(clean=2.0, spliced=3.0, zero=zero, mean=mean, tokens=9)
    found = inspect_sae(sae, "x", model)
    found = replace(found, place=with_loss(found.place, loss))
    assert [line for line in describe(found) if line.startswith("Loss")] == [f"{line}predicted tokens" for line in said]
    json.dumps(asdict(found), allow_nan=False)


def test_no_loss_without_a_winner_nor_for_a_transcoder(model, sae, trained_folder):
    assert inspect_sae(sae, "x", model).place.winner is None
    assert inspect_sae(sae, "x", model).place.loss is None
    trained = load_sae(trained_folder)
    transcoder = UnifiedSAEInterface(trained.model.reread(is_transcoder=True, subtract_b_dec=False))
    assert inspect_sae(transcoder, "x", model).place.loss is None


def test_text_of_lone_tokens_recovers_nothing(model, trained_folder):
    documents = [Document(name="", text=chr(97 + at % 26)) for at in range(200)]
    found = inspect_sae(load_sae(trained_folder), "x", model, documents)
    assert found.place.scores
    assert found.place.loss is None


def test_an_sae_that_belongs_nowhere_is_still_described(model):
    torch.manual_seed(0)
    random = UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=torch.randn(D_MODEL, 40),
            b_enc=torch.zeros(40),
            W_dec=torch.randn(40, D_MODEL),
            b_dec=torch.zeros(D_MODEL),
            rule=TopK(3),
            subtract_b_dec=True,
        )
    )
    found = inspect_sae(random, "random", model)
    assert found.place
    best = found.place.scores[0]
    assert best.explained_variance < 0
    lines = list(describe(found))
    assert (
        f"Belongs:    nowhere: it fits no place of {model.name} (best explained variance "
        f"{best.explained_variance:.3g} at {best.place}), of 19 places tried on 512 tokens"
    ) in lines
    assert "It says:    nothing about where it belongs" in lines


def test_an_sae_that_fits_several_places_alike_belongs_nowhere_clearly(model, sae):
    found = inspect_sae(sae, "x", model)
    assert found.place
    place = replace(found.place, winner=None, scores=(replace(found.place.scores[0], explained_variance=0.01),))
    lines = list(describe(replace(found, place=place)))
    assert f"Belongs:    nowhere clearly, of 1 place of {model.name} tried on 512 tokens" in lines
    assert "Best fit:   weak, explained variance 0.010 on these tokens; other text may give another" in lines


@pytest.mark.parametrize(
    ("explained", "word"),
    [(0.82, "good"), (0.7, "good"), (0.699, "moderate"), (0.42, "moderate"), (0.3, "moderate"), (0.299, "weak")],
)
def test_how_good_a_fit_is_called_depends_on_what_it_explains(explained, word, model, sae):
    """However clearly the place is the best one."""
    place = inspect_sae(sae, "x", model).place
    best = replace(place.scores[0], explained_variance=explained)
    for winner in (best, None):
        found = replace(inspect_sae(sae, "x"), place=replace(place, winner=winner, scores=(best, *place.scores[1:])))
        [line] = [line for line in describe(found) if line.startswith("Best fit")]
        assert (
            line
            == f"Best fit:   {word}, explained variance {explained:.3f} on these tokens; other text may give another"
        )


def test_places_are_counted_once_however_many_readings_are_tried(model, sae, monkeypatch):
    monkeypatch.setattr(model, "centres", True)  # what a model with LayerNorm does: the SAE may have been trained so
    found = inspect_sae(sae, "x", model)
    many = len(model.hooks_of_width(D_MODEL))
    assert len(found.place.scores) == 2 * many == 38
    [said] = [line for line in describe(found) if line.startswith("Belongs:")]
    assert f" of {many} places in 2 readings " in said


def test_an_sae_of_another_width_belongs_to_another_model(model):
    wide = UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=torch.ones(11, 4),
            b_enc=torch.zeros(4),
            W_dec=torch.ones(4, 11) * torch.tensor([1, 1, 1, 0.0])[:, None],
            b_dec=torch.zeros(11),
            rule=TopK(3),
            subtract_b_dec=True,
        )
    )
    lines = list(describe(inspect_sae(wide, "wide", model)))
    assert [line for line in lines if line.startswith(("Belongs", "Warning"))] == [
        f"Belongs:    nowhere in {model.name}: nothing in it is as wide",
        "Warning:    1 of 4 decoder rows is zero.",
        f"Warning:    It reads 11-wide activations, and the hooks of {model.name} are 16 or 40 wide: it belongs to "
        "another model.",
    ]


def test_what_the_format_alone_implies_is_not_said_by_the_file(tmp_path, model, caplog):
    sae = load_sae(openai(tmp_path, plain(D_MODEL, 20)))
    lines = list(describe(inspect_sae(sae, "x")))
    assert (
        "It says:    model gpt2 (assumed from its format); hook blocks.6.hook_resid_post; residual not centred "
        "(assumed from its format)"
    ) in lines
    attach(sae, model, "blocks.1.hook_resid_post")
    assert caplog.messages[0] == f"The SAE was trained on gpt2 (assumed from its format), and is read on {model.name}."


def test_warnings_of_the_reader_are_passed_on(sae):
    sae.origin = replace(sae.origin, warnings=("Mind the gap.",), prepend_bos=False, centred=True, model="m")
    lines = list(describe(inspect_sae(sae, "x")))
    assert "Warning:    Mind the gap." in lines
    assert "It says:    model m; hook blocks.1.hook_resid_post; BOS not prepended; residual centred" in lines


def test_a_transcoder_has_no_cosine(sae):
    transcoder = UnifiedSAEInterface(sae.model.reread(is_transcoder=True, subtract_b_dec=False))
    lines = list(describe(inspect_sae(transcoder, "x")))
    assert lines[2] == f"Shape:      {D_MODEL} -> {D_SAE} features -> {D_MODEL}, transcoder"
    assert not any(line.startswith("Cosine") for line in lines)


def test_a_hook_that_the_model_does_not_have_is_named(model, trained_folder):
    sae = load_sae(trained_folder)
    sae.origin = replace(sae.origin, hook="blocks.7.hook_resid_post")
    lines = list(describe(inspect_sae(sae, "x", model)))
    assert f"Warning:    It says that it reads blocks.7.hook_resid_post, which {model.name} does not have." in lines


def test_another_name_of_the_winning_place_is_no_contradiction(model, trained_folder):
    """The search lists each place by one name; what a block reads is what the one before it wrote."""
    sae = load_sae(trained_folder)
    sae.origin = replace(sae.origin, hook="blocks.1.hook_resid_pre")
    found = inspect_sae(sae, "x", model)
    assert found.place.winner.hook == PLACE
    assert found.warnings == ()


def test_a_reader_that_has_seen_enough_is_no_error(sae_folder):
    """As in ``… inspect … | head -1``: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "main.py", "inspect", "--sae", str(sae_folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
