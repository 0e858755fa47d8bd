"""Families of models: hooks against the network's own hidden states, passes that stop, embeddings, logit effects."""

import pytest
import torch
from conftest import D_MODEL, IDS, LAYERS

from sae_analysis.language_model.huggingface import HuggingFaceModel

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
    mlp, seen = any_model.tap("blocks.1.mlp.hook_in").module, []
    with torch.no_grad():
        x = any_model.activations(IDS, "blocks.1.mlp.hook_in")
        handle = mlp.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        any_model.module(IDS)
        handle.remove()
        assert torch.equal(x, seen[0].reshape(x.shape))
        normed = any_model.name in ("gemma2", "olmo2", "glm4")
        if any_model.name != "bloom" and not normed:  # Bloom's MLP adds the residual itself
            torch.testing.assert_close(mlp(x), any_model.activations(IDS, "blocks.1.hook_mlp_out"))
    assert not any_model.tap("blocks.1.mlp.hook_in").is_linear


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


def test_padding_at_the_end_is_not_seen(any_model):
    with torch.no_grad():
        alone = any_model.activations(IDS[:, :3], "blocks.2.hook_resid_post")
        padded = IDS.clone()
        padded[:, 3:] = 0
        beside = any_model.activations(padded, "blocks.2.hook_resid_post")[:, :3]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)


# --- embeddings ----------------------------------------------------------------------------------------------------


def test_embeddings_in_the_place_of_tokens_give_the_same_activations(any_model):
    with torch.no_grad():
        embeddings = any_model.embed(IDS)
        for hook in any_model.hooks():
            expected = any_model.activations(IDS, hook)
            found = any_model.activations_of_embeddings(embeddings, hook)
            torch.testing.assert_close(found, expected, msg=lambda said, hook=hook: f"{hook}: {said}")


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
