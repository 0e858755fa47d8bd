"""Where an SAE belongs: found for SAEs trained at known places, left open for those that belong nowhere."""

import pytest
import torch
from conftest import D_MODEL, LAYERS, TEXTS, K
from small_saes import interface
from training import gather, train_top_k

from sae_analysis.corpus import Document, Windowing
from sae_analysis.errors import CorpusError, FitError, ModelError, SAEFormatError
from sae_analysis.real_activations import RealSettings, analyze_real_activations
from sae_analysis.reconstruction import HookSearch, attach, fit_on_sample, search_hook, spliced_loss
from sae_analysis.reconstruction.search import SAMPLE_TEXT
from sae_analysis.records import HookScore
from sae_analysis.sae_interface import (
    AbsTopK,
    LayerNorm,
    Origin,
    TopK,
    UnifiedSAEInterface,
)

PLACES = ["blocks.0.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.0.hook_resid_post", "blocks.2.attn.hook_z"]
D_TRAINED, K_TRAINED = 128, 8
ACROSS = ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def texts():
    return torch.randint(3, 320, (120, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(model, texts):
    """An SAE trained at each place, and a transcoder between two."""
    x = gather(model, texts, [*PLACES, *ACROSS])
    saes = {hook: interface(train_top_k(x[hook], d_sae=D_TRAINED, k=K_TRAINED)) for hook in PLACES}
    across = train_top_k(x[ACROSS[0]], d_sae=D_TRAINED, k=K_TRAINED, target=x[ACROSS[1]])
    return saes | {ACROSS: interface(across, subtract_b_dec=False, is_transcoder=True)}


@pytest.mark.parametrize("place", [PLACES[2], ACROSS])
def test_the_fit_at_a_place_is_what_a_search_finds_there(model, trained, place):
    hook, hook_out = place if place == ACROSS else (place, place)
    site = attach(trained[place], model, hook, hook_out=hook_out if place == ACROSS else None)
    found = search_hook(trained[place], model, None, prepend_bos=site.prepend_bos, pairs=[(hook, hook_out)])
    score, tokens = fit_on_sample(site)
    assert score == found.scores[0]
    assert 400 < tokens <= found.tokens


def random_sae(seed):
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(96, D_MODEL, generator=draw), dim=1)
    zeros = {"encoder.bias": torch.zeros(96), "b_dec": torch.zeros(D_MODEL), "k": torch.tensor(2)}
    return interface(zeros | {"encoder.weight": directions, "decoder.weight": directions.T})


# --- the search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_an_sae_is_found_where_it_was_trained(model, trained, place):
    found = search_hook(trained[place], model, None, prepend_bos=False)
    assert found.winner.hook == found.winner.hook_out == place
    assert found.winner == found.scores[0]
    assert found.scores[0].explained_variance > 0.5


def test_every_place_of_the_width_is_tried_once_and_the_best_come_first(model, trained):
    found = search_hook(trained[PLACES[0]], model, None, prepend_bos=False)
    fitting = [hook for hook, tap in model.hooks().items() if tap.width == D_MODEL]
    assert {score.hook for score in found.scores} == {h for h in fitting if "resid_pre" not in h or ".0." in h}
    variances = [score.explained_variance for score in found.scores]
    assert variances == sorted(variances, reverse=True)
    assert found.tokens == 512


def test_scores_are_those_of_the_plain_formula(model, trained):
    """One place by hand: the same windows, sinks included here, since this model has none."""
    sae, hook = trained[PLACES[2]], "blocks.0.hook_resid_post"
    found = search_hook(sae, model, [Document(name="a", text=TEXTS[0])], prepend_bos=False, pairs=[(hook, hook)])
    ids = torch.tensor([model.tokens.tokenize([TEXTS[0]])[0]])
    with torch.no_grad():
        x = torch.cat([model.activations(part, hook)[0] for part in ids.split(64, dim=1)])
        assert (x.norm(dim=1) < 3 * x.norm(dim=1).median()).all()
        rebuilt = sae.decode(sae.encode(x).sparse_features)
    expected = 1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum()
    assert found.scores[0].explained_variance == pytest.approx(float(expected), rel=1e-4)
    assert found.tokens == ids.shape[1]


def test_progress_tells_of_every_hook(model, trained):
    told = []
    documents = [Document(name="a", text=TEXTS[0])]
    search_hook(trained[PLACES[0]], model, documents, prepend_bos=False, progress=lambda *steps: told.append(steps))
    assert told == [(1, 7 * LAYERS - (LAYERS - 1))] * (7 * LAYERS - (LAYERS - 1))


def test_a_transcoder_is_found_by_what_it_reads_and_writes(model, trained):
    found = search_hook(trained[ACROSS], model, None, prepend_bos=False)
    assert (found.winner.hook, found.winner.hook_out) == ACROSS
    assert found.winner.place == "blocks.1.mlp.hook_in -> blocks.1.hook_mlp_out"
    for score in found.scores:
        assert score.hook.split(".")[1] == score.hook_out.split(".")[1], "within one block"
        assert score.hook != score.hook_out


@pytest.mark.parametrize("seed", range(4))
def test_a_random_sae_belongs_nowhere(model, seed):
    assert search_hook(random_sae(seed), model, None, prepend_bos=False).winner is None


def test_an_sae_that_fits_everywhere_belongs_nowhere_in_particular(model):
    eye = torch.eye(D_MODEL)
    weights = {
        "encoder.weight": torch.cat((eye, -eye)),
        "encoder.bias": torch.zeros(2 * D_MODEL),
        "decoder.weight": torch.cat((eye, -eye)).T,
        "b_dec": torch.zeros(D_MODEL),
        "k": torch.tensor(D_MODEL),
    }
    found = search_hook(interface(weights), model, None, prepend_bos=False)
    assert found.scores[0].explained_variance == pytest.approx(1.0)
    assert found.winner is None


def test_sinks_do_not_decide(model, trained, monkeypatch):
    """One token of a hundred times the norm would explain nearly all variance wherever it is reproduced."""
    real = model.visit_activations

    def with_sinks(ids, hooks, visit):
        def visit_enlarged(hook, x):
            x = x.clone()
            x[:, 0] *= 100
            visit(hook, x)

        real(ids, hooks, visit_enlarged)

    monkeypatch.setattr(model, "visit_activations", with_sinks)
    assert search_hook(trained[PLACES[2]], model, None, prepend_bos=False).winner.hook == PLACES[2]


def test_bos_is_in_front_and_not_counted(bos_model, trained):
    with_bos = search_hook(trained[PLACES[2]], bos_model, None, prepend_bos=True)
    without = search_hook(trained[PLACES[2]], bos_model, None, prepend_bos=False)
    assert with_bos.tokens == without.tokens
    assert with_bos.scores[0].explained_variance != without.scores[0].explained_variance


def test_the_search_leaves_no_trace_on_gradients(model, trained):
    found = search_hook(trained[PLACES[2]], model, None, prepend_bos=False)
    x = torch.randn(2, D_MODEL, requires_grad=True)
    found.readings[""].encode(x).pre_activation.sum().backward()
    assert x.grad is not None


# --- readings ------------------------------------------------------------------------------------------------------


def test_the_sign_that_the_file_leaves_open_is_told_by_the_data(model, texts):
    hook = PLACES[2]
    rules = {"relu": TopK(K_TRAINED), "signed": AbsTopK(K_TRAINED)}
    x = gather(model, texts, [hook])[hook]
    relu = train_top_k(x, d_sae=D_TRAINED, k=K_TRAINED)
    # An SAE whose features are an orthonormal basis explains x by its largest coordinates, whatever their sign.
    basis = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
    signed = {"encoder.weight": basis, "decoder.weight": basis.T, "encoder.bias": torch.zeros(D_MODEL)}
    signed |= {"b_dec": x.mean(0), "k": torch.tensor(K_TRAINED)}
    for weights, expected in ((relu, "relu"), (signed, "signed")):
        sae = interface(weights, rule=rules["relu"], origin=Origin(hook=hook, other_rules=rules))
        site = attach(sae, model)
        assert str(site.sae.rule_name) == str(rules[expected])
        assert (site.hook, site.hook_reason) == (hook, "the SAE's configuration says so")
        assert {score.reading for score in site.hook_search} == {"relu", "signed"}
        asked = attach(sae, model, sign="signed")
        assert asked.sae.rule_name == "AbsTopK(k=8)"


def test_a_sign_asked_of_an_sae_that_leaves_none_open_is_refused(model, sae):
    with pytest.raises(SAEFormatError) as caught:
        attach(sae, model, sign="signed")
    assert str(caught.value) == (
        "The reading signed was asked for, but dictionary_learning AutoEncoderTopK leaves nothing open: its rule is "
        f"TopK(k={K}). Ask for none."
    )


@pytest.fixture
def layer_norm_model(model, monkeypatch):
    """The tiny model, taken for one whose norms take the mean off."""
    monkeypatch.setitem(vars(model), "centres", True)  # where the cached property keeps its answer
    return model


def test_an_sae_trained_on_centred_activations_is_found_out(layer_norm_model, texts):
    hook = PLACES[2]
    x = gather(layer_norm_model, texts, [hook])[hook]
    weights = train_top_k(x - x.mean(1, keepdim=True), d_sae=D_TRAINED, k=K_TRAINED)
    site = attach(interface(weights), layer_norm_model)
    assert (site.hook, site.sae.rule_name) == (hook, "TopK(k=8) after Centring")
    assert site.hook_search[0].reading == "centred"


@pytest.mark.parametrize(
    ("told", "rule"), [(True, "TopK(k=8) after Centring"), (False, "TopK(k=8)"), (None, "TopK(k=8)")]
)
def test_centring_follows_the_checkpoint(layer_norm_model, trained, told, rule):
    sae = UnifiedSAEInterface(trained[PLACES[2]].model, origin=Origin(hook=PLACES[2], centred=told))
    assert attach(sae, layer_norm_model).sae.rule_name == rule


def test_centring_can_be_asked_for_and_is_undone_in_the_reconstruction(model, trained):
    sae = trained[PLACES[2]]
    site = attach(sae, model, PLACES[2], centre="on")
    x = torch.randn(5, D_MODEL) + 3
    mean = x.mean(1, keepdim=True)
    features = site.sae.encode(x).sparse_features
    torch.testing.assert_close(features, sae.encode(x - mean).sparse_features)
    torch.testing.assert_close(site.sae.decode(features, x), sae.decode(features) + mean)
    assert attach(sae, model, PLACES[2], centre="off").sae.rule_name == "TopK(k=8)"


def test_an_sae_that_normalises_by_itself_cannot_be_centred_as_well(model, trained):
    own = UnifiedSAEInterface(trained[PLACES[2]].model.reread(input_norm=LayerNorm()))
    with pytest.raises(SAEFormatError) as caught:
        attach(own, model, PLACES[2], centre="on")
    assert str(caught.value) == "custom module cannot be read in another way than its own."


def test_a_model_already_centred_warns_of_an_sae_that_was_not(layer_norm_model, trained, caplog, monkeypatch):
    monkeypatch.setattr(layer_norm_model, "is_centred", True)
    sae = UnifiedSAEInterface(trained[PLACES[2]].model, origin=Origin(hook=PLACES[2], centred=False))
    attach(sae, layer_norm_model)
    assert caplog.messages == [
        f"The SAE was trained on activations as they are, and {layer_norm_model.name} is loaded with their mean taken "
        "off: its reconstruction may suffer. Give the model by its Hugging Face name or folder."
    ]


# --- attaching -----------------------------------------------------------------------------------------------------


def test_without_a_word_about_its_place_an_sae_is_looked_for(model, trained):
    site = attach(trained[PLACES[0]], model)
    assert site.hook == PLACES[0]
    assert site.hook_reason == f"found by search: explained variance {site.hook_search[0].explained_variance:.3f}"
    assert len(site.hook_search) == 7 * LAYERS - (LAYERS - 1)


def test_auto_looks_for_the_place_whatever_the_checkpoint_says(model, trained):
    wrong = UnifiedSAEInterface(trained[PLACES[0]].model, origin=Origin(hook="blocks.2.hook_resid_post"))
    assert attach(wrong, model).hook == "blocks.2.hook_resid_post"
    assert attach(wrong, model, "auto").hook == PLACES[0]


def test_the_users_text_is_what_is_searched_on(model, trained):
    documents = [Document(name="only", text=TEXTS[0])]
    found = attach(trained[PLACES[2]], model, "auto", documents=documents).hook_search
    assert found != attach(trained[PLACES[2]], model, "auto").hook_search


def test_an_sae_that_fits_no_place_is_told_so(model):
    sae = UnifiedSAEInterface(random_sae(0).model, origin=Origin(hook="blocks.1.hook_resid_post"))
    sae.model.W_dec.neg_()
    [best, *_] = search_hook(sae, model, None, prepend_bos=False).scores
    assert best.explained_variance < 0
    with pytest.raises(ModelError) as caught:
        attach(sae, model, "auto")
    assert str(caught.value) == (
        f"The SAE fits no place of {model.name} (best explained variance {best.explained_variance:.3g} at "
        f"{best.place}, on 512 tokens): give the model that it was trained on, or check `bos`."
    )


@pytest.mark.parametrize("hook", [None, "blocks.9.hook_resid_post"])
def test_a_hook_that_is_not_there_is_not_guessed_where_none_is_as_wide(model, hook):
    weights = {"encoder.weight": torch.ones(9, 7), "decoder.weight": torch.ones(7, 9), "k": torch.tensor(2)}
    weights |= {"encoder.bias": torch.zeros(9), "b_dec": torch.zeros(7)}
    other = interface(weights, origin=Origin(hook="blocks.9.hook_resid_post"))
    with pytest.raises(ModelError) as caught:
        attach(other, model, hook)
    assert str(caught.value) == (
        f"The SAE reads 7-wide activations, and the hooks of {model.name} are {D_MODEL} or 40 wide: it belongs to "
        "another model."
    )


def test_a_hook_that_a_checkpoint_names_and_is_not_there_is_not_guessed(model):
    sae = UnifiedSAEInterface(random_sae(0).model, origin=Origin(hook="blocks.44.hook_resid_post"))
    with pytest.raises(ModelError) as caught:
        attach(sae, model)
    assert str(caught.value) == (
        f"The SAE says that its place is blocks.44.hook_resid_post, and {model.name} has no such hook: give the model "
        "that it was trained on, or look for its place there with inspect, or with auto as `hook`."
    )
    with pytest.raises(ModelError, match=r"which has layers 0 to 2: did you mean blocks\.2\.hook_resid_post\?"):
        attach(sae, model, "blocks.43.hook_resid_post")


def test_an_sae_without_a_clear_place_lists_the_candidates(model):
    with pytest.raises(ModelError) as caught:
        attach(random_sae(0), model)
    scores = search_hook(random_sae(0), model, None, prepend_bos=False).scores
    listed = ", ".join(f"{score.place} {score.explained_variance:.3f}" for score in scores[:6])
    assert str(caught.value) == (
        f"The SAE does not say where it reads, and no hook of {model.name} is clearly its place. Explained variance on "
        f"512 tokens: {listed} and {len(scores) - 6} more. Name one as `hook`, or give the SAE's own model."
    )


def test_a_transcoder_has_two_hooks_and_a_name_for_both(model, trained):
    site = attach(trained[ACROSS], model)
    assert (site.hook, site.hook_out) == ACROSS
    assert site.name == f"{ACROSS[0]} -> {ACROSS[1]} of {model.name}"
    ids = torch.randint(3, 320, (2, 9))
    with torch.no_grad():
        x, target = site.activations(ids)
        assert torch.equal(x, model.activations(ids, ACROSS[0]))
        assert torch.equal(target, model.activations(ids, ACROSS[1]))


def test_a_transcoder_may_be_told_one_hook_and_find_the_other(model, trained):
    for options in ({"hook": ACROSS[0]}, {"hook_out": ACROSS[1]}):
        site = attach(trained[ACROSS], model, **options)
        assert (site.hook, site.hook_out) == ACROSS
        reads, writes = {s.hook for s in site.hook_search}, {s.hook_out for s in site.hook_search}
        assert reads == {ACROSS[0]} if "hook" in options else writes == {ACROSS[1]}, "nothing else is tried"
    told = UnifiedSAEInterface(trained[ACROSS].model, origin=Origin(hook="blocks.1.mlp.input", hook_out="layers.1.mlp"))
    site = attach(told, model)
    assert (site.hook, site.hook_out, site.hook_search) == (*ACROSS, ())


def test_an_output_hook_is_for_transcoders(model, sae):
    with pytest.raises(FitError) as caught:
        attach(sae, model, hook_out="blocks.1.hook_mlp_out")
    assert str(caught.value) == (
        "hook_out is where a transcoder writes, and this SAE writes where it reads: drop the option."
    )


def test_a_transcoder_of_foreign_widths_belongs_to_another_model(model):
    weights = {"encoder.weight": torch.ones(4, D_MODEL), "encoder.bias": torch.zeros(4), "k": torch.tensor(1)}
    sae = interface(weights | {"decoder.weight": torch.ones(11, 4), "b_dec": torch.zeros(11)}, subtract_b_dec=False)
    with pytest.raises(ModelError) as caught:
        attach(sae, model)
    assert str(caught.value) == (
        f"The SAE reads 16-wide activations and writes 11-wide ones, and no layer of {model.name} has such hooks in "
        "this order, but some 16 or 40 wide: it belongs to another model."
    )


def test_a_transcoders_loss_is_that_of_the_output_it_replaces(model, trained):
    """By hand: the reconstruction of what it reads, put in the place of what it writes."""
    from test_reconstruction import batches_of

    site = attach(trained[ACROSS], model)
    batches = batches_of(model, prepend_bos=False, batch_size=1, seq_len=12)
    with torch.no_grad():
        found = spliced_loss(site, batches)
        total, count = 0.0, 0
        for batch in batches():
            x = model.activations(batch.ids, ACROSS[0])
            rebuilt = site.sae.decode(site.sae.encode(x).sparse_features, x)
            logits = model.logits(batch.ids, ACROSS[1], lambda _, rebuilt=rebuilt: rebuilt)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].mT, batch.ids[:, 1:], reduction="none")
            keep = torch.from_numpy(batch.windows.keep)[:, 1:]
            total, count = total + float(loss[keep].sum()), count + int(keep.sum())
    assert found.spliced == pytest.approx(total / count, rel=1e-5)
    assert found.tokens == count


