"""Models by TransformerLens name, through the 3.9 interface (HookedTransformer) or that of 4.x (TransformerBridge).

Both end up as a network whose hook points are modules called with the activation, so that everything else is shared.
Weights are processed as the library does by default (layer norms folded, writing weights centred): SAEs such as those
for ``gelu-1l`` were trained on models so processed.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sae_analysis.errors import ModelError
from sae_analysis.language_model.base import LanguageModel, Tap, fingerprint
from sae_analysis.language_model.huggingface import is_on_hub
from sae_analysis.language_model.tokens import TokenText

_LEGACY_OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
"""Repositories in TransformerLens' own format, older than the hub's; 4.x reads them with a loader of their own."""


_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable by which torch loads nothing but weights."""


class TransformerLensModel(LanguageModel):
    """A ``HookedTransformer`` or ``TransformerBridge``."""

    def __init__(self, name: str, module: Any) -> None:  # noqa: ANN401 - the class depends on the installed version
        """Wrap a loaded model, which must have a tokenizer.

        Raises:
            ModelError: it has none.
        """
        if module.tokenizer is None:
            raise ModelError(f"TransformerLens model {name} has no tokenizer, so no text can be analysed with it.")
        self.name, self.module = name, module.eval().requires_grad_(False)
        self.tokens = TokenText(module.tokenizer, module.cfg.d_vocab)
        self.d_model, self.d_vocab = module.cfg.d_model, module.cfg.d_vocab
        self.context_length = module.cfg.n_ctx
        self.is_centred = (module.cfg.normalization_type or "").startswith("LN")
        numbers = {key: value for key, value in vars(module.cfg).items() if isinstance(value, (int, float, str))}
        self.fingerprint = fingerprint({k: v for k, v in numbers.items() if k not in ("device", "dtype")}, module)
        self.prepends_bos = bool(getattr(module.cfg, "default_prepend_bos", True))
        self.bos_reason = f"TransformerLens' default for it is {'on' if self.prepends_bos else 'off'}"
        taps = {name: tap for name, hook in module.hook_dict.items() if (tap := self._tap_at(name, hook))}
        for place, tap in list(taps.items()):  # what the MLP reads has no name of its own in older versions
            if place.endswith("ln2.hook_normalized"):
                taps.setdefault(place.replace("ln2.hook_normalized", "mlp.hook_in"), tap)
        self._taps = taps

    def _tap_at(self, name: str, hook: nn.Module) -> Tap | None:
        cfg = self.module.cfg
        match = re.fullmatch(r"blocks\.(\d+)\.(\S+)", name)
        if not match:
            return None
        block, place = self.module.blocks[int(match[1])], match[2]
        if place in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"):
            return Tap(module=hook, side="output", width=cfg.d_model)
        if place == "attn.hook_z":
            weights = block.attn.W_O.reshape(-1, cfg.d_model)
            linear = not hasattr(block, "ln1_post")  # Gemma 2 normalises what attention adds
            return Tap(module=hook, side="output", width=len(weights), to_residual=weights, is_linear=linear)
        if place in ("mlp.hook_pre", "mlp.hook_post"):
            weights = block.mlp.W_out
            linear = place == "mlp.hook_post" and not hasattr(block, "ln2_post")
            return Tap(module=hook, side="output", width=len(weights), to_residual=weights, is_linear=linear)
        if place in ("ln1.hook_normalized", "ln2.hook_normalized", "mlp.hook_in"):
            return Tap(module=hook, side="output", width=cfg.d_model, is_linear=False)
        return None

    def hooks(self) -> Mapping[str, Tap]:
        """Return every hook by name, in the order the library lists them."""
        return self._taps

    def forward(self, ids: Tensor, memory: Any = None) -> Tensor:  # noqa: ANN401, ARG002 - its caches differ by version
        """Return the logits of a whole forward pass, through whatever hooks are set; there is never a memory.

        ``ids [batch seq]`` -> ``[batch seq vocab]``.
        """
        return self.module(ids.to(self.device), return_type="logits")

    def _embedding(self) -> nn.Module:
        return self.module.embed

    def _final_norm(self) -> nn.Module:
        return self.module.ln_final

    def _unembedding(self) -> Tensor:
        return self.module.W_U


def knows(name: str) -> bool:
    """Return whether the library is installed and the name is one of its own, such as ``gelu-1l``.

    Names with a slash are left to ``transformers``, except those of repositories only this library can read.
    """
    if find_spec("transformer_lens") is None:
        return False
    if "/" in name:
        return name.startswith(_LEGACY_OWNERS)
    return official_name(name) is not None


def official_name(name: str) -> str | None:
    """Return the repository behind a name of the library, or None if it knows no such name."""
    from transformer_lens import supported_models

    for official in supported_models.OFFICIAL_MODEL_NAMES:
        names = (official, *supported_models.MODEL_ALIASES.get(official, ()))
        if name.lower() in (candidate.lower() for candidate in names):
            return official
    return None


def load(name: str) -> TransformerLensModel:
    """Load a model by TransformerLens name.

    Raises:
        ModelError: not known, or not reachable.
    """
    import transformer_lens

    official = official_name(name) or name
    try:
        with _weights_as_data(), _cached_files_listed(), _asking_once(official):
            module = _load(transformer_lens, official)
    except Exception as error:  # the library lets hub, OS and value errors through as they come
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ModelError(
            f"Model '{name}' (TransformerLens: {official}) could not be loaded: {reason}. Check the connection, or "
            "give a local folder."
        ) from error
    return TransformerLensModel(name, module)


def _load(transformer_lens: ModuleType, official: str) -> Any:  # noqa: ANN401
    if "HookedTransformer" in vars(transformer_lens):  # gone since 4.0, and asking for it raises
        return vars(transformer_lens)["HookedTransformer"].from_pretrained(official, device="cpu")
    return _load_bridge(official)


@contextmanager
def _weights_as_data() -> Iterator[None]:
    """Have torch refuse weight files that hold code, whichever way the library asks it to load them."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


@contextmanager
def _cached_files_listed() -> Iterator[None]:
    """Have the hub's client list the files in its cache where the hub is out of reach; the library asks for a list."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage] - of whichever HTTP client

    ask = HfApi.list_repo_files

    def list_repo_files(api: HfApi, repo_id: str, **options: Any) -> list[str]:  # noqa: ANN401 - passed on
        try:
            return ask(api, repo_id, **options)
        except (OSError, HTTPError):
            cached = Path(snapshot_download(repo_id, local_files_only=True))
            return [str(file.relative_to(cached)) for file in cached.rglob("*") if file.is_file()]

    HfApi.list_repo_files = list_repo_files  # pyright: ignore[reportAttributeAccessIssue] - the name of self
    try:
        yield
    finally:
        HfApi.list_repo_files = ask


@contextmanager
def _asking_once(name: str) -> Iterator[None]:
    """Have the hub's client ask no more where it gave no answer; it would ask for half a minute before it gives up."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_on_hub(name)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _load_bridge(official: str) -> Any:  # noqa: ANN401
    from transformer_lens.model_bridge import TransformerBridge

    boot = "boot_tl_legacy" if official.startswith(_LEGACY_OWNERS) else "boot_transformers"
    bridge = getattr(TransformerBridge, boot)(official, device="cpu")
    bridge.enable_compatibility_mode()
    return bridge
