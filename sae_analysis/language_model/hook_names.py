"""Hooks by other people's names: module paths of transformers, brought to TransformerLens' names; near misses."""

import difflib
import re
from collections.abc import Sequence

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

_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")
_SAY_NO_PLACE = ("model", "transformer", "blocks", "block", "layers", "layer", "l", "h", "hook")
"""Words of a name that do not say which place in a layer is meant."""

_RESIDUAL = {"resid", "residual", "stream"}
"""Words that alone mean the residual stream."""

_RESEMBLES = 0.5
"""Likeness of words, by difflib's measure, from which a place may be the one meant."""


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


def written_before(name: str) -> str:
    """Return the hook of the block before where a name means what that one wrote; else the name as it is."""
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", name)
    return f"blocks.{int(match[1]) - 1}.hook_resid_post" if match and int(match[1]) else name


def layer_count(hooks: Sequence[str]) -> int:
    """Return how many layers have a hook among these."""
    return len({match[1] for hook in hooks if (match := _LAYER.fullmatch(hook))})


def layer_named(name: str) -> int | None:
    """Return the layer that a name of any kind speaks of: its only number."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[0]) if len(numbers) == 1 else None


def meant_hook(name: str, hooks: Sequence[str]) -> str | None:
    """Return the hook that a near miss such as ``9``, ``resid_post.9`` or ``blocks.9.resid_post`` means, if one.

    A layer alone means the residual stream behind it, as ``layers.9`` does; a layer beyond the last means the last.
    """
    if (layer := layer_named(name)) is None:
        return None
    at = f"blocks.{min(layer, layer_count(hooks) - 1)}."
    words = [word for word in re.findall(r"[a-z]+", name.lower()) if word not in _SAY_NO_PLACE]
    said = "" if _RESIDUAL.issuperset(words) else "_".join(words)
    if (synonym := canonical_hook((at + said).rstrip("."))) in hooks:
        return synonym
    places = {
        hook.removeprefix(at).replace("hook_", "").replace(".", "_"): hook for hook in hooks if hook.startswith(at)
    }
    near = difflib.get_close_matches(said, places, n=1, cutoff=_RESEMBLES)
    return places[near[0]] if near else None
