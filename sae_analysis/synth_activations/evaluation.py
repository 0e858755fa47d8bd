"""What sequences of tokens do to features, counted in the tokens that it costs to find out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.reconstruction import Site

GRADIENT_COST = 3
"""Token-evaluations charged for a token that is run forward and backward."""

_NUMBERS_AT_ONCE = 1 << 24
"""Pre-activations held at a time: 64 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How hard each sequence fires each feature, at its best position."""

    value: Float[Tensor, "sequences features"]
    """Activation where the feature fires; where it does not, the margin that it lacks, which is not above 0."""

    position: Int64[Tensor, "sequences features"]
    """Where in the sequence, BOS not counted."""


class Evaluator:
    """Runs sequences through the model as far as the SAE, for some of its features.

    BOS stands in front of every sequence if the SAE was trained so, and is neither scored nor searched over. The
    caller holds the grad mode.
    """

    token_evaluations: int = 0
    """Tokens run through the model so far, those run backward too counted ``GRADIENT_COST`` times; BOS not counted."""

    def __init__(self, site: Site, features: Sequence[int]) -> None:
        """Prepare to score these features, in this order."""
        self.site, self.features = site, tuple(features)
        self._probe = site.sae.probe_of(self.features)
        self._width = len(self.features) if site.sae.is_separable else site.sae.dict_size

    def score(self, ids: Int64[Tensor, "sequences seq"]) -> Scores:
        """Return what each sequence does to each feature."""
        self.token_evaluations += ids.numel()
        at_once = max(1, _NUMBERS_AT_ONCE // (ids.shape[1] * self._width))
        found = [self._values(self._activations(part)).max(dim=1) for part in ids.split(at_once)]
        return Scores(value=torch.cat([f.values for f in found]), position=torch.cat([f.indices for f in found]))

    def gradient(
        self,
        ids: Int64[Tensor, "sequences seq"],
        feature: Int64[Tensor, " sequences"],
        position: Int64[Tensor, " sequences"],
        candidates: Int64[Tensor, " allowed"],
    ) -> Float[Tensor, "sequences seq allowed"]:
        """Return by how much each sequence's value would change, to first order, with a candidate at each place.

        ``feature`` is a place in ``features``, ``position`` where the value is taken. The gradient of the value with
        respect to a one-hot choice of tokens, less what the present token has of it.
        """
        self.token_evaluations += GRADIENT_COST * ids.numel()
        with torch.enable_grad():
            embeddings = self.site.model.embed(self._with_bos(ids)).detach().clone().requires_grad_()
            x = self.site.model.activations_of_embeddings(embeddings, self.site.hook)[:, self._bos_columns :]
            rows = torch.arange(len(ids), device=x.device)
            value = self._values(x.float()[rows, position])[rows, feature]
            [slope] = torch.autograd.grad(value.sum(), embeddings)
        slope = slope[:, self._bos_columns :].float()
        present = (slope * embeddings[:, self._bos_columns :].detach().float()).sum(dim=-1, keepdim=True)
        return slope @ self.site.model.embed(candidates).float().T - present

    @property
    def _bos_columns(self) -> int:
        return int(self.site.prepend_bos)

    def _with_bos(self, ids: Int64[Tensor, "sequences seq"]) -> Int64[Tensor, "sequences with_bos"]:
        bos = self.site.model.tokens.bos_token_id
        if not self.site.prepend_bos or bos is None:
            return ids
        return torch.cat((ids.new_full((len(ids), 1), bos), ids), dim=1)

    def _activations(self, ids: Int64[Tensor, "sequences seq"]) -> Float[Tensor, "sequences seq d_in"]:
        return self.site.model.activations(self._with_bos(ids), self.site.hook)[:, self._bos_columns :].float()

    def _values(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch features"]:
        activations, margins = self._probe(x)
        return torch.where(activations > 0, activations, margins.clamp(max=0.0))
