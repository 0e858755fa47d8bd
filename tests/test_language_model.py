"""Tokens as bytes, hooks against the network's own hidden states, forward passes that stop, and logit effects."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import D_MODEL, LAYERS, TEXTS, make_model, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from sae_analysis.corpus import Document, TokenStream, Windowing
from sae_analysis.errors import ModelError
from sae_analysis.language_model import TokenText, load_model
from sae_analysis.language_model.huggingface import HuggingFaceModel

IDS = torch.tensor([[5, 17, 42, 99, 7, 200], [0, 3, 0, 8, 8, 19]])  # id 0 is a token like any other
SCRIPTS = (
    "plain words",
    "Über",
    "你好世界",
    "مرحبا",
    "नमस्ते",
    "🤗🏳️‍🌈",
    "tab\there\n\nnew",
    "  two  spaces ",
    "x\x00\x7f",
    "<0x41>",
)


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """Byte-level BPE, as GPT-2, Llama 3 and SmolLM have it."""
    from transformers import AutoTokenizer

    make_tokenizer(folder := tmp_path_factory.mktemp("byte_level"), adds_bos=False)
    return TokenText(AutoTokenizer.from_pretrained(folder))


def sentence_piece(merges=(), words=(), *, truncates=False):
    """SentencePiece BPE with byte fallback, as Llama 2 and Gemma have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghilnorstuw.,Ü", *words]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)}, list(merges), unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if truncates:
        tokenizer.enable_truncation(4)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def byte_fallback():
    return TokenText(sentence_piece(merges=[("▁", "t"), ("t", "h"), ("▁t", "h")], words=["▁t", "th", "▁th"]))


@pytest.mark.parametrize("text", [*TEXTS, *SCRIPTS])
def test_byte_level_tokens_give_back_the_text(byte_level, text):
    [ids] = byte_level.tokenize([text])
    assert byte_level.decode(ids) == text
    assert len(byte_level.strings(ids)) == len(ids)


@pytest.mark.parametrize("text", [*TEXTS, *SCRIPTS])
def test_byte_fallback_tokens_give_back_the_text_behind_the_space_that_sentence_piece_adds(byte_fallback, text):
    [ids] = byte_fallback.tokenize([text])
    assert byte_fallback.decode(ids) == " " + text
    assert len(byte_fallback.strings(ids)) == len(ids)


@given(text=st.text())
def test_any_text_survives_byte_level_tokens(byte_level, text):
    [ids] = byte_level.tokenize([text])
    assert byte_level.decode(ids) == text
    assert "".join(byte_level.strings(ids)).count("�") == text.count("�")


def test_fragments_of_a_character_read_as_bytes(byte_fallback):
    [ids] = byte_fallback.tokenize(["ä\n"])
    assert byte_fallback.strings(ids) == (" ", "<0xC3>", "<0xA4>", "\n")
    assert byte_fallback.decode(ids[:2]) == " �"


def test_byte_level_fragments_read_as_bytes(byte_level):
    [ids] = byte_level.tokenize(["鬱"])
    assert "".join(byte_level.strings(ids)) == "<0xE9><0xAC><0xB1>"
    assert byte_level.strings(byte_level.tokenize([" "])[0]) == (" ",)


def test_word_starts_are_spaces(byte_fallback):
    assert byte_fallback.strings(byte_fallback.tokenize(["the thin"])[0]) == (" th", "e", " th", "i", "n")


def test_special_tokens_read_as_they_are_and_are_known(byte_level, byte_fallback):
    assert byte_level.strings([0, 1, 2]) == ("<bos>", "<eos>", "<pad>")
    assert byte_level.special_token_ids == {0, 1, 2}
    assert byte_fallback.decode([1, 2]) == "<s></s>"
    assert byte_fallback.special_token_ids == {0, 1, 2}


