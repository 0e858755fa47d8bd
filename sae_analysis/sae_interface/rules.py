"""Activation rules: how pre-activations become activations. A new architecture is usually one small class here."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_analysis.errors import SAEFormatError

PerFeature = Float[Tensor, " d_sae"]
"""One number a feature."""


class ActivationRule(nn.Module, ABC):
    """How pre-activations become activations.

    Tensors that belong to a rule are buffers in float32, so that they follow the SAE from device to device.
    """

    @property
    def k(self) -> int | None:
        """Most features a token can have, or None where the rule sets no number."""
        return None

    @abstractmethod
    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above what silences its feature: positive where it fires upwards.

        Unlike the activation it has a slope where the feature is silent, which a search needs. Of equal pre-activations
        at a rule's edge none counts as above it.
        """
        return pre_activation

    def check(self, d_sae: int) -> None:
        """Refuse a rule that does not belong to a dictionary of ``d_sae`` features.

        Raises:
            SAEFormatError: one of its tensors has another length, or is not finite.
        """
        for name, value in self.named_buffers():
            if value.numel() != 1 and tuple(value.shape) != (d_sae,):
                raise SAEFormatError(
                    f"The SAE has {d_sae} features, but its {name} has shape {tuple(value.shape)}: its file is damaged."
                )
            if not torch.isfinite(value).all():
                raise SAEFormatError(f"The SAE's {name} holds values that are not finite: its file is damaged.")

    def __str__(self) -> str:
        """Return the rule in words, for reports."""
        return type(self).__name__ + (f"(k={self.k})" if self.k is not None else "")


# --- each feature for itself ---------------------------------------------------------------------------------------


class SeparableRule(ActivationRule):
    """A rule under which no feature's activation depends on another's, so that a few can be computed alone."""

    def floor(self) -> Tensor | float | None:
        """Return what a pre-activation must exceed for its feature to fire, ``[d_sae]`` or one number.

        None where nothing such is known; then whoever encodes must look at every feature.
        """
        return None

    def only(self, features: Int64[Tensor, " chosen"]) -> "SeparableRule":
        """Return the rule of these features, for pre-activations ``[..., chosen]`` of theirs alone."""
        buffers = {
            name: value[features] if value.numel() > 1 else value for name, value in self.named_buffers(recurse=False)
        }
        return type(self)(**buffers)


class ReLU(SeparableRule):
    """``max(pre, 0)``.

    Source: Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, "Sparse autoencoders find highly
    interpretable features in language models".
    """

    def floor(self) -> float:
        """Return the pre-activation zero."""
        return 0.0

    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        return pre_activation.relu()


class JumpReLU(SeparableRule):
    """``pre`` where it exceeds both a threshold and zero, else zero.

    The threshold is one number a feature, or one for all, as BatchTopK SAEs have it after training.

    Source: Rajamanoharan et al. 2024, "Jumping Ahead", equation 2; Bussmann et al. 2024, "BatchTopK", equation 5.
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        """Hold the threshold, ``[d_sae]`` or a single number."""
        super().__init__()
        self.register_buffer("threshold", threshold.detach().to(torch.float32))

    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        return torch.where(pre_activation > self.threshold, pre_activation, 0.0).relu()

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above threshold and zero."""
        return pre_activation - self.floor()

    def floor(self) -> Tensor:
        """Return the threshold, or zero where that is higher, ``[d_sae]``."""
        return self.threshold.relu()

    def __str__(self) -> str:
        """Return the rule with the range of its thresholds."""
        lowest, highest = float(self.threshold.min()), float(self.threshold.max())
        span = f"{lowest:.4g}" if lowest == highest else f"{lowest:.4g} to {highest:.4g}"
        return f"JumpReLU(threshold {span})"


class Gated(SeparableRule):
    """``relu(exp(r_mag) e + b_mag)`` where ``e + b_gate > 0``, else zero; the pre-activation is ``e + b_gate``.

    Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders", equations 5-7.
    """

    b_gate: Tensor
    r_mag: Tensor
    b_mag: Tensor

    def __init__(self, b_gate: PerFeature, r_mag: PerFeature, b_mag: PerFeature) -> None:
        """Hold both biases and the logarithm of the ratio between magnitude and gate weights."""
        super().__init__()
        for name, value in {"b_gate": b_gate, "r_mag": r_mag, "b_mag": b_mag}.items():
            self.register_buffer(name, value.detach().to(torch.float32))

    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        magnitude = (pre_activation - self.b_gate) * self.r_mag.exp() + self.b_mag
        return torch.where(pre_activation > 0, magnitude, 0.0).relu()

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above where the gate opens and the magnitude is positive."""
        return torch.minimum(pre_activation, pre_activation - self.b_gate + self.b_mag * (-self.r_mag).exp())

    def floor(self) -> float:
        """Return the pre-activation zero, where the gate opens."""
        return 0.0


# --- features against each other -----------------------------------------------------------------------------------


class SelectingRule(ActivationRule):
    """A rule that keeps a fixed number of features a token, some of which may still be zero."""

    def __init__(self, k: int) -> None:
        """Keep ``k`` features a token."""
        super().__init__()
        self._k = k

    @property
    def k(self) -> int:
        """Features kept of each token."""
        return self._k

    @abstractmethod
    def select(
        self, pre_activation: Float[Tensor, "*batch d_sae"]
    ) -> tuple[Float[Tensor, "*batch k"], Int64[Tensor, "*batch k"]]:
        """Return the selected activations and their features; zeros where fewer than k fire."""

    def margin_of(
        self, pre_activation: Float[Tensor, "*batch d_sae"], features: Int64[Tensor, " features"] | slice
    ) -> Float[Tensor, "*batch features"]:
        """Return ``margin`` of some features, in the unit of the pre-activation."""
        return self.margin(pre_activation)[..., features]

    def forward(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations."""
        values, indices = self.select(pre_activation)
        return torch.zeros_like(pre_activation).scatter(-1, indices, values)

    def check(self, d_sae: int) -> None:
        """Refuse also a k beyond the dictionary.

        Raises:
            SAEFormatError: it is.
        """
        super().check(d_sae)
        if not 1 <= self.k <= d_sae:
            raise SAEFormatError(f"The SAE's k is {self.k}, but it has {d_sae} features: its file is damaged.")


