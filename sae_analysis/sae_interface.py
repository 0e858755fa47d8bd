"""One face for every sparse autoencoder: weights, an activation rule, and what stands round them.

A supported checkpoint becomes a ``SparseAutoencoder``: ``f = rule((x - b) W_enc + b_enc)``, ``x̂ = f W_dec + b_dec``.
Anything else that has an ``encode`` method can be wrapped as it is. Both are used through ``UnifiedSAEInterface``.

Float32 throughout: half precision rounds thresholds and flips what TopK selects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_analysis.errors import FitError, SAEFormatError


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


@runtime_checkable
class ActivationRule(Protocol):
    """How pre-activations become activations."""

    @property
    def k(self) -> int | None:
        """Most features a token can have, or None where the rule sets no number."""
        ...

    def __call__(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        ...


@dataclass(frozen=True, slots=True)
class ReLU:
    """``max(pre, 0)``."""

    k: int | None = None

    def __call__(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        return pre_activation.relu()


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest of ``max(pre, 0)``, zero elsewhere; of equal ones torch chooses.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", equation 3, with the ReLU of section 2.3.
    """

    k: int

    def select(
        self, pre_activation: Float[Tensor, "*batch d_sae"]
    ) -> tuple[Float[Tensor, "*batch k"], Int64[Tensor, "*batch k"]]:
        """Return the selected activations, largest first, and their features."""
        # Rectifying k values a token afterwards is the same as rectifying all d_sae before, and cheaper.
        values, indices = pre_activation.topk(self.k, dim=-1)
        return values.relu(), indices

    def __call__(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        values, indices = self.select(pre_activation)
        return torch.zeros_like(pre_activation).scatter(-1, indices, values)


class SparseAutoencoder(nn.Module):
    """A checkpoint's weights under one convention, with its activation rule."""

    def __init__(
        self,
        *,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        W_dec: Float[Tensor, "d_sae d_out"],
        b_dec: Float[Tensor, " d_out"],
        rule: ActivationRule,
        subtract_b_dec: bool,
    ) -> None:
        """Hold the weights in float32.

        Raises:
            SAEFormatError: shapes that do not belong together, values that are not finite, or a k beyond d_sae.
        """
        super().__init__()
        d_in, d_sae = W_enc.shape
        d_out = W_dec.shape[-1]
        shapes = {"b_enc": (b_enc, (d_sae,)), "W_dec": (W_dec, (d_sae, d_out)), "b_dec": (b_dec, (d_out,))}
        for name, (weight, wanted) in shapes.items():
            if tuple(weight.shape) != wanted:
                raise SAEFormatError(
                    f"The SAE's weights do not fit together: W_enc is {d_in} x {d_sae}, so {name} should have shape "
                    f"{wanted}, but it has {tuple(weight.shape)}. The file is damaged or of another layout."
                )
        if rule.k is not None and not 1 <= rule.k <= d_sae:
            raise SAEFormatError(f"The SAE's k is {rule.k}, but it has {d_sae} features: its file is damaged.")
        if subtract_b_dec and d_in != d_out:
            raise SAEFormatError(f"b_dec of width {d_out} cannot be subtracted from inputs of width {d_in}.")
        for name, weight in {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}.items():
            if not torch.isfinite(weight).all():
                raise SAEFormatError(f"The SAE's {name} holds values that are not finite: its file is damaged.")
            self.register_buffer(name, weight.detach().to(torch.float32).contiguous())
        self.W_enc: Tensor
        self.b_enc: Tensor
        self.W_dec: Tensor
        self.b_dec: Tensor
        self.rule, self.subtract_b_dec = rule, subtract_b_dec

    def pre_activation(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return ``(x - b_dec) W_enc + b_enc``, or without the subtraction where the architecture has none."""
        x = x.float()
        if self.subtract_b_dec:
            x = x - self.b_dec
        flat = torch.addmm(self.b_enc, x.reshape(-1, x.shape[-1]), self.W_enc)
        return flat.reshape(*x.shape[:-1], flat.shape[-1])

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction of dense activations."""
        return features @ self.W_dec + self.b_dec


class UnifiedSAEInterface:
    """Any SAE behind one interface: ours, or a foreign ``nn.Module`` with ``encode``.

    A foreign module may return from ``encode`` the activations alone, or a tuple or named tuple that begins with
    them. Its decoder is found as ``W_dec [d_sae, d_in]`` or ``decoder.weight [d_in, d_sae]``, its encoder likewise.
    """

    def __init__(
        self, sae_model: nn.Module, *, format_name: str = "custom module", reason: str = "given as an object"
    ) -> None:
        """Wrap an SAE.

        Raises:
            SAEFormatError: no ``encode``, or no weights under the usual names.
        """
        self.model = sae_model
        self.format_name, self.reason = format_name, reason
        self.metadata: Mapping[str, Any] = {}
        """What the checkpoint says about its origin: ``hook``, ``model``, ``prepend_bos``, where it says so."""
        self.sha256 = ""
        """Hash of the weight file."""
        if isinstance(sae_model, SparseAutoencoder):
            self.encoder_weights, self.decoder_weights = sae_model.W_enc, sae_model.W_dec
        elif hasattr(sae_model, "encode"):
            self.encoder_weights = _weight(sae_model, "W_enc", "encoder.weight", "encoder")
            self.decoder_weights = _weight(sae_model, "W_dec", "decoder.weight", "decoder")
        else:
            raise SAEFormatError(f"{type(sae_model).__name__} has no method 'encode': give a module that has one.")

    encoder_weights: Float[Tensor, "d_in d_sae"]
    """One column a feature."""

    decoder_weights: Float[Tensor, "d_sae d_out"]
    """One row a feature."""

    @property
    def dict_size(self) -> int:
        """Number of features."""
        return self.encoder_weights.shape[1]

    @property
    def activation_dim(self) -> int:
        """Width of the activations it reads."""
        return self.encoder_weights.shape[0]

    @property
    def k(self) -> int | None:
        """Most features active on one token, where the architecture fixes it."""
        if isinstance(self.model, SparseAutoencoder):
            return self.model.rule.k
        k = getattr(self.model, "k", None)
        return None if k is None else int(k)

    @property
    def rule_name(self) -> str:
        """Activation rule in words, for reports."""
        if not isinstance(self.model, SparseAutoencoder):
            return f"{type(self.model).__name__}.encode"
        rule = self.model.rule
        return type(rule).__name__ + (f"(k={rule.k})" if rule.k is not None else "")

    def to(self, device: str | torch.device) -> "UnifiedSAEInterface":
        """Move the weights and return the same object."""
        self.model.to(device)
        self.encoder_weights = self.encoder_weights.to(device)
        self.decoder_weights = self.decoder_weights.to(device)
        return self

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> SAEOutput:
        """Encode activations; differentiable in ``x``.

        Raises:
            FitError: ``x`` has another width than the SAE reads.
        """
        self._check_width(x)
        if isinstance(self.model, SparseAutoencoder):
            pre_activation = self.model.pre_activation(x)
            features = self.model.rule(pre_activation)
        else:
            features, pre_activation = self._encode_foreign(x)
        active = (features != 0).sum(-1)
        k = self.k or (int(active.max()) if active.numel() else 0)
        top_indices = features.abs().topk(k, dim=-1).indices
        return SAEOutput(
            sparse_features=features,
            top_values=features.gather(-1, top_indices),
            top_indices=top_indices,
            pre_activation=pre_activation,
        )

    def encode_sparse(self, x: Float[Tensor, "tokens d_in"]) -> SparseCode:
        """Return only the non-zero activations, in order of token; for TopK, no dense array of them is built.

        Raises:
            FitError: ``x`` has another width than the SAE reads.
        """
        self._check_width(x)
        if isinstance(self.model, SparseAutoencoder) and isinstance(self.model.rule, TopK):
            values, indices = self.model.rule.select(self.model.pre_activation(x))
            token, place = values.nonzero(as_tuple=True)
            return SparseCode(token, indices[token, place], values[token, place])
        if isinstance(self.model, SparseAutoencoder):
            features = self.model.rule(self.model.pre_activation(x))
        else:
            features, _ = self._encode_foreign(x)
        token, feature = features.nonzero(as_tuple=True)
        return SparseCode(token, feature, features[token, feature])

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction of dense activations.

        Raises:
            SAEFormatError: a foreign module without ``decode``.
        """
        foreign: Any = self.model
        if not hasattr(foreign, "decode"):
            raise SAEFormatError(f"{type(foreign).__name__} has no method 'decode': add one to measure its fit.")
        return foreign.decode(features)

    def decode_sparse(self, code: SparseCode, tokens: int) -> Float[Tensor, "tokens d_out"]:
        """Return the reconstruction of ``tokens`` tokens from their non-zero activations."""
        if not isinstance(self.model, SparseAutoencoder):
            dense = self.decoder_weights.new_zeros(tokens, self.dict_size)
            dense[code.token, code.feature] = code.value
            return self.decode(dense)
        counts = torch.bincount(code.token, minlength=tokens)
        offsets = counts.cumsum(0) - counts
        summed = nn.functional.embedding_bag(
            code.feature, self.model.W_dec, offsets, mode="sum", per_sample_weights=code.value
        )
        return summed + self.model.b_dec

    def get_info(self) -> dict[str, Any]:
        """Return format, rule and sizes, for reports."""
        return {
            "format": self.format_name,
            "reason": self.reason,
            "rule": self.rule_name,
            "dict_size": self.dict_size,
            "activation_dim": self.activation_dim,
            "k": self.k,
        }

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.activation_dim:
            raise FitError(
                f"The SAE reads activations of width {self.activation_dim}, but was given width {x.shape[-1]}: "
                "choose another hook."
            )

    def _encode_foreign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Call a foreign ``encode``; where it has no method for pre-activations, its linear part gives them.

        Some modules subtract the decoder's bias first and some do not; what fired shows which.
        """
        foreign: Any = self.model
        encoded = foreign.encode(x.float())
        features = encoded if isinstance(encoded, Tensor) else encoded[0]
        if hasattr(foreign, "pre_activation"):
            return features, foreign.pre_activation(x.float())
        pre_activation = x.float() @ self.encoder_weights
        if (b_enc := _bias(foreign, "b_enc", "encoder.bias")) is not None:
            pre_activation = pre_activation + b_enc
        b_dec = _bias(foreign, "b_dec", "bias", "decoder.bias")
        if b_dec is not None and len(b_dec) == self.activation_dim:
            subtracted = pre_activation - b_dec @ self.encoder_weights
            fired = features != 0
            misfits = [(found - features)[fired].abs().sum() for found in (pre_activation, subtracted)]
            if misfits[1] < misfits[0]:
                pre_activation = subtracted
        return features, pre_activation


def _weight(module: nn.Module, free: str, linear: str, layer: str) -> Tensor:
    """Return a weight as ``[rows in, rows out]``: a free matrix as it is, that of an ``nn.Linear`` transposed."""
    if isinstance(found := getattr(module, free, None), Tensor):
        return found.detach().float()
    if isinstance(found := getattr(getattr(module, layer, None), "weight", None), Tensor):
        return found.detach().float().T
    raise SAEFormatError(f"{type(module).__name__} has neither {free} nor {linear}: name its weights so.")


def _bias(module: nn.Module, *paths: str) -> Tensor | None:
    """Return the first vector found under these names."""
    for path in paths:
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, Tensor) and found.ndim == 1:
            return found.detach().float()
    return None
