"""Encoding that computes in float32 only what may fire.

Nearly all of an encoder's product goes into features that stay silent. In bfloat16 the product is several times as fast
on processors with matrix units, and off by less than a bound that can be proven. So a token's features are screened:
the product in bfloat16, raised by the bound, says which of them could fire at all; these few are computed in float32,
and the rule chooses among them. What comes out is what the whole product in float32 gives; only pre-activations that
float32 itself rounds to either side of one another can change places, as they can between any two batch sizes.

The bound, for ``z`` the encoder's input and ``w`` a feature's column, with hats on what bfloat16 makes of them:
``|z·w - ẑ·ŵ| <= |z - ẑ| |w| + |ẑ| |w - ŵ|`` (triangle, then Cauchy and Schwarz), all of which is measured and not
assumed, plus what adding up in float32 rounds.
"""

import copy
import itertools
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_analysis.products import product, with_few_numbers
from sae_analysis.sae_interface.autoencoder import SparseAutoencoder
from sae_analysis.sae_interface.rules import SelectingRule, SeparableRule, TopK

Bits = npt.NDArray[np.int16]

Pairs = tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]
"""Token, feature and value of non-zero activations, in order of token."""

_BLOCK_NUMBERS = 1 << 25
"""Numbers that a product gives at once: 64 MB. With fewer tokens at a time, weights are read too often."""

_GROUP = 32
"""Features at most of which the largest stands for all when the k-th largest of all is bounded."""

_GROUPS_PER_K = 4
"""Groups there are at least for each feature that TopK keeps; with fewer the bound is loose."""

_MOST_PER_K = 8
"""Candidates for each feature that TopK keeps, beyond which a token is encoded whole."""

_MOST_SHARE = 0.05
"""Share of all pairs of token and feature in a block that may be candidates, beyond which it is encoded whole."""

_EXTRA = 3
"""Rows below the encoder's weights: two halves of the bias, and ones for the bound."""

_ALIGNED = 32
"""Rows that a matrix unit takes at once; columns come in as many, so that they can be cut into groups."""