class TopK(SelectingRule):
    """The k largest of ``max(pre, 0)``, zero elsewhere; of equal ones torch chooses.

    With ``rank_by`` a feature's rank is decided by ``pre * rank_by`` and its value stays ``pre``.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", equation 3, with the ReLU of section 2.3.
    """

    rank_by: Tensor | None

    def __init__(self, k: int, rank_by: PerFeature | None = None) -> None:
        """Keep ``k`` features a token, ranked with positive weights if there are any."""
        super().__init__(k)
        self.register_buffer("rank_by", None if rank_by is None else rank_by.detach().to(torch.float32))

    def select(
        self, pre_activation: Float[Tensor, "*batch d_sae"]
    ) -> tuple[Float[Tensor, "*batch k"], Int64[Tensor, "*batch k"]]:
        """Return the selected activations, first rank first, and their features."""
        # Rectifying k values a token afterwards is the same as rectifying all d_sae before, and cheaper.
        if self.rank_by is None:
            values, indices = pre_activation.topk(self.k, dim=-1)
        else:
            indices = (pre_activation * self.rank_by).topk(self.k, dim=-1).indices
            values = pre_activation.gather(-1, indices)
        return values.relu(), indices

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above zero and the best of those it must beat."""
        return self.margin_of(pre_activation, slice(None))

    def margin_of(
        self, pre_activation: Float[Tensor, "*batch d_sae"], features: Int64[Tensor, " features"] | slice
    ) -> Float[Tensor, "*batch features"]:
        """Return ``margin`` of some features, in the unit of the pre-activation, and compute no other."""
        own = pre_activation[..., features]
        if self.rank_by is None:
            return torch.minimum(own, _lead(pre_activation, self.k, own))
        weight = self.rank_by[features]
        return torch.minimum(own, _lead(pre_activation * self.rank_by, self.k, own * weight) / weight)


class AbsTopK(SelectingRule):
    """The k largest by magnitude with their sign kept, zero elsewhere.

    Source: Zhu, Khalili and Zhu 2025, "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features", equation 8.
    """

    def select(
        self, pre_activation: Float[Tensor, "*batch d_sae"]
    ) -> tuple[Float[Tensor, "*batch k"], Int64[Tensor, "*batch k"]]:
        """Return the selected activations, largest magnitude first, and their features."""
        indices = pre_activation.abs().topk(self.k, dim=-1).indices
        return pre_activation.gather(-1, indices), indices

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above zero and the best magnitude of those it must beat."""
        return torch.minimum(pre_activation, _lead(pre_activation.abs(), self.k, pre_activation.abs()))


class GroupMax(SelectingRule):
    """The dictionary is cut into k groups of neighbours; of each the largest ``max(pre, 0)`` is kept.

    Source: EleutherAI/sparsify, activation "groupmax".
    """

    def select(
        self, pre_activation: Float[Tensor, "*batch d_sae"]
    ) -> tuple[Float[Tensor, "*batch k"], Int64[Tensor, "*batch k"]]:
        """Return the selected activations, in the order of groups, and their features."""
        values, within = pre_activation.unflatten(-1, (self.k, -1)).max(dim=-1)
        group_size = pre_activation.shape[-1] // self.k
        offsets = torch.arange(self.k, device=within.device) * group_size
        return values.relu(), within + offsets

    def margin(self, pre_activation: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return how far each pre-activation lies above zero and the best other one of its group."""
        groups = pre_activation.unflatten(-1, (self.k, -1))
        return torch.minimum(pre_activation, _lead(groups, 1, groups).flatten(-2))

    def check(self, d_sae: int) -> None:
        """Refuse also a number of groups that does not divide the dictionary.

        Raises:
            SAEFormatError: it does not.
        """
        super().check(d_sae)
        if d_sae % self.k:
            raise SAEFormatError(f"The SAE's {d_sae} features cannot be cut into {self.k} equal groups.")


def _lead(ranked: Float[Tensor, "*batch n"], k: int, asked: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """Return how far each of ``asked``, all among ``ranked``, lies above what it must beat to be of the k largest."""
    if k >= ranked.shape[-1]:
        return torch.full_like(asked, torch.inf)
    edge = ranked.topk(k + 1, dim=-1).values
    last_in, first_out = edge[..., k - 1 : k], edge[..., k : k + 1]
    return asked - torch.where(asked >= last_in, first_out, last_in)
