"""What the tool needs of a language model, whichever library runs it."""

import difflib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_analysis.errors import ModelError
from sae_analysis.language_model.hook_names import canonical_hook, layer_count, layer_named, meant_hook, written_before
from sae_analysis.language_model.tokens import TokenText
from sae_analysis.products import fast_products, product

_SAMPLED_VALUES = 1024
"""Values of each parameter that go into the model's fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A place in the model where activations are read, and the way from there to the residual stream."""

    module: nn.Module
    side: Literal["input", "output"]
    """Which side of the module the activation is on."""

    width: int
    """Length of the activation vector."""

    to_residual: Float[Tensor, "width d_model"] | None = None
    """Weights that carry the activation into the residual stream; None where it lives there already."""

    is_linear: bool = True
    """Whether nothing but weights lies between here and the residual stream."""


class _Stop(Exception):  # noqa: N818 - not an error: it ends a forward pass that has gone far enough
    pass


class LanguageModel(ABC):
    """A causal language model that can be read, cut short and edited at its hooks.

    Hooks carry TransformerLens names (``blocks.3.hook_resid_post``). Gradients flow as the caller's mode has it: no
    method enters ``no_grad`` or ``inference_mode``, and parameters never require gradients.
    """

    name: str
    """Name or folder, as asked for."""

    d_model: int
    """Width of the residual stream."""

    d_vocab: int
    """Number of logits."""

    context_length: int | None
    """Most tokens that the model was made for, where its configuration says so."""

    tokens: TokenText
    """Ids to text and back."""

    module: Any
    """The network itself, a ``torch.nn.Module`` with what its library adds."""

    fingerprint: str
    """Hash of the configuration and a sample of every parameter, taken before any change of number format."""

    prepends_bos: bool
    """Whether the model is meant to see BOS first."""

    bos_reason: str
    """Why, for the report."""

    @abstractmethod
    def hooks(self) -> Mapping[str, Tap]:
        """Return every hook by name, in the order of the forward pass."""

    @abstractmethod
    def forward(self, ids: Int64[Tensor, "batch seq"], memory: Any = None) -> Float[Tensor, "batch seq vocab"]:  # noqa: ANN401
        """Return the logits of a whole forward pass, through whatever hooks are set, going on from a memory."""

    def new_memory(self) -> Any:  # noqa: ANN401 - the library's own
        """Return what ``forward`` can fill and go on from, token by token; None where the library has nothing such."""
        return None

    def begin(self, ids: Int64[Tensor, "beginnings seq"], hook: str, repeats: int) -> Any:  # noqa: ANN401, ARG002
        """Run beginnings as far as a hook, and return the memory that ``repeats`` continuations of each go on from.

        None where the library has none. A memory serves one forward pass, which adds to it.
        """
        return None

    @abstractmethod
    def _embedding(self) -> nn.Module:
        """Return the module that turns ids into embeddings."""

    @abstractmethod
    def _final_norm(self) -> nn.Module: ...

    @abstractmethod
    def _unembedding(self) -> Float[Tensor, "d_model vocab"]: ...

    is_centred: bool = False
    """Whether it was loaded with the mean over its entries taken off what is added to the residual stream."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the forward pass."""
        return next(self.module.parameters()).dtype

    def tap(self, hook: str) -> Tap:
        """Return the place that a hook names.

        Raises:
            ModelError: no such hook; the message names the nearest ones.
        """
        return self.hooks()[self.hook_name(hook)]

    def has_hook(self, hook: str) -> bool:
        """Return whether ``tap`` knows the name."""
        return hook in self.hooks() or canonical_hook(hook) in self.hooks()

    def hook_name(self, hook: str) -> str:
        """Return a hook's name among ``hooks``; modules may be named by their path, such as ``model.layers.3``.

        Raises:
            ModelError: no such hook; the message names the nearest ones.
        """
        taps = self.hooks()
        if self.has_hook(hook):
            return hook if hook in taps else canonical_hook(hook)
        layers = layer_count(list(taps))
        has = f", which has layers 0 to {layers - 1}" if (layer_named(hook) or 0) >= layers else ""
        if meant := meant_hook(hook, list(taps)):
            advice = f": did you mean {meant}?"
        else:
            near = difflib.get_close_matches(hook, taps, n=4, cutoff=0.3) or list(taps)[:4]
            advice = f". Nearest: {', '.join(near)}."
        raise ModelError(f"Hook '{hook}' does not exist in {self.name}{has}{advice}")

    def first_name(self, hook: str) -> str:
        """Return the first of all names of a hook's place: what a block reads is what the one before it wrote.

        Raises:
            ModelError: no such hook; the message names the nearest ones.
        """
        name = written_before(self.hook_name(hook))
        place = self.hooks()[name]
        return next(
            first for first, tap in self.hooks().items() if (tap.module, tap.side) == (place.module, place.side)
        )

    def distinct_hooks(self) -> Mapping[str, Tap]:
        """Return the hooks without those that name a place once more, in the order of the forward pass."""
        distinct: dict[tuple[int, str], str] = {}
        for name, tap in self.hooks().items():
            if written_before(name) == name:
                distinct.setdefault((id(tap.module), tap.side), name)
        return {name: self.hooks()[name] for name in distinct.values()}

    def hooks_of_width(self, width: int) -> list[str]:
        """Return the names of the hooks whose activations have that length, each place once."""
        return [name for name, tap in self.distinct_hooks().items() if tap.width == width]

    def activations(
        self,
        ids: Int64[Tensor, "batch seq"],
        hook: str,
        memory: Any = None,  # noqa: ANN401
    ) -> Float[Tensor, "batch seq width"]:
        """Return the activations at a hook, in the model's number format; the forward pass ends there.

        With a ``memory`` of beginnings, ``ids`` continue them.
        """
        found: dict[str, Tensor] = {}
        self.visit_activations(ids, [hook], found.__setitem__, memory)
        return found[hook]

    def embed(self, ids: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch d_embedding"]:
        """Return the embeddings of token ids: what the first module makes of them, before positions are added."""
        return self._embedding()(ids.to(self.device))

    def activations_of_embeddings(
        self, embeddings: Float[Tensor, "batch seq d_embedding"], hook: str
    ) -> Float[Tensor, "batch seq width"]:
        """Return the activations at a hook for embeddings in the place of tokens; differentiable in them.

        With the embeddings of ``embed`` this is what ``activations`` gives for their ids.
        """
        placeholder = torch.zeros(embeddings.shape[:2], dtype=torch.int64)
        tap = Tap(module=self._embedding(), side="output", width=embeddings.shape[-1])
        with _Tapped(tap, lambda _: embeddings):
            return self.activations(placeholder, hook)

    def visit_activations(
        self,
        ids: Int64[Tensor, "batch seq"],
        hooks: Sequence[str],
        visit: Callable[[str, Tensor], None],
        memory: Any = None,  # noqa: ANN401
    ) -> None:
        """Call ``visit`` with each hook and its activations ``[batch, seq, width]``; the pass ends after the last.

        Raises:
            ModelError: no such hook, or one that the forward pass never comes to.
        """
        waiting = set(hooks)

        def reader(hook: str) -> Callable[[Tensor], Tensor]:
            def read(activation: Tensor) -> Tensor:
                visit(hook, activation.reshape(*ids.shape, -1))  # heads side by side; OPT's MLP lays the batch out flat
                waiting.discard(hook)
                if not waiting:
                    raise _Stop
                return activation

            return read

        try:
            with ExitStack() as tapped:
                for hook in waiting:
                    tapped.enter_context(_Tapped(self.tap(hook), reader(hook)))
                tapped.enter_context(fast_products())
                self.forward(ids, memory)
        except _Stop:
            return
        missed = ", ".join(sorted(waiting))
        raise ModelError(f"Hook '{missed}' of {self.name} was never reached by the forward pass: choose another.")

    def logits(
        self, ids: Int64[Tensor, "batch seq"], hook: str, replace: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the logits with the activations at a hook replaced by ``replace`` of them."""

        def edit(activation: Tensor) -> Tensor:
            edited = replace(activation.reshape(*ids.shape, -1))
            return edited.reshape(activation.shape).to(activation.dtype)

        with _Tapped(self.tap(hook), edit):
            return self.forward(ids)

    def logit_convention(self, hook: str) -> str:
        """Say in words how ``logit_effects`` gets from this hook to the logits."""
        tap = self.tap(hook)
        if not tap.is_linear:
            return "none: no linear path leads from this hook to the logits"
        through = "output weights x " if tap.to_residual is not None else ""
        centre = "centred over the residual stream, " if self.centres else ""
        return (
            f"decoder direction x {through}gain of the final norm ({centre}without its scale) x unembedding, "
            "minus the mean over the vocabulary; change of logit, before any soft cap, per unit of activation"
        )

    def logit_effects(
        self, directions: Float[Tensor, "features width"], hook: str
    ) -> Float[Tensor, "features vocab"] | None:
        """Return how much one unit along each direction changes each logit, if nothing later in the model reacts.

        Float32, centred over the vocabulary; the final norm's gain is folded in, its data-dependent scale is left
        out. None where the way from the hook to the logits is not linear.

        Source: the direct path of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
        """
        tap = self.tap(hook)
        if not tap.is_linear:
            return None
        directions = directions.float()
        if tap.to_residual is not None:
            directions = directions @ tap.to_residual.float()
        if self.centres:
            directions = directions - directions.mean(dim=-1, keepdim=True)
        effects = product(directions * self._final_gain(), self._unembedding().float().T)
        return effects.sub_(effects.mean(dim=-1, keepdim=True))  # in place: a chunk of features is larger than caches

    def _probe(self, shift: float) -> tuple[Tensor, Tensor]:
        """Send a vector of unit variance and mean ``shift`` through the final norm; return it and the result."""
        signs = torch.ones(self.d_model, device=self.device)
        signs[1::2] = -1
        with torch.no_grad():
            sent = (signs + shift).to(self.dtype)
            plus, minus = self._final_norm()(sent[None, None]), self._final_norm()(-sent[None, None])
        return signs, (plus - minus).float()[0, 0] / 2

    def _final_gain(self) -> Float[Tensor, " d_model"]:
        """Return the final norm's gain, measured, so that every library's convention (w, 1 + w, none) is right."""
        signs, response = self._probe(shift=0.0)
        return response * signs

    @cached_property
    def centres(self) -> bool:
        """Whether the final norm subtracts the mean: then a constant shift of its input changes nothing."""
        return torch.allclose(self._probe(shift=0.0)[1], self._probe(shift=1.0)[1], rtol=1e-2, atol=1e-4)


class _Tapped:
    """A torch hook on one side of a module that hands the activation to ``edit``; removed on exit, come what may."""

    def __init__(self, tap: Tap, edit: Callable[[Tensor], Tensor]) -> None:
        self._tap, self._edit = tap, edit

    def __enter__(self) -> None:
        if self._tap.side == "input":
            self._handle = self._tap.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            self._handle = self._tap.module.register_forward_hook(self._after)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _before(self, _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (self._edit(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._edit(kwargs["hidden_states"])}

    def _after(self, _module: nn.Module, _args: tuple, output: Any) -> Any:  # noqa: ANN401 - tensor or tuple
        if isinstance(output, tuple):
            return (self._edit(output[0]), *output[1:])
        return self._edit(output)


def fingerprint(config: Mapping[str, Any], module: nn.Module) -> str:
    """Hash a configuration and evenly spaced values of every parameter and buffer that is saved."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        flat = value.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLED_VALUES)
        digest.update(flat[::step].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()
