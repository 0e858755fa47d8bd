"""Sparse autoencoders under one convention: weights, what is done to the input, a rule, what is done to the output.

``f = rule((norm(x) - b_dec) W_enc + b_enc)`` and ``x̂ = undo(f W_dec + b_dec) + x W_skip``, of which most
architectures use a part. Float32 throughout: half precision rounds thresholds and flips what TopK selects.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.products import fast_products
from sae_analysis.sae_interface.rules import ActivationRule, SeparableRule
from sae_analysis.wording import counted

# --- what is done to the input -------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """What a token's activation is shifted and divided by, and what its reconstruction is multiplied with.

    The shift is in the unit of the activation; divisor and multiplier carry from one unit to the other.
    """

    shift: Float[Tensor, "*batch 1"] | float
    divisor: Float[Tensor, "*batch 1"] | float
    multiplier: Float[Tensor, "*batch 1"] | float


class InputNorm:
    """Shifts and scales each token's activation before encoding; its reconstruction is shifted and scaled back."""

    def moments(self, x: Float[Tensor, "*batch d_in"]) -> Moments:
        """Return what each token's activation is shifted and scaled by."""
        raise NotImplementedError

    def apply(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return what the encoder sees of activations: shifted, and in units of the divisor."""
        shift, divisor, _ = self.moments(x)
        return (x - shift) / divisor

    def undo(
        self, reconstruction: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        """Return a reconstruction in the units of the activations ``x`` it was encoded from."""
        shift, _, multiplier = self.moments(x)
        return reconstruction * multiplier + shift

    def longest(self, d_in: int) -> tuple[float, bool] | None:  # noqa: ARG002 - for those that do bound it
        """Return a norm that no vector exceeds afterwards, and whether entries sum to zero; None without a bound."""
        return None

    def __str__(self) -> str:
        """Return the name, for reports."""
        return type(self).__name__


class Centring(InputNorm):
    """Takes each vector's mean off, as TransformerLens does with weights that write to the residual stream.

    Source: TransformerLensOrg/TransformerLens, ``center_writing_weights``.
    """

    def moments(self, x: Float[Tensor, "*batch d_in"]) -> Moments:
        """Return the mean over the entries of the activation vector as its shift."""
        return Moments(x.mean(dim=-1, keepdim=True), 1.0, 1.0)


class LayerNorm(InputNorm):
    """Mean off, divided by the unbiased standard deviation plus 1e-5, of which only the former is undone.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A, as in openai/sparse_autoencoder.
    """

    def moments(self, x: Float[Tensor, "*batch d_in"]) -> Moments:
        """Return mean and standard deviation over the entries of the activation vector."""
        mean = x.mean(dim=-1, keepdim=True)
        deviation = (x - mean).std(dim=-1, keepdim=True)
        return Moments(mean, deviation + 1e-5, deviation)

    def longest(self, d_in: int) -> tuple[float, bool]:
        """Return the norm sqrt(d_in - 1), as the variance is the unbiased one; entries sum to zero."""
        return (d_in - 1) ** 0.5, True


class ConstantNorm(InputNorm):
    """Scales each vector to the norm sqrt(d_in).

    Source: decoderesearch/SAELens, ``normalize_activations: constant_norm_rescale``.
    """

    def moments(self, x: Float[Tensor, "*batch d_in"]) -> Moments:
        """Return the ratio of the vector's norm to sqrt(d_in)."""
        scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        return Moments(0.0, scale, scale)

    def longest(self, d_in: int) -> tuple[float, bool]:
        """Return the norm sqrt(d_in); entries need not sum to zero."""
        return d_in**0.5, False


# --- the SAE -------------------------------------------------------------------------------------------------------


class SparseAutoencoder(nn.Module):
    """A checkpoint's weights under one convention, with its activation rule; a transcoder is one with two places."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    W_skip: Tensor | None

    def __init__(
        self,
        *,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        W_dec: Float[Tensor, "d_sae d_out"],
        b_dec: Float[Tensor, " d_out"],
        rule: ActivationRule,
        subtract_b_dec: bool,
        W_skip: Float[Tensor, "d_in d_out"] | None = None,
        input_norm: InputNorm | None = None,
        is_transcoder: bool | None = None,
    ) -> None:
        """Hold the weights in float32.

        ``W_enc`` and ``b_enc`` give pre-activations; a row of ``W_dec`` is what one unit of activation adds to the
        reconstruction, ``b_dec`` what is there without any; both are in the units of what the encoder sees.

        ``is_transcoder`` says whether it writes elsewhere than it reads; if left out, whether its widths differ. What
        a transcoder's input loses to ``input_norm`` is not given back to its output, which lies elsewhere.

        Raises:
            SAEFormatError: shapes that do not belong together, values that are no finite real numbers, or a rule of
                another dictionary.
        """
        super().__init__()
        weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip}
        _check_weights(weights)
        (d_in, d_sae), d_out = W_enc.shape, W_dec.shape[-1]
        rule.check(d_sae)
        self.is_transcoder = d_in != d_out if is_transcoder is None else is_transcoder
        if subtract_b_dec and d_in != d_out:
            raise SAEFormatError(f"b_dec of width {d_out} cannot be subtracted from inputs of width {d_in}.")
        for name, weight in weights.items():
            held = None if weight is None else weight.detach().to(torch.float32).contiguous()
            self.register_buffer(name, held)
        self.W_enc = self.W_enc.T.contiguous().T  # feature by feature, as they are picked
        self.rule, self.subtract_b_dec, self.input_norm = rule, subtract_b_dec, input_norm

    @property
    def decodes_from_input(self) -> bool:
        """Whether decoding needs the activations that were encoded: for a skip connection, or to undo a norm."""
        return self.W_skip is not None or (self.input_norm is not None and not self.is_transcoder)

    @property
    def is_separable(self) -> bool:
        """Whether single features can be encoded without the others."""
        return isinstance(self.rule, SeparableRule)

    def encoder_input(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return ``norm(x) - b_dec`` in float32, without the norm or the subtraction where there is none."""
        x = x.float()
        if self.input_norm is not None:
            x = self.input_norm.apply(x)
        return x - self.b_dec if self.subtract_b_dec else x

    def product(self, encoder_input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the pre-activations ``encoder_input W_enc + b_enc``."""
        with fast_products():
            flat = torch.addmm(self.b_enc, encoder_input.reshape(-1, encoder_input.shape[-1]), self.W_enc)
        return flat.reshape(*encoder_input.shape[:-1], flat.shape[-1])

    def pre_activation(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return ``(norm(x) - b_dec) W_enc + b_enc``."""
        return self.product(self.encoder_input(x))

    def ceiling(self) -> Float[Tensor, " d_sae"] | None:
        """Return the largest pre-activation that any input gives each feature; None where the input is not normed.

        The encoder's column takes at most its own norm times that of what it sees (Cauchy and Schwarz).
        """
        bound = self.input_norm.longest(self.W_enc.shape[0]) if self.input_norm else None
        if bound is None:
            return None
        norm, sums_to_zero = bound
        columns = self.W_enc - self.W_enc.mean(dim=0) if sums_to_zero else self.W_enc
        shift = self.b_dec @ self.W_enc if self.subtract_b_dec else 0.0
        return norm * columns.norm(dim=0) + self.b_enc - shift

    def encode(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        """Return activations and pre-activations."""
        pre_activation = self.pre_activation(x)
        return self.rule(pre_activation), pre_activation

    def decode(
        self, features: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction of dense activations; ``x`` is what they were encoded from.

        Raises:
            FitError: ``x`` is missing and needed.
        """
        return self.finish_decoding(features @ self.W_dec, x)

    def finish_decoding(
        self, summed: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction from the weighted sum of decoder rows.

        Raises:
            FitError: ``x`` is missing and needed.
        """
        out = summed + self.b_dec
        if not self.decodes_from_input:
            return out
        if x is None:
            raise FitError("This SAE decodes with the help of its input: give decode the activations encoded as well.")
        x = x.float()
        if self.input_norm is not None and not self.is_transcoder:
            out = self.input_norm.undo(out, x)
        return out if self.W_skip is None else out + x @ self.W_skip

    def reread(self, **changes: Any) -> "SparseAutoencoder":  # noqa: ANN401 - the constructor's arguments
        """Return an SAE of the same weights, with some of the constructor's arguments changed."""
        parts = {
            "W_enc": self.W_enc,
            "b_enc": self.b_enc,
            "W_dec": self.W_dec,
            "b_dec": self.b_dec,
            "rule": self.rule,
            "subtract_b_dec": self.subtract_b_dec,
            "W_skip": self.W_skip,
            "input_norm": self.input_norm,
            "is_transcoder": self.is_transcoder,
        }
        return SparseAutoencoder(**parts | changes)

    def only(self, features: Int64[Tensor, " chosen"]) -> "SparseAutoencoder | None":
        """Return an SAE of these features alone, or None where the rule sets features against each other."""
        if not isinstance(self.rule, SeparableRule):
            return None
        return self.reread(
            W_enc=self.W_enc[:, features],
            b_enc=self.b_enc[features],
            W_dec=self.W_dec[features],
            rule=self.rule.only(features),
        )


class MatchingPursuit(SparseAutoencoder):
    """Features are taken one by one, each time the one whose decoder direction the residue holds most of.

    Source: Costa et al. 2025, "From flat to hierarchical: extracting sparse representations with matching pursuit",
    algorithm 1; stopping as in decoderesearch/SAELens.
    """

    def __init__(
        self,
        *,
        W_dec: Float[Tensor, "d_sae d_in"],
        b_dec: Float[Tensor, " d_in"],
        rule: "Pursuit",
        subtract_b_dec: bool,
        input_norm: InputNorm | None = None,
    ) -> None:
        """Hold the decoder, whose rows are what one unit of activation adds, and which is also the encoder.

        Raises:
            SAEFormatError: shapes that do not belong together, or values that are no finite real numbers.
        """
        super().__init__(
            W_enc=W_dec.T,
            b_enc=torch.zeros(len(W_dec)),
            W_dec=W_dec,
            b_dec=b_dec if subtract_b_dec else torch.zeros_like(b_dec),
            rule=rule,
            subtract_b_dec=subtract_b_dec,
            input_norm=input_norm,
        )
        self.rule: Pursuit

    def encode(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        """Return activations and the correlations that the pursuit begins with."""
        pre_activation = self.pre_activation(x)
        x = x.float() if self.input_norm is None else self.input_norm.apply(x.float())
        residue = (x - self.b_dec).reshape(-1, x.shape[-1])
        features = residue.new_zeros(len(residue), len(self.W_dec))
        done = torch.zeros(len(residue), dtype=torch.bool, device=residue.device)
        rows = torch.arange(len(residue), device=residue.device)
        for _ in range(self.rule.most or x.shape[-1]):
            best = (residue @ self.W_enc).relu().argmax(dim=1)
            direction = self.W_dec[best]
            value = torch.where(done, 0.0, (residue * direction).sum(dim=1).relu())
            was_silent = features[rows, best] == 0
            features = features.index_put((rows, best), value, accumulate=True)
            residue = residue - value[:, None] * direction
            if self.rule.stop_on_repeat:
                done = done | ~was_silent | (value == 0)
            if self.rule.tolerance > 0:
                done = done | (residue.norm(dim=1) < self.rule.tolerance)
            if done.all():
                break
        return features.reshape(pre_activation.shape), pre_activation


class Pursuit(ActivationRule):
    """When a matching pursuit ends.

    Source: decoderesearch/SAELens, ``matching_pursuit``.
    """

    def __init__(self, *, most: int | None, tolerance: float, stop_on_repeat: bool) -> None:
        """End after ``most`` steps (None: d_in), at a residue of norm ``tolerance``, or when a feature comes again."""
        super().__init__()
        self.most, self.tolerance, self.stop_on_repeat = most, tolerance, stop_on_repeat

    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Refuse: activations cannot be said from the first correlations alone."""
        raise NotImplementedError("a pursuit needs the input: see MatchingPursuit.encode")

    def __str__(self) -> str:
        """Return the rule with what ends it."""
        most = counted(self.most, "step") if self.most else "d_in steps"
        return f"MatchingPursuit(at most {most}, residue {self.tolerance:g})"


def _check_weights(weights: dict[str, Tensor | None]) -> None:
    given = {name: weight for name, weight in weights.items() if weight is not None}
    W_enc, W_dec = given["W_enc"], given["W_dec"]
    for name, weight in given.items():
        wanted = 2 if name.startswith("W") else 1
        if weight.ndim != wanted or not weight.numel():
            raise SAEFormatError(f"The SAE's {name} has shape {tuple(weight.shape)}: expected {wanted} dimensions.")
        if weight.dtype not in _REAL:
            raise SAEFormatError(f"The SAE's {name} is of type {weight.dtype}: expected floating point numbers.")
    (d_in, d_sae), d_out = W_enc.shape, W_dec.shape[-1]
    shapes = {"b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_in, d_out)}
    for name, wanted in shapes.items():
        if name in given and tuple(given[name].shape) != wanted:
            raise SAEFormatError(
                f"The SAE's weights do not fit together: W_enc is {d_in} x {d_sae}, so {name} should have shape "
                f"{wanted}, but it has {tuple(given[name].shape)}. The file is damaged or of another layout."
            )
    for name, weight in given.items():
        if not torch.isfinite(weight.float()).all():
            raise SAEFormatError(f"The SAE's {name} holds values that are not finite: its file is damaged.")


_REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
