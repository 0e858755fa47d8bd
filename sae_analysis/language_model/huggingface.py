"""Causal language models of the ``transformers`` library, with TransformerLens names for their hooks."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sae_analysis.errors import ModelError
from sae_analysis.language_model.base import LanguageModel, Tap, fingerprint
from sae_analysis.language_model.tokens import TokenText
from sae_analysis.wording import counted

# Where the families of the library keep the last matrix of attention and of the MLP, and the MLP itself.
_ATTENTION_OUTPUTS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.c_proj",
    "attn.out_proj",
    "attn.attention.out_proj",
    "attention.dense",
    "self_attention.dense",
)
_MLP_OUTPUTS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc_out", "mlp.fc2", "fc2")
_NORMS_BEFORE_MLP = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm")
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "layer_norm")
_HUB_PATIENCE = 10.0
"""Seconds to wait for the hub before going on with what is cached."""

_VOLATILE_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


class HuggingFaceModel(LanguageModel):
    """A causal language model as ``AutoModelForCausalLM`` loads it."""

    def __init__(self, name: str, module: Any, tokenizer: Any) -> None:  # noqa: ANN401 - built by the library
        """Wrap a loaded model and its tokenizer.

        Raises:
            ModelError: the model is not a stack of layers, or its final norm is not found.
        """
        config = module.config.get_text_config()
        self.name, self.module = name, module.eval().requires_grad_(False)
        self.tokens = TokenText(tokenizer, module.get_input_embeddings().weight.shape[0])
        self.d_model = config.hidden_size
        self.context_length = getattr(config, "max_position_embeddings", None)
        self.d_vocab = module.get_output_embeddings().weight.shape[0]
        settings = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE_SETTINGS}
        self.fingerprint = fingerprint(settings, module)
        self.prepends_bos = self.tokens.adds_bos
        self.bos_reason = "its tokenizer adds one" if self.prepends_bos else "its tokenizer adds none"
        self._stack_path, self._layers = _layer_stack(module, config.num_hidden_layers, name)
        is_parallel = bool(getattr(config, "use_parallel_residual", False) or getattr(config, "parallel_attn", False))
        self._taps = _taps(self._layers, self.d_model, is_parallel=is_parallel)
        self._final_norm()  # a model without one should say so now, not after the corpus has been read

    def hooks(self) -> Mapping[str, Tap]:
        """Return every hook by name, in the order of the forward pass."""
        return self._taps

    def forward(self, ids: Tensor, memory: Any = None) -> Tensor:  # noqa: ANN401 - the library's cache
        """Return the logits of a whole forward pass, through whatever hooks are set, going on from a memory.

        ``ids [batch seq]`` -> ``[batch seq vocab]``.
        """
        ids = ids.to(self.device)
        return self.module(input_ids=ids, past_key_values=memory, use_cache=memory is not None).logits

    def new_memory(self) -> Any:  # noqa: ANN401
        """Return an empty cache of keys and values."""
        from transformers import DynamicCache

        return DynamicCache()

    def begin(self, ids: Tensor, hook: str, repeats: int) -> Any:  # noqa: ANN401
        """Run beginnings as far as a hook, and return the keys and values that ``repeats`` continuations attend to.

        ``ids [batch seq]``; each row's are there ``repeats`` times, one after the other.
        """
        memory = self.new_memory()
        self.activations(ids, hook, memory)
        memory.batch_repeat_interleave(repeats)
        return memory

    def _embedding(self) -> nn.Module:
        return self.module.get_input_embeddings()

    def _final_norm(self) -> nn.Module:
        parent = self.module.get_submodule(self._stack_path.rpartition(".")[0])
        for name in _FINAL_NORMS:
            if isinstance(norm := getattr(parent, name, None), nn.Module):
                return norm
        raise ModelError(f"The final norm of {self.name} was not found among {', '.join(_FINAL_NORMS)}.")

    def _unembedding(self) -> Tensor:
        return self.module.get_output_embeddings().weight.T


def _layer_stack(module: nn.Module, layers: int, name: str) -> tuple[str, nn.ModuleList]:
    for path, child in module.named_modules():
        if layers and isinstance(child, nn.ModuleList) and len(child) == layers:
            return path, child
    raise ModelError(f"{name} has no stack of {counted(layers, 'layer')} that hooks could name: it is not supported.")


def _taps(layers: nn.ModuleList, d_model: int, *, is_parallel: bool) -> dict[str, Tap]:
    taps = {}
    for index, layer in enumerate(layers):
        named = dict(layer.named_modules())
        # Gemma 2, OLMo 2, GLM-4 and their kin normalise what attention and MLP add to the residual stream. What is
        # called post_attention_layernorm does so only where there is a second one; else it stands before the MLP.
        mlp_norm = _first(named, ("post_feedforward_layernorm", "post_mlp_layernorm"))
        attention_norm = _first(named, ("post_self_attn_layernorm", "post_attention_layernorm")) if mlp_norm else None
        at = f"blocks.{index}."
        taps[at + "hook_resid_pre"] = Tap(module=layer, side="input", width=d_model)
        if output := _first(named, _ATTENTION_OUTPUTS):
            taps[at + "attn.hook_z"] = _before_output(output, is_linear=attention_norm is None)
            taps[at + "hook_attn_out"] = Tap(module=attention_norm or output, side="output", width=d_model)
        before_mlp = _first(named, _NORMS_BEFORE_MLP)
        if before_mlp is not None and before_mlp is not attention_norm and not is_parallel:
            taps[at + "hook_resid_mid"] = Tap(module=before_mlp, side="input", width=d_model)
        if "mlp" in named:
            taps[at + "mlp.hook_in"] = Tap(module=named["mlp"], side="input", width=d_model, is_linear=False)
        if output := _first(named, _MLP_OUTPUTS):
            taps[at + "mlp.hook_post"] = _before_output(output, is_linear=mlp_norm is None)
            taps[at + "hook_mlp_out"] = Tap(module=mlp_norm or output, side="output", width=d_model)
        taps[at + "hook_resid_post"] = Tap(module=layer, side="output", width=d_model)
    return taps


def _first(named: Mapping[str, nn.Module], paths: tuple[str, ...]) -> nn.Module | None:
    return next((named[path] for path in paths if path in named), None)


def _before_output(output: nn.Module, *, is_linear: bool) -> Tap:
    """Return the tap in front of an output matrix; GPT-2's Conv1D holds it the other way round than Linear."""
    weight = output.get_parameter("weight")
    matrix = weight.T if isinstance(output, nn.Linear) else weight
    return Tap(module=output, side="input", width=matrix.shape[0], to_residual=matrix, is_linear=is_linear)