_STAGES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the dictionary after which it is asked which tokens are left, where few features are asked for."""

_MOST_FIRING = 3 / 4
"""Firings a token of the features asked for, beyond which too many tokens are left for stages to pay."""

_MOST_WANTED = 1 / 8
"""Share of the dictionary that may be asked for in stages, since its product is taken in float32 too."""

_HALF = 2.0**-8
"""Largest relative error of a number rounded to bfloat16, twice over."""

_SINGLE = 2.0**-23
"""The same for float32."""

_LEAST = 2.0**-126
"""Smallest number that a matrix unit need not take for zero."""


class _Stages(NamedTuple):
    """The dictionary in parts, the densest features first, and the features asked for."""

    parts: tuple[Tensor, ...]
    """Weights ``[rows, columns]`` of each, in bfloat16."""

    feature: Int64[Tensor, " columns"]
    """Which feature each column of all parts is."""

    wanted: Float[Tensor, "wanted d_in"]
    bias: Float[Tensor, " wanted"]
    """Of the features asked for, as they are ranked, in float32."""


class Screen:
    """Encodes with an SAE of TopK or a separable rule on a CPU; not differentiable.

    Source: the bound is ours (above); what adding up in float32 rounds is of Higham 2002, "Accuracy and stability of
    numerical algorithms", section 3.1.
    """

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
        rows, columns = (-(-size // _ALIGNED) * _ALIGNED for size in (d_in + _EXTRA, d_sae))
        half, high = weights.bfloat16(), bias.bfloat16()
        self._weights = torch.zeros(rows, columns, dtype=torch.bfloat16)
        self._weights[d_in] = torch.finfo(torch.bfloat16).min  # what fills up the columns is never a candidate
        self._weights[:d_in, :d_sae] = half
        self._weights[d_in, :d_sae] = high
        self._weights[d_in + 1, :d_sae] = (bias - high.float()).bfloat16()
        self._weights[d_in + 2, :d_sae] = 1.0
        self._norm = float(weights.norm(dim=0).max())
        self._lost = float((weights - half.float()).norm(dim=0).max())
        self._bias = float(bias.abs().max())
        self._block = max(_BLOCK_NUMBERS // columns, 1)
        self._input = torch.zeros(self._block, rows, dtype=torch.bfloat16)
        self._input[:, d_in : d_in + 2] = 1.0
        self._upper = torch.empty(self._block * columns, dtype=torch.bfloat16)
        self._wanted: Tensor | None = None
        self._stages: _Stages | None = None
        with warnings.catch_warnings():  # torch says once that its sparse tensors may change
            warnings.simplefilter("ignore")
            self._pre_activations(torch.zeros(1, d_in), torch.zeros(1).long(), torch.zeros(1).long())

    def only(self, wanted: Bool[Tensor, " d_sae"], density: Float[Tensor, " d_sae"]) -> "Screen":
        """Return a screen that gives the activations of some features alone, and shares these weights.

        Under TopK all features count in what is selected, but on most tokens a part of the dictionary shows already
        that none of these can be: what lies below the k largest of a part lies below those of the whole. Parts begin
        with the features of highest ``density`` (how often each fired on tokens seen before, in any unit; it decides
        about speed alone). Weights in that order take as much again as those of the whole.
        """
        narrow = copy.copy(self)
        narrow._wanted = wanted
        if isinstance(self._rule, TopK) and 0 < int(wanted.sum()) <= _MOST_WANTED * len(wanted):
            firing = self._rule.k * float(density[wanted].sum() / density.sum())
            if firing <= _MOST_FIRING:
                narrow._stages = self._stages_of(wanted, density.argsort(descending=True, stable=True), self._rule)
        return narrow

    def _stages_of(self, wanted: Tensor, densest: Tensor, rule: TopK) -> _Stages:
        columns = self._weights.shape[1]
        feature = torch.cat((densest, torch.arange(len(densest), columns)))
        sizes = {int(share * columns) // _ALIGNED * _ALIGNED for share in _STAGES}
        ends = sorted(size for size in sizes if size >= rule.k)
        weights, bias = self._sae.W_enc[:, wanted], self._sae.b_enc[wanted]
        if rule.rank_by is not None:
            weights, bias = weights * rule.rank_by[wanted], bias * rule.rank_by[wanted]
        parts = [self._weights[:, feature[begin:end]] for begin, end in itertools.pairwise([0, *ends])]
        return _Stages(tuple(parts), feature, weights.T.contiguous(), bias)

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Pairs:
        """Return the non-zero activations."""
        z = self._sae.encoder_input(x)
        parts = [] if len(z) else [self._encode_whole(z)]
        for begin in range(0, len(z), self._block):
            token, feature, value = self._encode_block(z[begin : begin + self._block])
            kept = slice(None) if self._wanted is None else self._wanted[feature]
            parts.append((token[kept] + begin, feature[kept], value[kept]))
        token, feature, value = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return token, feature, value

    def _encode_block(self, z: Tensor) -> Pairs:
        error, rounding = self._lay_out(z)
        if not bool(torch.isfinite(error).all()):
            return self._encode_whole(z)
        if self._stages is not None:
            assert isinstance(self._rule, TopK), "has stages"
            return self._encode_in_stages(z, error, rounding, self._stages, self._rule)
        bits = self._upper_bits(len(z), self._weights)
        if isinstance(self._rule, TopK):
            largest = _largest(bits, _group(bits.shape[1], self._rule.k))
            token, feature = _pairs(bits >= _floor(largest, error, self._rule.k))
            if self._wanted is not None:
                may_fire = torch.zeros(len(z), dtype=torch.bool)
                may_fire[token[self._wanted[feature]]] = True
                token, feature = token[may_fire[token]], feature[may_fire[token]]
            return self._select(z, token, feature, self._rule)
        assert isinstance(self._rule, SeparableRule), "checked in __init__"
        token, feature = _pairs(bits >= 0)
        if len(token) > _MOST_SHARE * bits.size:
            return self._encode_whole(z)
        value = self._rule.only(feature)(self._pre_activations(z, token, feature))
        fired = value != 0
        return token[fired], feature[fired], value[fired]

    def _encode_in_stages(self, z: Tensor, error: Tensor, rounding: Tensor, stages: _Stages, rule: TopK) -> Pairs:
        """Go on with the dictionary only where the parts so far leave open whether a wanted feature fires."""
        at_most = product(z, stages.wanted, stages.bias) + rounding[:, None]
        group, begin = _group(stages.parts[0].shape[1], rule.k), 0
        left = torch.arange(len(z))
        largest, floor = np.empty((len(z), 0), np.int16), np.empty((len(z), 1), np.int16)
        seen: list[tuple[Bits, Tensor]] = []  # what each stage saw, and where in it the tokens are that are left
        for part in stages.parts:
            bits = self._upper_bits(len(left), part, begin)
            largest = np.concatenate((largest, _largest(bits, group)), axis=1)
            floor = _floor(largest, error[left], rule.k)
            may_fire = at_most[left] >= torch.from_numpy(floor).view(torch.bfloat16)
            still = may_fire.any(dim=1).nonzero()[:, 0]
            if not len(still):
                return self._encode_whole(z[still])
            seen = [(before, rows[still]) for before, rows in (*seen, (bits, torch.arange(len(left))))]
            left, largest, floor = left[still], largest[still.numpy()], floor[still.numpy()]
            self._input[: len(left)] = self._input[still]
            begin += part.shape[1]
        token, column = _pairs(np.concatenate([bits[rows.numpy()] >= floor for bits, rows in seen], axis=1))
        token, feature, value = self._select(z[left], token, stages.feature[column], rule)
        return left[token], feature, value

    def _encode_whole(self, z: Tensor) -> Pairs:
        if isinstance(self._rule, SelectingRule):
            values, features = self._rule.select(self._sae.product(z))
            token, place = values.nonzero(as_tuple=True)
            return token, features[token, place], values[token, place]
        values = self._rule(self._sae.product(z))
        token, feature = values.nonzero(as_tuple=True)
        return token, feature, values[token, feature]

    # --- what could fire -------------------------------------------------------------------------------------------

    def _lay_out(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the input out in bfloat16; return how far its products may be off, and those in float32, ``[tokens]``."""
        tokens, d_in = z.shape
        half = z.bfloat16()
        lost = (z - half.float()).norm(dim=1)
        norm, weights = z.norm(dim=1) + lost, self._norm + self._lost  # what no rounded vector exceeds
        rounding = 4 * (d_in + _EXTRA) * _SINGLE * (norm * weights + self._bias)  # adding up, here and in float32
        rounding += d_in * _LEAST * (norm + weights + 1.0)
        error = lost * self._norm + norm * self._lost + _HALF * _HALF * self._bias + rounding
        raised = ((1 + _HALF) * error).bfloat16()
        self._input[:tokens, :d_in], self._input[:tokens, d_in + 2] = half, raised
        return raised.float(), rounding

    def _upper_bits(self, tokens: int, weights: Tensor, begin: int = 0) -> Bits:
        """Return what no pre-activation exceeds, ``[tokens, columns]``, in bfloat16 as integers.

        It lies where the next call lays its own, unless that begins at another column.

        From zero up, the bits of bfloat16 are in the order of 16-bit integers; those of what is below are below. NumPy
        compares and searches these several times as fast as torch does.
        """
        rows = min(with_few_numbers(tokens), self._block)  # what the input has beyond the tokens is of no interest
        upper = self._upper[self._block * begin :][: rows * weights.shape[1]].view(rows, -1)
        torch.mm(self._input[:rows], weights, out=upper)
        return upper[:tokens].view(torch.int16).numpy()

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


