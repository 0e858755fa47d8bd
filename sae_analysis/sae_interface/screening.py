"""Encoding that computes in float32 only what may fire.

Nearly all of an encoder's product goes into features that stay silent. In bfloat16 the product is several times as fast
on processors with matrix units, and off by less than a bound that can be proven. So a token's features are screened:
the product in bfloat16, raised by the bound, says which of them could fire at all; these few are computed in float32,
and the rule chooses among them. What comes out is what the whole product in float32 gives; only pre-activations that
float32 itself rounds to either side of one another can change places, as they can between any two batch sizes.

The bound, for ``z`` the encoder's input and ``w`` a feature's column, with hats on what bfloat16 makes of them:
``|z·w - ẑ·ŵ| <= |z - ẑ| |w| + |ẑ| |w - ŵ|`` (triangle, then Cauchy and Schwarz), all of which is measured and not
assumed, plus what adding up in float32 rounds (Higham 2002, "Accuracy and stability of numerical algorithms", section
3.1).
"""

import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_analysis.sae_interface.autoencoder import SparseAutoencoder
from sae_analysis.sae_interface.rules import SelectingRule, SeparableRule, TopK

Pairs = tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]
"""Token, feature and value of non-zero activations, in order of token."""

_BLOCK = 1024
"""Tokens of a product."""

_GROUP = 32
"""Features of which the largest stands for all when the k-th largest of all is bounded."""

_GROUPS_PER_K = 4
"""Groups there are at least for each feature that TopK keeps; with fewer the bound is loose."""

_MOST_PER_K = 8
"""Candidates for each feature that TopK keeps, beyond which a token is encoded whole."""

_MOST_SHARE = 0.05
"""Share of all pairs of token and feature in a block that may be candidates, beyond which it is encoded whole."""

_EXTRA = 3
"""Rows below the encoder's weights: two halves of the bias, and ones for the bound."""

_ALIGNED = 32
"""Rows that a matrix unit takes at once."""

_HALF = 2.0**-8
"""Largest relative error of a number rounded to bfloat16, twice over."""

_SINGLE = 2.0**-23
"""The same for float32."""

_LEAST = 2.0**-126
"""Smallest number that a matrix unit need not take for zero."""