def load(name: str) -> HuggingFaceModel:
    """Load a model and its tokenizer by hub name or local folder, in the number format they are stored in.

    Raises:
        ModelError: not found, not reachable, damaged, incomplete, or no causal language model.
    """
    if Path(name).is_file():
        raise ModelError(f"Model {name} is a file: give the folder with config.json, tokenizer and safetensors.")
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(
            f"Model folder {name} does not exist: give the folder with config.json, tokenizer and safetensors, or a "
            "name of the hub."
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, about a model that is refused in the end
            offline = Path(name).is_dir() or not is_on_hub(name)
            # False, and not the library's None, which asks a person at the terminal whether a model's code may run.
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name, dtype="auto", output_loading_info=True, local_files_only=offline, trust_remote_code=False
            )
    except Exception as error:  # the library raises OSError, ValueError, KeyError, SafetensorError … for bad input
        raise ModelError(_explain(name, error)) from error
    module, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"Model {name} lacks {len(missing)} of its parameters (first: {missing[0]}): its weight file does not "
            "belong to its config.json. Fetch it again."
        )
    return HuggingFaceModel(name, module, tokenizer)


def is_on_hub(name: str) -> bool:
    """Ask the hub once; loading would ask many times before it gives up on a connection that is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage] - of whichever HTTP client

    try:
        HfApi().model_info(name, timeout=_HUB_PATIENCE)
    except (HTTPError, OSError, ValueError):  # no network, no such model or access, no possible name
        return False
    return True


def _explain(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".: ") or type(error).__name__
    if Path(name).is_dir():
        return f"Model folder {name} cannot be loaded: {reason}. It needs config.json, tokenizer and safetensors."
    return (
        f"Model '{name}' is no local folder, and no hub or cache could give it: {reason}. "
        "Check the name and the connection, or give a folder with config.json, tokenizer and safetensors."
    )