def test_added_tokens_that_are_not_special_keep_their_text_and_count(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path, adds_bos=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<über tool>"])
    tokens = TokenText(tokenizer)
    [ids] = tokens.tokenize(["a<über tool>b"])
    assert tokens.strings(ids) == ("a", "<über tool>", "b")
    assert not tokens.special_token_ids & set(ids)


def test_an_id_beyond_the_vocabulary_reads_as_a_number(byte_level, byte_fallback):
    assert byte_level.strings([100_000]) == byte_fallback.strings([100_000]) == ("<100000>",)


def test_no_token_is_added_and_bos_habits_are_known(byte_level, byte_fallback, bos_model):
    assert byte_level.adds_bos is False
    assert byte_fallback.adds_bos is True
    assert bos_model.tokens.adds_bos is True, "BOS with id 0 is a token, not nothing"
    assert byte_fallback.tokenize(["", "a"])[0] == []
    assert 1 not in byte_fallback.tokenize(["the"])[0]


def test_a_tokenizer_that_truncates_by_itself_drops_nothing():
    tokens = TokenText(sentence_piece(truncates=True))
    assert tokens.decode(tokens.tokenize(["a long line of words"])[0]) == " a long line of words"


# --- hooks ---------------------------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 320,
    "hidden_size": D_MODEL,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
NARROW_HEADS = SMALL | {"head_dim": 4}
GPT2 = {
    "vocab_size": 320,
    "n_embd": D_MODEL,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES = {
    "llama": SMALL,
    "qwen3": NARROW_HEADS,
    "gpt2": GPT2,  # Conv1D: weights the other way round
    "gpt_neox": SMALL,  # attention and MLP side by side, LayerNorm
    "gemma2": NARROW_HEADS,  # norms after attention and MLP, gain 1 + w, capped logits
    "olmo2": SMALL,  # norms after, none before
    "glm4": NARROW_HEADS,  # norms after, under other names
    "phi": SMALL,
    "falcon": {key: value for key, value in SMALL.items() if key != "intermediate_size"},
    "bloom": {"vocab_size": 320, "hidden_size": D_MODEL, "n_layer": LAYERS, "n_head": 4, "initializer_range": 0.4},
    "opt": SMALL | {"ffn_dim": 40, "word_embed_proj_dim": D_MODEL, "init_std": 0.4},  # MLP on a flattened batch
}
SITES = [f"blocks.{layer}.{place}" for layer in range(LAYERS) for place in ("hook_resid_pre", "hook_resid_post")]


def random_model(family, tokens):
    """Build a model of a family with random weights, norms and biases included."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return HuggingFaceModel(family, module, tokens._tokenizer)


@pytest.fixture(scope="module", params=FAMILIES)
def any_model(request, byte_level):
    return random_model(request.param, byte_level)


def test_residual_hooks_are_the_hidden_states_of_the_network(any_model):
    with torch.no_grad():
        states = any_model.module(IDS, output_hidden_states=True).hidden_states
        for layer in range(LAYERS):
            assert torch.equal(any_model.activations(IDS, f"blocks.{layer}.hook_resid_pre"), states[layer])
        for layer in range(LAYERS - 1):  # the last hidden state is reported behind the final norm
            assert torch.equal(any_model.activations(IDS, f"blocks.{layer}.hook_resid_post"), states[layer + 1])


def test_attention_and_mlp_hooks_are_what_is_added_to_the_residual_stream(any_model):
    with torch.no_grad():
        for layer in range(LAYERS):
            found = {
                place: any_model.activations(IDS, f"blocks.{layer}.hook_{place}")
                for place in ("resid_pre", "attn_out", "mlp_out", "resid_post")
            }
            added = found["resid_pre"] + found["attn_out"] + found["mlp_out"]
            torch.testing.assert_close(added, found["resid_post"], rtol=1e-4, atol=1e-4)


def test_the_stream_between_attention_and_mlp_is_a_hook_where_there_is_such_a_place(any_model):
    hook = "blocks.1.hook_resid_mid"
    if any_model.name in ("gpt_neox", "phi", "falcon", "opt", "olmo2"):
        assert hook not in any_model.hooks(), "side by side, or read by the MLP itself, or under a name of its own"
        return
    found = {}
    places = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    with torch.no_grad():
        any_model.visit_activations(IDS, [f"blocks.1.hook_{place}" for place in places], found.__setitem__)
    before, attention, middle, mlp, after = found.values()
    torch.testing.assert_close(middle, before + attention, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after, middle + mlp, rtol=1e-4, atol=1e-4)


def test_what_the_mlp_reads_is_a_hook(any_model):
    if "blocks.1.mlp.hook_in" not in any_model.hooks():
        assert any_model.name == "opt", "whose MLP is no module"
        return
    with torch.no_grad():
        x = any_model.activations(IDS, "blocks.1.mlp.hook_in")
        mlp = any_model.tap("blocks.1.mlp.hook_in").module
        normed = any_model.name in ("gemma2", "olmo2", "glm4")
        if any_model.name != "bloom" and not normed:  # Bloom's MLP adds the residual itself
            torch.testing.assert_close(mlp(x), any_model.activations(IDS, "blocks.1.hook_mlp_out"))
    assert not any_model.tap("blocks.1.mlp.hook_in").is_linear


def test_several_hooks_are_visited_in_one_pass_that_ends_after_the_last(model):
    calls, found = [], {}
    handle = model._layers[2].register_forward_pre_hook(lambda *_: calls.append(1))
    hooks = ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"]
    try:
        with torch.no_grad():
            model.visit_activations(IDS, hooks, found.__setitem__)
    finally:
        handle.remove()
    assert list(found) == ["blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    assert calls == []
    with torch.no_grad():
        for hook, activation in found.items():
            assert torch.equal(activation, model.activations(IDS, hook)), hook


@pytest.mark.parametrize(
    ("path", "hook"),
    [
        ("layers.2", "blocks.2.hook_resid_post"),
        ("model.layers.0.output", "blocks.0.hook_resid_post"),
        ("transformer.h.1", "blocks.1.hook_resid_post"),
        ("gpt_neox.layers.1.input", "blocks.1.hook_resid_pre"),
        ("model.layers.2.mlp", "blocks.2.hook_mlp_out"),
        ("model.layers.2.mlp.input", "blocks.2.mlp.hook_in"),
        ("model.layers.2.self_attn.o_proj.input", "blocks.2.attn.hook_z"),
        ("model.layers.2.self_attn", "blocks.2.hook_attn_out"),
        ("model.layers.2.post_feedforward_layernorm.output", "blocks.2.hook_mlp_out"),
        ("blocks.2.mlp.hook_out", "blocks.2.hook_mlp_out"),
        ("blocks.2.hook_resid_pre", "blocks.2.hook_resid_pre"),
    ],
)
def test_module_paths_are_names_of_hooks_too(model, path, hook):
    assert model.hook_name(path) == hook
    assert model.tap(path) is model.hooks()[hook]


def test_a_place_with_two_names_counts_once(model):
    distinct = model.distinct_hooks()
    assert "blocks.0.hook_resid_pre" in distinct
    assert "blocks.1.hook_resid_pre" not in distinct, "it is what the block before gives"
    assert len(distinct) == len(model.hooks()) - (LAYERS - 1)


@pytest.mark.parametrize(("inner", "outer"), [("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")])
def test_inner_hooks_reach_the_residual_stream_through_their_weights(any_model, inner, outer):
    tap = any_model.tap(f"blocks.1.{inner}")
    with torch.no_grad():
        before, after = (any_model.activations(IDS, f"blocks.1.{place}") for place in (inner, outer))
    assert before.shape == (*IDS.shape, tap.width)
    if tap.is_linear:
        bias = after - before @ tap.to_residual
        torch.testing.assert_close(bias, bias[:1, :1].expand_as(bias), rtol=1e-3, atol=1e-4)
    else:
        assert any_model.name in ("gemma2", "olmo2", "glm4"), "only a norm on the way is not linear"
        assert any_model.logit_effects(torch.ones(1, tap.width), f"blocks.1.{inner}") is None
        assert any_model.logit_convention(f"blocks.1.{inner}") == (
            "none: no linear path leads from this hook to the logits"
        )


def test_replacing_an_activation_by_itself_changes_nothing(any_model):
    with torch.no_grad():
        clean = any_model.forward(IDS)
        for hook in any_model.hooks():
            assert torch.equal(any_model.logits(IDS, hook, lambda x: x), clean), hook


def test_logits_follow_a_replacement_at_the_last_residual(any_model):
    with torch.no_grad():
        state = torch.randn(*IDS.shape, D_MODEL, generator=torch.Generator().manual_seed(1))
        logits = any_model.logits(IDS, f"blocks.{LAYERS - 1}.hook_resid_post", lambda _: state)
        expected = any_model.module.get_output_embeddings()(any_model._final_norm()(state))
        if cap := getattr(any_model.module.config, "final_logit_softcapping", None):
            expected = cap * torch.tanh(expected / cap)
    torch.testing.assert_close(logits, expected)


def test_a_replacement_works_at_every_hook_of_every_shape(any_model):
    with torch.no_grad():
        clean = any_model.forward(IDS)
        for hook in any_model.hooks():
            assert not torch.allclose(any_model.logits(IDS, hook, torch.zeros_like), clean), hook


def test_nothing_behind_the_hook_is_run(any_model):
    calls = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
        for index, layer in enumerate(any_model._layers)
    ]
    head = any_model.module.get_output_embeddings()
    handles.append(head.register_forward_pre_hook(lambda *_: calls.append("logits")))
    try:
        any_model.activations(IDS, "blocks.1.hook_resid_post")
        assert calls == [0, 1]
        calls.clear()
        any_model.activations(IDS, "blocks.0.hook_attn_out")
        assert calls == [0]
    finally:
        for handle in handles:
            handle.remove()


def test_hooks_leave_no_trace(any_model):
    def hooks_set():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in any_model.module.modules())

    def fail(_):
        raise ValueError("stop here")

    before = hooks_set()
    any_model.activations(IDS, "blocks.0.hook_mlp_out")
    with pytest.raises(ValueError, match="stop here"):
        any_model.logits(IDS, "blocks.0.hook_resid_pre", fail)
    assert hooks_set() == before


def test_gradients_follow_the_callers_mode_and_parameters_have_none(model):
    embeddings = model.module.get_input_embeddings()
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not model.activations(IDS, "blocks.1.hook_resid_post").requires_grad

    def require(_module, _args, output):
        return output.requires_grad_()

    handle = embeddings.register_forward_hook(require)
    try:
        assert model.activations(IDS, "blocks.1.hook_resid_post").requires_grad
        with torch.no_grad():
            assert not model.activations(IDS, "blocks.1.hook_resid_post").requires_grad
    finally:
        handle.remove()


def test_padding_at_the_end_is_not_seen(any_model):
    with torch.no_grad():
        alone = any_model.activations(IDS[:, :3], "blocks.2.hook_resid_post")
        padded = IDS.clone()
        padded[:, 3:] = 0
        beside = any_model.activations(padded, "blocks.2.hook_resid_post")[:, :3]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "hook"),
    [
        ("model.layers.1", "blocks.1.hook_resid_post"),
        ("layers.2", "blocks.2.hook_resid_post"),
        ("model.layers.0.mlp", "blocks.0.hook_mlp_out"),
    ],
)
def test_module_paths_name_hooks_too(model, path, hook):
    assert model.tap(path) is model.tap(hook)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("1", "blocks.1.hook_resid_post"),
        ("L1", "blocks.1.hook_resid_post"),
        ("layer 1", "blocks.1.hook_resid_post"),
        ("blocks.1.resid_post", "blocks.1.hook_resid_post"),
        ("resid_post.1", "blocks.1.hook_resid_post"),
        ("resid_pre_layer_1", "blocks.1.hook_resid_pre"),
        ("block.1.hook_resid_mid", "blocks.1.hook_resid_mid"),
        ("blocks.1.hook_resid_pst", "blocks.1.hook_resid_post"),
        ("model.layers.2.residual", "blocks.2.hook_resid_post"),
        ("mlp.2", "blocks.2.hook_mlp_out"),
        ("2.self_attn", "blocks.2.hook_attn_out"),
        ("layers.0.attn_out", "blocks.0.hook_attn_out"),
        ("blocks.0.attn.hook_zz", "blocks.0.attn.hook_z"),
    ],
)
def test_a_near_miss_names_the_hook_meant(model, typed, meant):
    with pytest.raises(ModelError) as caught:
        model.tap(typed)
    assert str(caught.value) == f"Hook '{typed}' does not exist in {model.name}: did you mean {meant}?"


@pytest.mark.parametrize("typed", ["blocks.3.hook_resid_post", "layers.3"])
def test_a_hook_of_a_layer_that_is_not_there_says_which_layers_are(model, typed):
    with pytest.raises(ModelError) as caught:
        model.activations(IDS, typed)
    assert str(caught.value) == (
        f"Hook '{typed}' does not exist in {model.name}, which has layers 0 to 2: did you mean "
        "blocks.2.hook_resid_post?"
    )


def test_a_hook_that_resembles_none_names_the_first(model):
    with pytest.raises(ModelError) as caught:
        model.tap("???")
    assert str(caught.value) == (
        f"Hook '???' does not exist in {model.name}. Nearest: blocks.0.hook_resid_pre, blocks.0.attn.hook_z, "
        "blocks.0.hook_attn_out, blocks.0.hook_resid_mid."
    )


def test_a_hook_that_is_never_reached_is_an_error(model, monkeypatch):
    monkeypatch.setattr(model, "forward", lambda *_: None)
    with pytest.raises(ModelError) as caught:
        model.activations(IDS, "blocks.0.hook_resid_pre")
    assert str(caught.value) == (
        f"Hook 'blocks.0.hook_resid_pre' of {model.name} was never reached by the forward pass: choose another."
    )


def test_hooks_are_found_by_width(model):
    assert model.hooks_of_width(40) == [f"blocks.{layer}.mlp.hook_post" for layer in range(LAYERS)]
    assert model.hooks_of_width(7) == []
    assert len(model.hooks_of_width(D_MODEL)) == 6 * LAYERS + 1, "what a block reads is what the one before it wrote"


def test_sizes_and_context_come_from_the_network(model):
    assert (model.d_model, model.d_vocab, model.context_length) == (D_MODEL, 320, 128)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)


# --- embeddings ----------------------------------------------------------------------------------------------------


def test_embeddings_in_the_place_of_tokens_give_the_same_activations(any_model):
    with torch.no_grad():
        embeddings = any_model.embed(IDS)
        for hook in any_model.hooks():
            expected = any_model.activations(IDS, hook)
            torch.testing.assert_close(any_model.activations_of_embeddings(embeddings, hook), expected), hook


def test_gradients_of_embeddings_are_finite_differences(any_model):
    hook = "blocks.1.hook_resid_post"
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        embeddings = any_model.embed(IDS).double()
    network = any_model.module.double()
    try:

        def value(x):
            return (any_model.activations_of_embeddings(x, hook)[:, -1] @ direction.double()).sum()

        x = embeddings.clone().requires_grad_()
        [gradient] = torch.autograd.grad(value(x), x)
        step = gradient / gradient.norm()  # uphill, where nothing cancels
        with torch.no_grad():
            difference = (value(embeddings + 1e-3 * step) - value(embeddings - 1e-3 * step)) / 2e-3
    finally:
        network.float()
    # Some families compute their norms in float32 whatever the model's format, so the difference is no finer.
    assert float(gradient.norm()) == pytest.approx(float(difference), rel=1e-3)


# --- logit effects -------------------------------------------------------------------------------------------------


def test_logit_effects_are_the_derivative_of_the_logits_at_the_last_residual(any_model):
    """Along a direction, the logits change by effect / scale of the norm, less what the norm's scale takes back."""
    hook = f"blocks.{LAYERS - 1}.hook_resid_post"
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        state = any_model.activations(IDS, hook)[0, -1]
    final = any_model.module.get_output_embeddings()
    derivative = torch.func.jvp(lambda x: final(any_model._final_norm()(x[None, None]))[0, 0], (state,), (direction,))[
        1
    ]
    effects = any_model.logit_effects(torch.stack((direction, state)), hook)
    centred = derivative - derivative.mean()
    weights = torch.linalg.lstsq(effects.T, centred[:, None]).solution[:, 0]
    torch.testing.assert_close(effects.T @ weights, centred, rtol=1e-3, atol=1e-4)
    variance = state.var(correction=0) if any_model.centres else state.square().mean()
    assert weights[0].item() == pytest.approx(1 / variance.sqrt().item(), rel=1e-3)


def test_logit_effects_are_unembedding_times_gain_centred(model):
    gain = torch.linspace(0.5, 2, D_MODEL)
    original = model._final_norm().weight.data
    model._final_norm().weight.data = gain
    try:
        directions = torch.randn(3, D_MODEL)
        expected = (directions * gain) @ model.module.lm_head.weight.T
        expected = expected - expected.mean(1, keepdim=True)
        found = model.logit_effects(directions, "blocks.0.hook_resid_post")
    finally:
        model._final_norm().weight.data = original
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_ignores_a_constant_shift_and_rms_norm_does_not(byte_level):
    direction = torch.randn(1, D_MODEL, generator=torch.Generator().manual_seed(3))
    for family, centres in (("gpt2", True), ("llama", False)):
        network = random_model(family, byte_level)
        with torch.no_grad():
            plain = network.logit_effects(direction, "blocks.0.hook_resid_post")
            shifted = network.logit_effects(direction + 5, "blocks.0.hook_resid_post")
        assert torch.allclose(plain, shifted, atol=1e-3) is centres
        assert ("centred over the residual stream" in network.logit_convention("blocks.0.hook_resid_post")) is centres


def test_logit_effects_of_inner_hooks_go_through_the_output_weights(byte_level):
    network = random_model("gpt2", byte_level)
    directions = torch.randn(2, 4 * D_MODEL, generator=torch.Generator().manual_seed(4))
    through = directions @ network.module.transformer.h[1].mlp.c_proj.weight
    torch.testing.assert_close(
        network.logit_effects(directions, "blocks.1.mlp.hook_post"),
        network.logit_effects(through, "blocks.1.hook_resid_post"),
    )


def test_the_logit_convention_is_said_in_words(byte_level):
    assert random_model("gpt2", byte_level).logit_convention("blocks.1.mlp.hook_post") == (
        "decoder direction x output weights x gain of the final norm (centred over the residual stream, without its "
        "scale) x unembedding, minus the mean over the vocabulary; change of logit, before any soft cap, per unit of "
        "activation"
    )


# --- loading -------------------------------------------------------------------------------------------------------


def refusal(name, **options):
    with pytest.raises(ModelError) as caught:
        load_model(str(name), **options)
    return str(caught.value)


@pytest.fixture
def copied(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.mark.parametrize("missing", ["./models/foo", "../foo", "/models/foo", "~/foo", "models/of/mine"])
def test_what_can_only_be_a_folder_is_said_to_be_missing(missing):
    assert refusal(missing) == (
        f"Model folder {missing} does not exist: give the folder with config.json, tokenizer and safetensors, or a "
        "name of the hub."
    )


def test_an_unknown_name_offline_says_what_to_do():
    message = refusal("no-one/no-such-model")
    assert message.startswith("Model 'no-one/no-such-model' is no local folder, and no hub or cache could give it: We ")
    assert message.endswith(
        ". Check the name and the connection, or give a folder with config.json, tokenizer and safetensors."
    )
    assert "\n" not in message


def test_truncated_weights_are_refused(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refusal(copied) == (
        f"Model folder {copied} cannot be loaded: Error while deserializing header: incomplete metadata, file not "
        "fully covered. It needs config.json, tokenizer and safetensors."
    )


def test_missing_parameters_are_refused_not_invented(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert refusal(copied) == (
        f"Model {copied} lacks 1 of its parameters (first: model.layers.1.mlp.down_proj.weight): its weight file does "
        "not belong to its config.json. Fetch it again."
    )


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(copied, missing):
    (copied / missing).unlink()
    message = refusal(copied)
    assert message.startswith(f"Model folder {copied} cannot be loaded: ")
    assert message.endswith(". It needs config.json, tokenizer and safetensors.")
    assert ":." not in message


def test_an_unknown_number_format_is_refused(model_folder):
    assert refusal(model_folder, dtype="int8") == "dtype int8 is not one of auto, float32, bfloat16, float16."


def test_a_device_that_is_not_there_is_refused(model_folder):
    message = refusal(model_folder, device="no-such-device")
    assert message.startswith("device no-such-device cannot be used: ")
    assert message.endswith(". Try device cpu.")


def test_a_model_without_a_final_norm_is_refused_at_once(byte_level):
    module = nn.Module()
    module.model = nn.Module()
    module.model.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    module.get_input_embeddings = module.get_output_embeddings = lambda: nn.Linear(4, 9)
    module.config = json_config(num_hidden_layers=2)
    with pytest.raises(ModelError) as caught:
        HuggingFaceModel("odd", module, byte_level._tokenizer)
    assert str(caught.value) == (
        "The final norm of odd was not found among norm, ln_f, final_layer_norm, final_layernorm, norm_f, layer_norm."
    )


def test_a_model_that_is_no_stack_of_layers_is_refused(byte_level):
    module = nn.Linear(4, 9)
    module.get_input_embeddings = module.get_output_embeddings = lambda: module
    module.config = json_config(num_hidden_layers=5)
    with pytest.raises(ModelError) as caught:
        HuggingFaceModel("odd", module, byte_level._tokenizer)
    assert str(caught.value) == "odd has no stack of 5 layers that hooks could name: it is not supported."


def json_config(**settings):
    from transformers import PretrainedConfig

    return PretrainedConfig(hidden_size=4, **settings)


def test_float32_is_the_format_on_a_cpu_and_others_can_be_asked_for(model_folder):
    assert load_model(str(model_folder), device="cpu").dtype == torch.float32
    half = load_model(str(model_folder), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.activations(IDS, "blocks.0.hook_resid_post").dtype == torch.bfloat16
    assert half.logits(IDS, "blocks.0.hook_resid_post", lambda x: x.float()).dtype == torch.bfloat16


def test_a_model_may_be_named_by_path(model_folder, tmp_path):
    assert load_model(model_folder, device="cpu").name == str(model_folder)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "gone")
    assert str(caught.value) == refusal(tmp_path / "gone")


def test_what_is_stored_in_half_precision_is_run_in_float32_on_a_cpu(copied):
    halves = {name: weight.bfloat16() for name, weight in load_file(copied / "model.safetensors").items()}
    save_file(halves, copied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert load_model(str(copied), device="cpu").dtype == torch.float32


def test_the_fingerprint_tells_models_apart_but_not_number_formats(model, model_folder, copied, tmp_path):
    again = load_model(str(model_folder), device="cpu", dtype="float16")
    assert again.fingerprint == model.fingerprint
    assert load_model(str(copied), device="cpu").fingerprint == model.fingerprint, "the folder's name is no part"
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copied), device="cpu").fingerprint != model.fingerprint
    config = json.loads((copied / "config.json").read_text())
    shutil.copy(make_model(tmp_path / "fresh", adds_bos=False) / "model.safetensors", copied)
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert load_model(str(copied), device="cpu").fingerprint != model.fingerprint


def test_bos_follows_the_tokenizer(model, bos_model):
    assert (model.prepends_bos, model.bos_reason) == (False, "its tokenizer adds none")
    assert (bos_model.prepends_bos, bos_model.bos_reason) == (True, "its tokenizer adds one")


# --- TransformerLens -----------------------------------------------------------------------------------------------

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


def test_a_lens_name_offline_says_what_to_do():
    pytest.importorskip("transformer_lens")
    message = refusal("gelu-1l")
    assert message.startswith("Model 'gelu-1l' (TransformerLens: NeelNanda/GELU_1L512W_C4_Code) could not be loaded: ")
    assert message.endswith(". Check the connection, or give a local folder.")
    assert "\n" not in message


def test_without_the_library_no_name_is_its_own(monkeypatch):
    from sae_analysis.language_model import transformer_lens

    monkeypatch.setattr(transformer_lens, "find_spec", lambda _: None)
    assert not transformer_lens.knows("gelu-1l")