class Screen:
    """Encodes with an SAE of TopK or a separable rule on a CPU; not differentiable."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        """Lay the encoder's weights out in bfloat16, which takes half as much memory again.

        Raises:
            ValueError: ``can_screen`` says no.
        """
        if not can_screen(sae):
            raise ValueError(f"{sae.rule} cannot be screened on {sae.W_enc.device}")
        self._sae, self._rule = sae, sae.rule
        weights, bias = sae.W_enc, sae.b_enc
        if isinstance(sae.rule, TopK) and sae.rule.rank_by is not None:
            weights, bias = weights * sae.rule.rank_by, bias * sae.rule.rank_by
        if isinstance(sae.rule, SeparableRule) and (floor := sae.rule.floor()) is not None:
            bias = bias - floor
        d_in, d_sae = weights.shape
        self._group = _GROUP
        while self._group > 1 and d_sae < self._group * _GROUPS_PER_K * (sae.rule.k or 1):
            self._group //= 2
        rows = -(-(d_in + _EXTRA) // _ALIGNED) * _ALIGNED
        columns = -(-d_sae // self._group) * self._group
        half, high = weights.bfloat16(), bias.bfloat16()
        self._weights = torch.zeros(rows, columns, dtype=torch.bfloat16)
        self._weights[d_in] = torch.finfo(torch.bfloat16).min  # what fills the last group is never a candidate
        self._weights[:d_in, :d_sae] = half
        self._weights[d_in, :d_sae] = high
        self._weights[d_in + 1, :d_sae] = (bias - high.float()).bfloat16()
        self._weights[d_in + 2, :d_sae] = 1.0
        self._norm = float(weights.norm(dim=0).max())
        self._lost = float((weights - half.float()).norm(dim=0).max())
        self._bias = float(bias.abs().max())
        self._input = torch.zeros(_BLOCK, rows, dtype=torch.bfloat16)
        self._input[:, d_in : d_in + 2] = 1.0
        self._upper = torch.empty(_BLOCK, columns, dtype=torch.bfloat16)
        with warnings.catch_warnings():  # torch says once that its sparse tensors may change
            warnings.simplefilter("ignore")
            self._pre_activations(torch.zeros(1, d_in), torch.zeros(1).long(), torch.zeros(1).long())

    def encode(self, x: Float[Tensor, "tokens d_in"], wanted: Bool[Tensor, " d_sae"] | None = None) -> Pairs:
        """Return the non-zero activations; with ``wanted``, those of some features alone.

        Tokens on which none of the features wanted may fire cost least.
        """
        z = self._sae.encoder_input(x)
        parts = [] if len(z) else [self._encode_whole(z)]
        for begin in range(0, len(z), _BLOCK):
            token, feature, value = self._encode_block(z[begin : begin + _BLOCK], wanted)
            kept = slice(None) if wanted is None else wanted[feature]
            parts.append((token[kept] + begin, feature[kept], value[kept]))
        token, feature, value = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return token, feature, value

    def _encode_block(self, z: Tensor, wanted: Tensor | None) -> Pairs:
        candidates = self._candidates(z)
        if candidates is None:
            return self._encode_whole(z)
        token, feature = candidates
        if wanted is not None:
            may_fire = torch.zeros(len(z), dtype=torch.bool)
            may_fire[token[wanted[feature]]] = True
            kept = may_fire[token]
            token, feature = token[kept], feature[kept]
        if isinstance(self._rule, TopK):
            return self._select(z, token, feature, self._rule)
        assert isinstance(self._rule, SeparableRule), "checked in __init__"
        value = self._rule.only(feature)(self._pre_activations(z, token, feature))
        fired = value != 0
        return token[fired], feature[fired], value[fired]

    def _encode_whole(self, z: Tensor) -> Pairs:
        if isinstance(self._rule, SelectingRule):
            values, features = self._rule.select(self._sae.product(z))
            token, place = values.nonzero(as_tuple=True)
            return token, features[token, place], values[token, place]
        values = self._rule(self._sae.product(z))
        token, feature = values.nonzero(as_tuple=True)
        return token, feature, values[token, feature]

    # --- what could fire -------------------------------------------------------------------------------------------

    def _candidates(self, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return token and feature of what could fire, in order; None where that is too much to be worth it."""
        error = self._lay_out(z)
        if not bool(torch.isfinite(error).all()):
            return None
        upper = self._upper[: len(z)]
        torch.mm(self._input[: len(z)], self._weights, out=upper)
        # From zero up, the bits of bfloat16 are in the order of 16-bit integers; those of what is below are below.
        bits = upper.view(torch.int16)
        floor = self._floor(bits, error, self._rule.k) if isinstance(self._rule, TopK) else np.int16(0)
        # NumPy compares and searches these several times as fast as torch does.
        found = np.flatnonzero(bits.numpy() >= floor)
        if len(found) > _MOST_SHARE * bits.numel() and not isinstance(self._rule, TopK):
            return None
        token, feature = np.divmod(found, bits.shape[1])
        return torch.from_numpy(token), torch.from_numpy(feature)

    def _floor(self, bits: Tensor, error: Tensor, k: int) -> np.ndarray:
        """Return what each token's k largest are not below, ``[tokens, 1]`` in the bits of a bfloat16.

        At least k features, one of each group, are not below the k-th largest of the groups' largest.
        """
        largest = bits.view(len(bits), self._group, -1).amax(dim=1).numpy()
        kth = np.partition(largest, -k, axis=1)[:, -k]
        upper = torch.from_numpy(kth).view(torch.bfloat16).float()
        # The bound was added, and what is true may lie below by as much again. Rounding the product keeps the order, so
        # that one step of bfloat16 makes up for it.
        lower = upper - 2 * error
        return ((lower.view(torch.int32) >> 16) - 1).clamp(min=0).to(torch.int16).numpy()[:, None]

    def _lay_out(self, z: Tensor) -> Tensor:
        """Lay the input out in bfloat16, and return how far its products may be off, ``[tokens]``."""
        tokens, d_in = z.shape
        half = z.bfloat16()
        lost = (z - half.float()).norm(dim=1)
        norm, weights = z.norm(dim=1) + lost, self._norm + self._lost  # what no rounded vector exceeds
        error = lost * self._norm + norm * self._lost
        error += 4 * (d_in + _EXTRA) * _SINGLE * (norm * weights + self._bias)  # adding up, here and in float32
        error += _HALF * _HALF * self._bias + d_in * _LEAST * (norm + weights + 1.0)
        raised = ((1 + _HALF) * error).bfloat16()
        self._input[:tokens, :d_in], self._input[:tokens, d_in + 2] = half, raised
        return raised.float()

    # --- what of it does -------------------------------------------------------------------------------------------

    def _pre_activations(self, z: Tensor, token: Tensor, feature: Tensor) -> Float[Tensor, " n"]:
        """Return the pre-activations of pairs of token and feature, and compute no other."""
        pairs = torch.sparse_csr_tensor(
            _begins(token, len(z)),
            feature,
            self._sae.b_enc[feature],
            size=(len(z), len(self._sae.b_enc)),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(pairs, z, self._sae.W_enc).values()

    def _select(self, z: Tensor, token: Tensor, feature: Tensor, rule: TopK) -> Pairs:
        """Let TopK choose among the candidates of each token."""
        again = torch.bincount(token, minlength=len(z)) > _MOST_PER_K * rule.k
        if bool(again.any()):
            kept = ~again[token]
            token, feature = token[kept], feature[kept]
        pre_activation = self._pre_activations(z, token, feature)
        ranked = pre_activation if rule.rank_by is None else pre_activation * rule.rank_by[feature]
        begins = _begins(token, len(z))
        table = torch.full((len(z), max(int(begins.diff().max()), rule.k) + 1), -torch.inf)
        table[token, torch.arange(len(token)) - begins[token]] = ranked
        edge = np.partition(table.numpy(), (-rule.k - 1, -rule.k), axis=1)
        out, last = (torch.from_numpy(edge[:, place].copy()) for place in (-rule.k - 1, -rule.k))
        # Of equal ones at the edge torch chooses, and is to choose as it does among all.
        again |= (out == last) & (last > 0)
        fired = (ranked >= last[token]) & (pre_activation > 0) & ~again[token]
        token, feature, value = token[fired], feature[fired], pre_activation[fired]
        if not bool(again.any()):
            return token, feature, value
        rest = self._encode_whole(z[again])
        token = torch.cat((token, again.nonzero()[rest[0], 0]))
        order = token.argsort(stable=True)
        return token[order], torch.cat((feature, rest[1]))[order], torch.cat((value, rest[2]))[order]


def can_screen(sae: SparseAutoencoder) -> bool:
    """Return whether the SAE's rule and device are ones that ``Screen`` knows."""
    known = type(sae.rule) is TopK or (isinstance(sae.rule, SeparableRule) and sae.rule.floor() is not None)
    return type(sae) is SparseAutoencoder and known and sae.W_enc.device.type == "cpu"


def _begins(token: Int64[Tensor, " n"], tokens: int) -> Int64[Tensor, " tokens_and_one"]:
    """Return where the pairs of each token begin, and where the last ends."""
    begins = torch.zeros(tokens + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(token, minlength=tokens), 0, out=begins[1:])
    return begins
