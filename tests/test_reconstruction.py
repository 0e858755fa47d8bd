"""How well an SAE fits: against plain formulas on dense arrays, and against a forward pass made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import D_MODEL, TEXTS, make_sae
from torch import nn
from training import gather, train_top_k

from sae_analysis.accumulators import FitStatistics
from sae_analysis.corpus import Document, TokenStream, Windowing
from sae_analysis.errors import FitError, ModelError
from sae_analysis.reconstruction import SplicedLoss, attach, check_fit, spliced_loss, update_fit
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import ReLU, SparseAutoencoder, UnifiedSAEInterface

HOOK = "blocks.1.hook_resid_post"


def of_width(width, *, d_sae=4):
    return UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=torch.ones(width, d_sae),
            b_enc=torch.zeros(d_sae),
            W_dec=torch.ones(d_sae, width),
            b_dec=torch.zeros(width),
            rule=ReLU(),
            subtract_b_dec=True,
        )
    )


def linear_sae(decoder):
    """An SAE with a feature for each direction and its opposite: x decoder is what it makes of x."""
    eye = torch.eye(D_MODEL)
    return UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=torch.cat((eye, -eye), dim=1),
            b_enc=torch.zeros(2 * D_MODEL),
            W_dec=torch.cat((decoder, -decoder)),
            b_dec=torch.zeros(D_MODEL),
            rule=ReLU(),
            subtract_b_dec=True,
        )
    )


def batches_of(model, *, prepend_bos, texts=TEXTS, **windowing):
    documents = [Document(name=str(number), text=text) for number, text in enumerate(texts)]
    windowing = Windowing(**{"seq_len": 16, "batch_size": 3} | windowing)
    return lambda: TokenStream(documents, model.tokens, windowing, prepend_bos=prepend_bos)


# --- attaching -----------------------------------------------------------------------------------------------------


def test_the_hook_asked_for_comes_first(sae, model):
    assert attach(sae, model, "blocks.2.hook_resid_pre").hook == "blocks.2.hook_resid_pre"


def test_the_checkpoints_hook_comes_next(sae, model):
    site = attach(sae, model, None)
    assert site.hook == HOOK
    assert site.name == f"{HOOK} of {model.name}"


def test_the_only_hook_of_the_width_needs_no_name(model, monkeypatch):
    taps = {name: tap for name, tap in model.hooks().items() if tap.width == D_MODEL or name.startswith("blocks.2")}
    monkeypatch.setattr(model, "_taps", taps)
    assert attach(of_width(40), model, None).hook == "blocks.2.mlp.hook_post"


def test_no_hook_of_the_width(model):
    with pytest.raises(ModelError) as caught:
        attach(of_width(11), model, None)
    assert str(caught.value) == (
        f"The SAE reads 11-wide activations, and the hooks of {model.name} are 16 or 40 wide: it belongs to another "
        "model."
    )


def test_a_named_hook_of_another_width_names_those_that_fit(model):
    with pytest.raises(FitError) as caught:
        attach(of_width(40), model, HOOK)
    assert str(caught.value) == (
        f"The SAE reads 40-wide activations, but hook {HOOK} of {model.name} gives 16. Hooks that fit: "
        "blocks.0.mlp.hook_post, blocks.1.mlp.hook_post, blocks.2.mlp.hook_post."
    )


def test_a_named_hook_of_another_width_in_a_model_where_none_fits(model):
    with pytest.raises(FitError) as caught:
        attach(of_width(11), model, HOOK)
    assert str(caught.value) == (
        f"The SAE reads 11-wide activations, but hook {HOOK} of {model.name} gives 16. No hook of this model fits: it "
        "belongs to another model."
    )


@pytest.mark.parametrize(
    ("policy", "metadata", "expected", "words"),
    [
        ("always", {"prepend_bos": False}, True, "prepended, not counted (bos always)"),
        ("never", {"prepend_bos": True}, False, "not prepended (bos never)"),
        ("auto", {"prepend_bos": True}, True, "prepended, not counted (the SAE's configuration says so)"),
        ("auto", {"prepend_bos": False}, False, "not prepended (the SAE's configuration says so)"),
        (
            "auto",
            {"prepend_bos": True, "assumed": ("prepend_bos",)},
            True,
            "prepended, not counted (assumed from its format)",
        ),
        ("auto", {}, False, "not prepended (its tokenizer adds none)"),
    ],
)
def test_bos_is_asked_of_the_user_then_the_checkpoint_then_the_model(*, sae, model, policy, metadata, expected, words):
    sae.origin = replace(sae.origin, **({"prepend_bos": None} | metadata))
    site = attach(sae, model, HOOK, policy)
    assert (site.prepend_bos, site.bos) == (expected, words)


def test_bos_with_id_zero_is_a_bos(sae, bos_model):
    sae.origin = replace(sae.origin, prepend_bos=None)
    site = attach(sae, bos_model, HOOK)
    assert (site.prepend_bos, site.bos) == (True, "prepended, not counted (its tokenizer adds one)")


# --- explained variance, cosine, L0 --------------------------------------------------------------------------------


def test_fit_statistics_equal_the_plain_formulas(sae, model):
    ids = torch.randint(3, 320, (6, 20), generator=torch.Generator().manual_seed(0))
    x = model.activations(ids, HOOK).flatten(0, 1)
    fit = FitStatistics(D_MODEL)
    for part in x.split(17):
        code = sae.encode_sparse(part)
        update_fit(fit, part, sae.decode_sparse(code, part), code)
    features = sae.encode(x).sparse_features
    true, found = x.double().numpy(), sae.decode(features).double().numpy()
    explained = 1 - ((true - found) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    cosine = (true * found).sum(1) / np.linalg.norm(true, axis=1) / np.linalg.norm(found, axis=1)
    expected = (explained, cosine.mean(), (features != 0).sum(1).double().mean().item())
    assert fit.finish() == pytest.approx(expected, rel=1e-5)
    assert fit.token_count == 120


def test_no_token_leaves_the_statistics_as_they_were(sae):
    fit = FitStatistics(D_MODEL)
    x = torch.randn(5, D_MODEL)
    code = sae.encode_sparse(x)
    update_fit(fit, x, sae.decode_sparse(code, x), code)
    before = fit.finish()
    nothing = sae.encode_sparse(x[:0])
    update_fit(fit, x[:0], sae.decode_sparse(nothing, x[:0]), nothing)
    assert fit.finish() == before


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_fit_from_the_mean_upwards_passes(value):
    check_fit(value, "hook of model")


@pytest.mark.parametrize(("value", "shown"), [(-0.25, "-0.25"), (-123456.0, "-1.23e+05"), (float("nan"), "nan")])
def test_a_fit_worse_than_the_mean_is_refused(value, shown):
    with pytest.raises(FitError) as caught:
        check_fit(value, "hook of model")
    assert str(caught.value) == (
        f"The SAE does not fit hook of model: its explained variance is {shown}, and a mean would reach 0. Check "
        "`hook` (inspect tries them all), `bos` and `model`, or look at the results anyway with allow_poor_fit."
    )


# --- spliced loss --------------------------------------------------------------------------------------------------


def by_hand(model, sae, batches, bos):
    """The four losses with plain torch hooks, one window at a time, on windows without padding."""
    layer = model.module.model.layers[1]
    windows = [
        (batch.ids[row, : bos + int((batch.windows.token_ids[row] >= 0).sum())], batch.windows.keep[row])
        for batch in batches()
        for row in range(len(batch.ids))
    ]

    def run(ids, edit):
        def hook(_module, _args, output):
            return torch.cat((output[:, :bos], edit(output[:, bos:])), dim=1)

        handle = layer.register_forward_hook(hook)
        try:
            return model.module(ids[None]).logits[0]
        finally:
            handle.remove()

    seen = []
    for ids, keep in windows:
        run(ids, lambda x, keep=keep: seen.append(x[0][torch.from_numpy(keep[: x.shape[1]])]) or x)
    mean = torch.cat(seen).mean(0)
    edits = {
        "clean": lambda x: x,
        "spliced": lambda x: sae.decode(sae.encode(x).sparse_features),
        "zero": torch.zeros_like,
        "mean": mean.expand_as,
    }
    losses = {name: [] for name in edits}
    for ids, keep in windows:
        for name, edit in edits.items():
            log_probabilities = run(ids, edit).log_softmax(-1)
            for position in range(bos + 1, len(ids)):
                if keep[position - bos]:
                    losses[name].append(-log_probabilities[position - 1, ids[position]].item())
    return {name: sum(values) / len(values) for name, values in losses.items()}, len(losses["clean"])


@pytest.mark.parametrize("prepend_bos", [False, True])
def test_spliced_loss_equals_a_forward_pass_by_hand(sae, bos_model, prepend_bos):
    site = replace(attach(sae, bos_model, HOOK), prepend_bos=prepend_bos)
    texts = [*TEXTS, "a special <eos> token, and a window of one", "x"]
    batches = batches_of(bos_model, prepend_bos=prepend_bos, texts=texts)
    with torch.no_grad():
        found = spliced_loss(site, batches)
        expected, tokens = by_hand(bos_model, sae, batches, int(prepend_bos))
    assert found.tokens == tokens
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-4)


def test_an_sae_that_reproduces_its_input_recovers_everything(model):
    site = attach(linear_sae(torch.eye(D_MODEL)), model, HOOK)
    with torch.no_grad():
        loss = spliced_loss(site, batches_of(model, prepend_bos=False))
    assert loss.recovered_against_zero == pytest.approx(1.0, abs=1e-4)
    assert loss.recovered_against_mean == pytest.approx(1.0, abs=1e-4)


def test_an_sae_that_gives_zeros_recovers_nothing(model):
    site = attach(linear_sae(torch.zeros(D_MODEL, D_MODEL)), model, HOOK)
    with torch.no_grad():
        loss = spliced_loss(site, batches_of(model, prepend_bos=False))
    assert loss.spliced == loss.zero
    assert loss.recovered_against_zero == 0.0


def test_recovered_shares_by_hand():
    loss = SplicedLoss(clean=2.0, spliced=3.0, zero=12.0, mean=6.0, tokens=1)
    assert (loss.recovered_against_zero, loss.recovered_against_mean) == (0.9, 0.75)


def test_the_batch_size_does_not_matter(sae, model):
    site = attach(sae, model, HOOK)
    with torch.no_grad():
        one = spliced_loss(site, batches_of(model, prepend_bos=False, batch_size=1))
        many = spliced_loss(site, batches_of(model, prepend_bos=False, batch_size=50))
    assert one.tokens == many.tokens
    assert one.spliced == pytest.approx(many.spliced, rel=1e-5)


def test_nothing_to_predict_is_refused(sae, model):
    with pytest.raises(FitError) as caught:
        spliced_loss(attach(sae, model, HOOK), batches_of(model, prepend_bos=False, texts=["x"]))
    assert str(caught.value) == (
        "No window has two tokens that count, so no prediction can be measured: give more text."
    )


def test_an_sae_with_parameters_leaves_the_grad_mode_to_the_caller(model):
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.W_enc, self.W_dec = nn.Parameter(torch.eye(D_MODEL)), nn.Parameter(torch.eye(D_MODEL))

        def encode(self, x):
            return x @ self.W_enc

        def decode(self, f):
            return f @ self.W_dec

    site = attach(UnifiedSAEInterface(Foreign()), model, HOOK)
    with torch.no_grad():
        loss = spliced_loss(site, batches_of(model, prepend_bos=False))
    assert loss.recovered_against_zero == pytest.approx(1.0, abs=1e-4)


def test_attach_warns_of_an_sae_trained_on_another_model(model, tmp_path, caplog):
    attach(load_sae(make_sae(tmp_path / "other", lm_name="EleutherAI/pythia-70m-deduped")), model, None)
    assert caplog.messages == [
        f"The SAE says that it was trained on EleutherAI/pythia-70m-deduped, and is read on {model.name}."
    ]
    caplog.clear()
    attach(load_sae(make_sae(tmp_path / "same", lm_name=f"somebody/{Path(model.name).name}")), model, None)
    attach(load_sae(make_sae(tmp_path / "silent")), model, None)
    assert caplog.messages == []


def test_attach_passes_on_what_the_reader_warns_of(model, sae, caplog):
    warned = UnifiedSAEInterface(sae.model, origin=replace(sae.origin, warnings=("Mind the gap.", "And the step.")))
    attach(warned, model)
    assert caplog.messages == ["SAE: Mind the gap.", "SAE: And the step."]


def test_attach_warns_of_a_hook_that_the_sae_does_not_name(model, sae, caplog):
    assert sae.origin.hook == "blocks.1.hook_resid_post"
    site = attach(sae, model, "blocks.0.hook_resid_post")
    told = "the SAE says that it reads blocks.1.hook_resid_post"
    assert caplog.messages == [f"{told[0].upper()}{told[1:]}, and is read at blocks.0.hook_resid_post (as asked for)."]
    assert site.hook_reason == f"as asked for; {told}", "it stays with the result"
    caplog.clear()
    nowhere = UnifiedSAEInterface(sae.model, origin=replace(sae.origin, hook="blocks.9.hook_resid_post"))
    assert "reads blocks.9.hook_resid_post" in attach(nowhere, model, "blocks.0.hook_resid_post").hook_reason
    [message] = caplog.messages
    assert message.startswith("The SAE says that it reads blocks.9.hook_resid_post, and")


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("blocks.1.hook_resid_post", "blocks.1.hook_resid_post"),
        ("blocks.1.hook_resid_post", "model.layers.1"),
        ("blocks.1.hook_resid_pre", "blocks.0.hook_resid_post"),
        ("blocks.0.hook_resid_post", "layers.1.input"),
        ("blocks.1.hook_resid_post", None),
        (None, "blocks.0.hook_resid_post"),
    ],
)
def test_attach_does_not_warn_of_another_name_for_a_place(told, asked, model, sae, caplog):
    named = UnifiedSAEInterface(sae.model, origin=replace(sae.origin, hook=told))
    assert "says that" not in attach(named, model, asked).hook_reason
    assert caplog.messages == []


def test_attach_warns_of_where_a_transcoder_writes(model, sae, caplog):
    hook, hook_out, elsewhere = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
    across = sae.model.reread(is_transcoder=True, subtract_b_dec=False)
    transcoder = UnifiedSAEInterface(across, origin=replace(sae.origin, hook=hook, hook_out=hook_out))
    attach(transcoder, model)
    attach(transcoder, model, hook, hook_out=hook_out)
    assert caplog.messages == []
    attach(transcoder, model, hook, hook_out=elsewhere)
    assert caplog.messages == [
        f"The SAE says that it writes {hook_out}, and is read at {hook} -> {elsewhere} (as asked for)."
    ]


def test_attach_warns_where_the_search_finds_another_place_than_the_sae_names(model, tmp_path, caplog):
    ids = torch.randint(3, 320, (120, 32), generator=torch.Generator().manual_seed(0))
    weights = train_top_k(gather(model, ids, [other := "blocks.0.hook_resid_post"])[other], d_sae=128, k=8)
    attach(load_sae(make_sae(tmp_path / "sae", weights, k=8)), model, "auto")
    [message] = caplog.messages
    said = (
        "The SAE says that it reads blocks.1.hook_resid_post, and is read at blocks.0.hook_resid_post (found by search"
    )
    assert message.startswith(said)