def test_our_own_sample_is_a_few_hundred_tokens_long(model):
    assert sum(len(ids) for ids in model.tokens.tokenize(list(SAMPLE_TEXT))) >= 512


def test_the_library_function_finds_the_hook_and_reads_all_of_a_text_that_can_be_read_once(model, trained):
    documents = [Document(name=f"{number}", text=text) for number, text in enumerate(TEXTS)]
    settings = RealSettings(windowing=Windowing(seq_len=24), allow_poor_fit=True)
    found = analyze_real_activations(trained[PLACES[0]], model, [1], iter(documents), settings=settings).result
    assert found.provenance.hook == PLACES[0]
    assert found.provenance.hook_reason.startswith("found by search")
    assert found.fit.document_count == len(documents)


def test_a_search_without_text_says_so(model, trained):
    with pytest.raises(CorpusError) as caught:
        attach(trained[PLACES[0]], model, documents=[Document(name="empty", text="")])
    assert str(caught.value) == ("The corpus has no text to look for the SAE's place on: give more, or name the hook.")


# --- what counts as clear, by hand ---------------------------------------------------------------------------------


def found(*scores):
    """A search with these (place, reading, explained variance)."""
    listed = [
        HookScore(hook=place, hook_out=place, reading=reading, explained_variance=variance, cosine=1.0, l0=1.0)
        for place, reading, variance in scores
    ]
    names = ("", "centred")
    return HookSearch(scores=tuple(listed), readings=dict.fromkeys(names, random_sae(0)), batches=())


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([("a", "", 0.9), ("b", "", 0.88)], "a"),  # 0.12 unexplained against 0.10
        ([("a", "", 0.9), ("b", "", 0.895)], None),
        ([("a", "", 0.35), ("b", "", 0.1)], "a"),
        ([("a", "", 0.29), ("b", "", 0.1)], None),  # explains too little
        ([("a", "", 0.9)], "a"),
        ([("a", "", 0.9999), ("b", "", 0.99)], "a"),
        ([("a", "", 0.99999), ("b", "", 0.9999)], None),  # both as good as everything
        ([], None),
    ],
)
def test_a_place_wins_only_if_it_is_clearly_best(scores, winner):
    assert (best.place if (best := found(*scores).winner) else None) == winner


