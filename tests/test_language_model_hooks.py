"""Hooks by their names: all that a place goes by, what was meant by a near miss, and several in one pass."""

import pytest
import torch
from conftest import D_MODEL, IDS, LAYERS

from sae_analysis.errors import ModelError


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
        ("model.layers.1", "blocks.1.hook_resid_post"),
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
