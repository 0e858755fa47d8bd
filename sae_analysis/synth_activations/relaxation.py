"""The stage in embedding space: mixtures of tokens, moved by their gradient, then read as tokens again.

Each place of a sequence holds a mixture of all allowed tokens' embeddings, the softmax of free numbers, and Adam
moves the numbers towards more activation. What mixtures promise is no result: tokens drawn from them join the search,
and the gap between the mixtures and their likeliest tokens is reported.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.synth_activations.evaluation import Evaluator

_PRESENT_SHARE = 0.1
"""Share of the present token in its mixture at the beginning; the others share the rest evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """What came of the mixtures."""

    value: Float[Tensor, " sequences"]
    """Activation at the mixtures themselves, or the margin that it lacks, as in ``Scores``."""

    mixtures: Float[Tensor, "sequences seq allowed"]
    """Shares of the candidate tokens in each place."""


def relax(
    evaluator: Evaluator,
    candidates: Int64[Tensor, " allowed"],
    begin: Int64[Tensor, "sequences seq"],
    feature: Int64[Tensor, " sequences"],
    *,
    n_steps: int,
    learning_rate: float,
) -> Relaxed:
    """Move mixtures that begin near sequences up their features' values; ``feature`` is a place in the evaluator's.

    Source: softmax relaxation as in Guo et al. 2021, "Gradient-based Adversarial Attacks against Text Transformers",
    section 3, without its noise.
    """
    table = evaluator.site.model.embed(candidates).detach().float()
    head_start = math.log(_PRESENT_SHARE / (1 - _PRESENT_SHARE) * max(len(candidates) - 1, 1))
    free = (begin[..., None] == candidates).to(table).mul_(head_start).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=learning_rate)
    for _ in range(n_steps):
        with torch.enable_grad():
            embeddings = free.softmax(dim=-1) @ table
        _, slope = evaluator.slope(embeddings.detach(), feature)
        optimizer.zero_grad()
        embeddings.backward(-slope)
        optimizer.step()
    mixtures = free.detach().softmax(dim=-1)
    return Relaxed(value=evaluator.value_of(mixtures @ table, feature).cpu(), mixtures=mixtures.cpu())
