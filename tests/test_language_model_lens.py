"""TransformerLens' models: hooks as the library caches them, logit effects, tokens and names."""

import pytest
import torch
from conftest import IDS, TEXTS
from torch import nn

from sae_analysis.corpus import Document, TokenStream, Windowing
from sae_analysis.errors import ModelError

TL_SIZES = {
    "n_layers": 2,
    "d_model": 32,
    "n_ctx": 64,
    "d_head": 8,
    "n_heads": 4,
    "d_mlp": 64,
    "act_fn": "gelu",
    "d_vocab": 320,
    "seed": 0,
}


@pytest.fixture(scope="module")
def lens(byte_level):
    """A tiny random model of whichever TransformerLens is installed."""
    transformer_lens = pytest.importorskip("transformer_lens")
    from sae_analysis.language_model.transformer_lens import TransformerLensModel

    if "HookedTransformer" in vars(transformer_lens):
        config = transformer_lens.HookedTransformerConfig(**TL_SIZES, normalization_type="LNPre")
        module = transformer_lens.HookedTransformer(config, tokenizer=byte_level._tokenizer)
    else:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        config = TransformerBridgeConfig(**TL_SIZES, normalization_type="LN")
        module = TransformerBridge.boot_native(config, tokenizer=byte_level._tokenizer)
        module.enable_compatibility_mode()
    return TransformerLensModel("tiny", module)


def test_lens_hooks_are_what_the_library_caches(lens):
    with torch.no_grad():
        logits, cache = lens.module.run_with_cache(IDS)
        assert torch.equal(lens.forward(IDS), logits)
        assert len(lens.hooks()) == 2 * 11
        for hook, tap in lens.hooks().items():
            found = lens.activations(IDS, hook)
            assert found.shape == (*IDS.shape, tap.width)
            cached = hook if hook in cache else hook.replace("mlp.hook_in", "ln2.hook_normalized")
            assert torch.equal(found, cache[cached].flatten(2)), hook


def test_lens_replacement_reaches_the_logits(lens):
    with torch.no_grad():
        clean = lens.forward(IDS)
        for hook in lens.hooks():
            assert torch.equal(lens.logits(IDS, hook, lambda x: x), clean), hook
            assert not torch.allclose(lens.logits(IDS, hook, lambda x: x + 1 + x**2), clean), hook


def test_lens_takes_embeddings_in_the_place_of_tokens(lens):
    with torch.no_grad():
        embeddings = lens.embed(IDS)
        for hook in lens.hooks():
            torch.testing.assert_close(lens.activations_of_embeddings(embeddings, hook), lens.activations(IDS, hook))


def test_lens_stops_at_the_hook(lens):
    calls = []
    handle = lens.module.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        lens.activations(IDS, "blocks.0.hook_resid_post")
    finally:
        handle.remove()
    assert calls == []


def test_lens_logit_effects_are_the_unembedding_of_a_centred_direction(lens):
    directions = torch.randn(2, 32)
    found = lens.logit_effects(directions, "blocks.0.hook_resid_post")
    with torch.no_grad():
        expected = (directions - directions.mean(1, keepdim=True)) @ lens.module.W_U
    torch.testing.assert_close(found, expected - expected.mean(1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert lens.logit_effects(torch.ones(1, 64), "blocks.0.mlp.hook_pre") is None


def test_lens_logit_effects_of_heads_go_through_their_output_weights(lens):
    directions = torch.randn(2, 32)
    through = directions @ lens.module.blocks[1].attn.W_O.reshape(32, 32)
    torch.testing.assert_close(
        lens.logit_effects(directions, "blocks.1.attn.hook_z"),
        lens.logit_effects(through, "blocks.1.hook_resid_post"),
    )


def test_lens_hooks_before_a_norm_have_no_linear_path(lens, monkeypatch):
    """Gemma 2 normalises what attention and MLP add; the block then has norms of these names."""
    for name in ("ln1_post", "ln2_post"):
        monkeypatch.setattr(lens.module.blocks[1], name, nn.Identity(), raising=False)
    normed = type(lens)("normed", lens.module)
    assert not normed.tap("blocks.1.attn.hook_z").is_linear
    assert not normed.tap("blocks.1.mlp.hook_post").is_linear
    assert normed.tap("blocks.0.attn.hook_z").is_linear
    assert normed.tap("blocks.1.hook_attn_out").is_linear


def test_lens_sees_no_padding_at_the_end(lens):
    with torch.no_grad():
        alone = lens.activations(IDS[:, :3], "blocks.1.hook_resid_post")
        padded = IDS.clone()
        padded[:, 3:] = 0
        beside = lens.activations(padded, "blocks.1.hook_resid_post")[:, :3]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


def test_lens_windows_begin_with_exactly_one_bos(lens):
    assert (lens.prepends_bos, lens.bos_reason) == (True, "TransformerLens' default for it is on")
    document = [Document(name="d", text=TEXTS[0])]
    [batch] = TokenStream(document, lens.tokens, Windowing(seq_len=64), prepend_bos=True)
    assert (batch.ids == lens.tokens.bos_token_id).sum() == len(batch.ids)
    assert lens.activations(batch.ids, "blocks.0.hook_resid_post").shape[1] == batch.ids.shape[1]


def test_lens_sizes(lens):
    assert (lens.d_model, lens.d_vocab, lens.context_length) == (32, 320, 64)


def test_lens_without_a_tokenizer_is_refused(lens, monkeypatch):
    from sae_analysis.language_model.transformer_lens import TransformerLensModel

    monkeypatch.setattr(lens.module, "tokenizer", None)
    with pytest.raises(ModelError) as caught:
        TransformerLensModel("tiny", lens.module)
    assert str(caught.value) == "TransformerLens model tiny has no tokenizer, so no text can be analysed with it."


def test_lens_names_resolve_to_their_repositories():
    pytest.importorskip("transformer_lens")
    from sae_analysis.language_model import transformer_lens

    assert transformer_lens.official_name("gelu-1l") == "NeelNanda/GELU_1L512W_C4_Code"
    assert transformer_lens.official_name("GELU-1L") == "NeelNanda/GELU_1L512W_C4_Code"
    assert transformer_lens.knows("gelu-1l")
    assert transformer_lens.knows("NeelNanda/GELU_1L512W_C4_Code")
    assert not transformer_lens.knows("no-such-model")
    assert not transformer_lens.knows("owner/gelu-1l")


def test_without_the_library_no_name_is_its_own(monkeypatch):
    from sae_analysis.language_model import transformer_lens

    monkeypatch.setattr(transformer_lens, "find_spec", lambda _: None)
    assert not transformer_lens.knows("gelu-1l")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_hub_that_does_not_answer_is_asked_once_and_not_for_half_a_minute(monkeypatch, is_there):
    pytest.importorskip("transformer_lens")
    from huggingface_hub import constants

    from sae_analysis.language_model import transformer_lens

    asked, offline = [], []

    def load(*_):
        offline.append(constants.HF_HUB_OFFLINE)
        raise OSError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transformer_lens, "is_on_hub", lambda name: asked.append(name) or is_there)
    monkeypatch.setattr(transformer_lens, "_load", load)
    with pytest.raises(ModelError, match="could not be loaded: no connection"):
        transformer_lens.load("gelu-1l")
    assert (asked, offline) == (["NeelNanda/GELU_1L512W_C4_Code"], [not is_there])
    assert constants.HF_HUB_OFFLINE is False, "of this one loading"
