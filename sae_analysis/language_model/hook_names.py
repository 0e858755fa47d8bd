"""Hooks by other people's names: module paths of transformers, brought to TransformerLens' names."""

import re

_BLOCK = re.compile(r"(?:[\w]+\.)*?(?:layers|h|blocks|layer)\.(\d+)(?:\.(.+))?")

_PLACES = {
    "": "hook_resid_post",
    "output": "hook_resid_post",
    "input": "hook_resid_pre",
    "mlp": "hook_mlp_out",
    "mlp.output": "hook_mlp_out",
    "mlp.input": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "self_attn": "hook_attn_out",
    "self_attn.output": "hook_attn_out",
    "self_attn.o_proj.input": "attn.hook_z",
    "attn": "hook_attn_out",
    "attn.output": "hook_attn_out",
    "attention": "hook_attn_out",
    "attention.output": "hook_attn_out",
}
"""TransformerLens' place in a block by the path inside a layer."""

_SYNONYMS = {"mlp.hook_out": "hook_mlp_out", "hook_out": "hook_resid_post", "attn.hook_out": "hook_attn_out"}
"""Names that TransformerLens has used for one place."""


def canonical_hook(name: str) -> str:
    """Return TransformerLens' name for a hook, or the name as it is where it is none of the known paths.

    ``model.layers.3``, ``layers.3``, ``transformer.h.3`` and ``model.layers.3.output`` all mean what
    ``blocks.3.hook_resid_post`` means.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    place = match[2] or ""
    found = _PLACES.get(place) or _SYNONYMS.get(place)
    return f"blocks.{match[1]}.{found}" if found else name
