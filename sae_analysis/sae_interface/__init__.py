"""One face for every sparse autoencoder.

A supported checkpoint becomes a ``SparseAutoencoder``; anything else that has an ``encode`` method can be wrapped as
it is. Both are used through ``UnifiedSAEInterface``.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_interface.autoencoder import (
    Centring,
    ConstantNorm,
    InputNorm,
    LayerNorm,
    MatchingPursuit,
    Pursuit,
    SparseAutoencoder,
)
from sae_analysis.sae_interface.foreign import ForeignSAE
from sae_analysis.sae_interface.rules import (
    AbsTopK,
    ActivationRule,
    Gated,
    GroupMax,
    JumpReLU,
    ReLU,
    SelectingRule,
    TopK,
)
from sae_analysis.sae_interface.screening import Screen, can_screen

__all__ = [
    "AbsTopK",
    "ActivationRule",
    "Centring",
    "ConstantNorm",
    "Encoder",
    "Gated",
    "GroupMax",
    "InputNorm",
    "JumpReLU",
    "LayerNorm",
    "MatchingPursuit",
    "Origin",
    "Pursuit",
    "ReLU",
    "SAEOutput",
    "Screen",
    "SparseAutoencoder",
    "SparseCode",
    "TopK",
    "UnifiedSAEInterface",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEOutput:
    """What one encoding gives."""

    sparse_features: Float[Tensor, "*batch d_sae"]
    """Activations; zero where the rule keeps a feature silent."""

    top_values: Float[Tensor, "*batch k"]
    """The largest activations (by magnitude) of each token, largest first; zeros where fewer than k fired."""

    top_indices: Int64[Tensor, "*batch k"]
    """Features of ``top_values``."""

    pre_activation: Float[Tensor, "*batch d_sae"]
    """Pre-activations before the rule, as computed, never rebuilt from what the rule selected."""


class SparseCode(NamedTuple):
    """The non-zero activations of a batch of tokens, as parallel arrays ordered by token."""

    token: Int64[Tensor, " n"]
    feature: Int64[Tensor, " n"]
    value: Float[Tensor, " n"]


_WORTH_SCREENING = 1 << 20
"""Weights of an encoder below which it is not worth measuring what would be faster."""

_CLEARLY_FASTER = 0.9
"""Share of the time that screening may take: where it is close, no run should choose otherwise than the one before."""

_TIMES = 2
"""How often each way to encode is timed; the shortest counts, since whatever else the machine does takes time away."""

Encoder = Callable[[Float[Tensor, "tokens d_in"]], SparseCode]

Probe = Callable[[Float[Tensor, "*batch d_in"]], Float[Tensor, "*batch features"]]
"""Gives the activation of each of some features where it fires upwards, else the margin that it lacks, at most 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a checkpoint says about itself, and how it was read."""

    format_name: str = "custom module"
    """For instance ``dictionary_learning AutoEncoderTopK``."""

    reason: str = "given as an object"
    """What it was recognised by."""

    hook: str | None = None
    """Where it reads."""

    hook_out: str | None = None
    """Where it writes, if elsewhere."""

    model: str | None = None
    """What it was trained on."""

    prepend_bos: bool | None = None
    """Whether BOS stood in front of what it was trained on."""

    centred: bool | None = None
    """Whether it was trained on a residual stream whose mean over the entries had been taken off."""

    assumed: tuple[str, ...] = ()
    """Which of these it does not say itself: SAEs of its format are known for them."""

    warnings: tuple[str, ...] = ()
    """What its user should know before believing the results."""

    other_rules: Mapping[str, ActivationRule] = field(default_factory=dict)
    """Rules that the file leaves open, by name; its SAE has the first of them until data decides."""

    sha256: str = ""
    """Hash of the weight file."""


class UnifiedSAEInterface:
    """Any SAE behind one interface: ours, or a foreign ``nn.Module`` with ``encode`` (see ``ForeignSAE``)."""

    def __init__(self, sae_model: nn.Module, *, origin: Origin | None = None) -> None:
        """Wrap an SAE.

        Raises:
            SAEFormatError: no ``encode``, or no weights under the usual names.
        """
        self.model = sae_model
        self.origin = origin or Origin()
        self._sae = sae_model if isinstance(sae_model, SparseAutoencoder) else ForeignSAE(sae_model)

    @property
    def encoder_weights(self) -> Float[Tensor, "d_in d_sae"]:
        """One column a feature: pre-activation for each unit of what the encoder sees."""
        return self._sae.W_enc

    @property
    def decoder_weights(self) -> Float[Tensor, "d_sae d_out"]:
        """One row a feature: what one unit of its activation adds to the reconstruction."""
        return self._sae.W_dec

    @property
    def dict_size(self) -> int:
        """Number of features."""
        return self.encoder_weights.shape[1]

    @property
    def activation_dim(self) -> int:
        """Width of the activations it reads."""
        return self.encoder_weights.shape[0]

    @property
    def output_dim(self) -> int:
        """Width of the activations it writes."""
        return self.decoder_weights.shape[1]

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes elsewhere than it reads."""
        return self._sae.is_transcoder

    @property
    def k(self) -> int | None:
        """Most features active on one token, where the architecture fixes it."""
        return self._sae.k if isinstance(self._sae, ForeignSAE) else self._sae.rule.k

    @property
    def rule_name(self) -> str:
        """Activation rule in words, for reports."""
        if isinstance(self._sae, ForeignSAE):
            return f"{type(self.model).__name__}.encode"
        norm = f" after {self._sae.input_norm}" if self._sae.input_norm else ""
        return f"{self._sae.rule}{norm}"

    def to(self, device: str | torch.device) -> "UnifiedSAEInterface":
        """Move the weights and return the same object."""
        self._sae.to(device)
        return self

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> SAEOutput:
        """Encode activations; differentiable in ``x``.

        Raises:
            FitError: ``x`` has another width than the SAE reads.
        """
        self._check_width(x)
        features, pre_activation = self._sae.encode(x)
        active = (features != 0).sum(-1)
        k = self.k or (int(active.max()) if active.numel() else 0)
        top_indices = features.abs().topk(k, dim=-1).indices
        return SAEOutput(
            sparse_features=features,
            top_values=features.gather(-1, top_indices),
            top_indices=top_indices,
            pre_activation=pre_activation,
        )

    def encode_sparse(self, x: Float[Tensor, "tokens d_in"], screen: Screen | None = None) -> SparseCode:
        """Return only the non-zero activations, in order of token; for TopK, no dense array of them is built.

        With a ``screen`` of this SAE, what cannot fire is not computed, and nothing is differentiable.

        Raises:
            FitError: ``x`` has another width than the SAE reads.
        """
        self._check_width(x)
        if screen is not None:
            return SparseCode(*screen.encode(x))
        if isinstance(self._sae, SparseAutoencoder) and isinstance(self._sae.rule, SelectingRule):
            values, indices = self._sae.rule.select(self._sae.pre_activation(x))
            token, place = values.nonzero(as_tuple=True)
            return SparseCode(token, indices[token, place], values[token, place])
        features, _ = self._sae.encode(x)
        token, feature = features.nonzero(as_tuple=True)
        return SparseCode(token, feature, features[token, feature])

    def new_screen(self) -> Screen | None:
        """Return what saves ``encode_sparse`` most of its work; None where the rule or the device does not allow it."""
        return Screen(self._sae) if isinstance(self._sae, SparseAutoencoder) and can_screen(self._sae) else None

    def faster_screen(self, x: Float[Tensor, "tokens d_in"]) -> Screen | None:
        """Return a screen if activations ``x`` are clearly faster encoded by it: not every processor has the means."""
        if self.encoder_weights.numel() < _WORTH_SCREENING or (screen := self.new_screen()) is None:
            return None
        seconds = {}
        for candidate in (screen, None):
            self.encode_sparse(x, candidate)  # the first of anything is slow
            seconds[candidate] = min(self._seconds(x, candidate) for _ in range(_TIMES))
        return screen if seconds[screen] < _CLEARLY_FASTER * seconds[None] else None

    def _seconds(self, x: Tensor, screen: Screen | None) -> float:
        begin = time.perf_counter()
        self.encode_sparse(x, screen)
        return time.perf_counter() - begin

    def encoder_of(
        self, features: Sequence[int], screen: Screen | None = None, density: Float[Tensor, " d_sae"] | None = None
    ) -> Encoder:
        """Return a function like ``encode_sparse`` that gives these features alone.

        Where the rule allows it (``SeparableRule``), it computes nothing else; others encode everything and select,
        or with a ``screen`` only the tokens on which one of these may fire, which takes less where the ``density`` of
        all features is known.
        """
        chosen = torch.tensor(sorted(set(features)), dtype=torch.int64, device=self.encoder_weights.device)
        narrow = self._sae.only(chosen) if isinstance(self._sae, SparseAutoencoder) and len(chosen) else None
        asked_for = torch.zeros(self.dict_size, dtype=torch.bool, device=chosen.device)
        asked_for[chosen] = True

        if screen is not None:
            screen = screen.only(asked_for, torch.ones(self.dict_size) if density is None else density)

        def encode_and_select(x: Float[Tensor, "tokens d_in"]) -> SparseCode:
            if screen is not None:
                return self.encode_sparse(x, screen)
            code = self.encode_sparse(x)
            wanted = asked_for[code.feature]
            return SparseCode(code.token[wanted], code.feature[wanted], code.value[wanted])

        if narrow is None:
            return encode_and_select

        def encode_narrow(x: Float[Tensor, "tokens d_in"]) -> SparseCode:
            self._check_width(x)
            activations, _ = narrow.encode(x)
            token, place = activations.nonzero(as_tuple=True)
            return SparseCode(token, chosen[place], activations[token, place])

        return encode_narrow

    def probe_of(self, features: Sequence[int]) -> Probe:
        """Return a function from activations ``x`` to what these features do with them, or how far they are from it.

        It is differentiable in ``x``. Where the rule allows it (``SeparableRule``), it computes nothing else. A foreign
        module's margins are its pre-activations, since its rule is not known.
        """
        chosen = torch.tensor(list(features), dtype=torch.int64, device=self.encoder_weights.device)
        narrow = self._sae.only(chosen) if isinstance(self._sae, SparseAutoencoder) else None
        sae, columns = (self._sae, chosen) if narrow is None else (narrow, slice(None))

        def probe(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch features"]:
            self._check_width(x)
            if isinstance(sae, SparseAutoencoder) and isinstance(sae.rule, SelectingRule):
                pre_activation = sae.pre_activation(x)
                margins = sae.rule.margin_of(pre_activation, columns)
                # What is selected keeps its value, and the margin says what is: it need not be selected again.
                return torch.where(margins > 0, pre_activation[..., columns], margins.clamp(max=0.0))
            activations, pre_activation = sae.encode(x)
            margins = sae.rule.margin(pre_activation) if isinstance(sae, SparseAutoencoder) else pre_activation
            activations, margins = activations[..., columns], margins[..., columns]
            return torch.where(activations > 0, activations, margins.clamp(max=0.0))

        return probe

    @property
    def is_separable(self) -> bool:
        """Whether single features can be encoded without the others."""
        return isinstance(self._sae, SparseAutoencoder) and self._sae.is_separable

    def ceiling_of(self, feature: int) -> float | None:
        """Return the largest pre-activation that any input gives a feature; None where nothing bounds it."""
        ceiling = self._sae.ceiling() if isinstance(self._sae, SparseAutoencoder) else None
        return None if ceiling is None else float(ceiling[feature])

    def decode(
        self, features: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction of dense activations.

        ``x``, the activations that were encoded, is needed where the architecture puts back what it took off them or
        adds a linear map of them.

        Raises:
            FitError: ``x`` is missing and needed.
            SAEFormatError: a foreign module without ``decode``.
        """
        return self._sae.decode(features, x)

    def decode_sparse(self, code: SparseCode, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_out"]:
        """Return the reconstruction of the tokens ``x`` from their non-zero activations."""
        if isinstance(self._sae, ForeignSAE):
            dense = self.decoder_weights.new_zeros(len(x), self.dict_size)
            dense[code.token, code.feature] = code.value
            return self.decode(dense, x)
        counts = torch.bincount(code.token, minlength=len(x))
        offsets = counts.cumsum(0) - counts
        summed = nn.functional.embedding_bag(
            code.feature, self._sae.W_dec, offsets, mode="sum", per_sample_weights=code.value
        )
        return self._sae.finish_decoding(summed, x)

    def reread(self, *, rule: ActivationRule | None = None, centred: bool = False) -> "UnifiedSAEInterface":
        """Return the same weights read in another way: with another rule, or on centred activations.

        Raises:
            SAEFormatError: centring asked of an SAE that normalises its input in a way of its own, or is foreign.
        """
        if type(self._sae) is not SparseAutoencoder or (centred and self._sae.input_norm is not None):
            raise SAEFormatError(f"{self.origin.format_name} cannot be read in another way than its own.")
        changes: dict[str, Any] = {"input_norm": Centring()} if centred else {}
        origin = self.origin if rule is None else replace(self.origin, other_rules={})
        return UnifiedSAEInterface(self._sae.reread(**changes, rule=rule or self._sae.rule), origin=origin)

    @property
    def can_be_centred(self) -> bool:
        """Whether ``reread`` can put centring in front."""
        return type(self._sae) is SparseAutoencoder and self._sae.input_norm is None

    def get_info(self) -> dict[str, Any]:
        """Return format, rule and sizes, for reports."""
        return {
            "format": self.origin.format_name,
            "reason": self.origin.reason,
            "rule": self.rule_name,
            "dict_size": self.dict_size,
            "activation_dim": self.activation_dim,
            "output_dim": self.output_dim,
            "is_transcoder": self.is_transcoder,
            "k": self.k,
        }

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.activation_dim:
            raise FitError(
                f"The SAE reads activations of width {self.activation_dim}, but was given width {x.shape[-1]}: "
                "choose another hook."
            )