def _pairs(is_candidate: npt.NDArray[np.bool_]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return rows and columns of what is marked, in order."""
    token, feature = np.divmod(np.flatnonzero(is_candidate), is_candidate.shape[1])
    return torch.from_numpy(token), torch.from_numpy(feature)


def _group(columns: int, k: int) -> int:
    """Return how many columns are looked at as one, where the k-th largest of so many is bounded."""
    group = _GROUP
    while group > 1 and columns < group * _GROUPS_PER_K * k:
        group //= 2
    return group


def _largest(bits: Bits, group: int) -> Bits:
    """Return the largest of each group of columns, ``[tokens, groups]``."""
    return torch.from_numpy(bits).view(len(bits), group, -1).amax(dim=1).numpy()


def _floor(largest: Bits, error: Float[Tensor, " tokens"], k: int) -> Bits:
    """Return what each token's k largest are not below, ``[tokens, 1]``, from the largest of each group.

    At least k features, one of each group, are not below the k-th largest of the groups' largest. The bound was added
    to all of them, and what is true may lie below by as much again. Rounding the product keeps the order, so that one
    step of bfloat16 makes up for it.
    """
    kth = np.partition(largest, -k, axis=1)[:, -k]
    lower = torch.from_numpy(kth).view(torch.bfloat16).float() - 2 * error
    return ((lower.view(torch.int32) >> 16) - 1).clamp(min=0).to(torch.int16).numpy()[:, None]


def _begins(token: Int64[Tensor, " n"], tokens: int) -> Int64[Tensor, " tokens_and_one"]:
    """Return where the pairs of each token begin, and where the last ends."""
    begins = torch.zeros(tokens + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(token, minlength=tokens), 0, out=begins[1:])
    return begins