@pytest.mark.parametrize(("plain", "reading"), [(0.899, ""), (0.89, "centred")])
def test_at_one_place_the_plainer_reading_is_preferred_if_it_explains_as_much(plain, reading):
    search = found(("a", "centred", 0.9), ("a", "", plain), ("b", "", 0.5))
    assert (search.winner.place, search.winner.reading) == ("a", reading)


def test_two_names_of_one_tensor_are_one_place(model, trained, monkeypatch):
    twin = model.hooks()["blocks.1.hook_resid_pre"]  # what block 0 gives, at another module
    monkeypatch.setattr(model, "_taps", {**model.hooks(), "blocks.0.hook_twin": twin})
    search = search_hook(trained[PLACES[2]], model, None, prepend_bos=False)
    assert search.winner.hook == PLACES[2]
    assert "blocks.0.hook_twin" not in [score.hook for score in search.scores]


def test_scores_leave_bos_out_and_let_it_be_attended_to(bos_model, trained):
    sae, hook = trained[PLACES[2]], PLACES[2]
    document = Document(name="a", text=TEXTS[0][:40])
    search = search_hook(sae, bos_model, [document], prepend_bos=True, pairs=[(hook, hook)])
    [ids] = bos_model.tokens.tokenize([document.text])
    with torch.no_grad():
        x = bos_model.activations(torch.tensor([[0, *ids]]), hook)[0, 1:]
        x = x[x.norm(dim=1) <= 3 * x.norm(dim=1).median()]
        rebuilt = sae.decode(sae.encode(x).sparse_features)
    expected = 1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum()
    assert search.scores[0].explained_variance == pytest.approx(float(expected), rel=1e-4)
