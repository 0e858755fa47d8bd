"""What sequences of tokens do to features, counted in the tokens that it costs to find out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.errors import ModelError
from sae_analysis.reconstruction import Site

GRADIENT_COST = 3
"""Token-evaluations charged for a token that is run forward and backward."""

_ROUNDING = {8: 1e-6, 4: 1e-4, 2: 5e-2}
"""Largest relative difference that is rounding, by the bytes of a number."""

_NUMBERS_AT_ONCE = 1 << 24
"""Pre-activations or logits held at a time: 64 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How hard each sequence fires each feature, at its best position."""

    value: Float[Tensor, "sequences features"]
    """Activation where the feature fires; where it does not, the margin that it lacks, which is not above 0."""

    position: Int64[Tensor, "sequences features"]
    """Where in the sequence, BOS not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fluency:
    """How far sequences read like text to the model itself.

    Source: Thompson, Straznickas and Sklar 2024, "Fluent dreaming for language models" (EPO).
    """

    cross_entropy: Float[Tensor, " sequences"]
    """Mean surprise in nats per token; where no BOS is put in front, of all tokens but the first."""

    likely: Int64[Tensor, "sequences seq candidates"]
    """Places among the candidate tokens of those that the model expects most in each place, given what is before."""


def check_finite(site: Site, values: Tensor) -> None:
    """Refuse to go on with values ``[...]`` that are no numbers.

    Raises:
        ModelError: there are such values.
    """
    if not torch.isfinite(values).all():
        raise ModelError(f"{site.name} gives values that are not finite in {site.model.dtype}: use dtype float32.")


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

    def check(self, ids: Int64[Tensor, "sequences seq"]) -> None:
        """Make sure that slopes belong to the model that tokens go through.

        Raises:
            ModelError: embeddings in the place of tokens give other activations than the tokens themselves.
        """
        model, hook, whole = self.site.model, self.site.hook, self._with_bos(ids)
        by_tokens = model.activations(whole, hook).float()
        by_embeddings = model.activations_of_embeddings(model.embed(whole), hook).float()
        difference = float((by_embeddings - by_tokens).norm() / by_tokens.norm())
        if difference > _ROUNDING[model.dtype.itemsize]:  # values that are not finite are told of where they are read
            raise ModelError(
                f"{model.name} makes other activations at {hook} of its tokens' embeddings than of the tokens "
                f"(they differ by {difference:.1%}): it cannot be searched by slopes."
            )

    def remembers(self, ids: Int64[Tensor, "sequences seq"]) -> bool:
        """Return whether going on from a remembered beginning gives what whole sequences do; not all models can."""
        shared, siblings = ids.shape[1] // 2, 2
        if not shared:
            return True
        twice = ids.repeat_interleave(siblings, dim=0)
        whole = self._activations(twice, 0, 1)[:, shared:]
        continued = self._activations(twice, shared, siblings)
        return float((continued - whole).norm() / whole.norm()) <= _ROUNDING[self.site.model.dtype.itemsize]

    def score(self, ids: Int64[Tensor, "sequences seq"], shared: int = 0, siblings: int = 1) -> Scores:
        """Return what each sequence does to each feature.

        Of each ``siblings`` sequences in a row the first ``shared`` tokens are the same: they are run once if the
        model can go on from there, and features are looked at behind them only.
        """
        at_once = max(1, _NUMBERS_AT_ONCE // (ids.shape[1] * self._width * siblings)) * siblings
        found = [
            self._values(self._activations(part, shared, siblings)).max(dim=1)
            for part in ids.split(at_once)  # the probe holds every pre-activation of a part
        ]
        return Scores(
            value=torch.cat([part.values for part in found]).cpu(),
            position=torch.cat([part.indices for part in found]).cpu() + shared,
        )

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

        Source: Ebrahimi et al. 2018, "HotFlip"; Zou et al. 2023, "Universal and transferable adversarial attacks on
        aligned language models" (GCG).
        """
        embeddings = self.site.model.embed(ids).detach().float()
        _, slope = self.slope(embeddings, feature, position)
        present = (slope * embeddings).sum(dim=-1, keepdim=True)
        return (slope @ self.site.model.embed(candidates).float().T - present).cpu()

    def slope(
        self,
        embeddings: Float[Tensor, "sequences seq d_embedding"],
        feature: Int64[Tensor, " sequences"],
        position: Int64[Tensor, " sequences"] | None = None,
    ) -> tuple[Float[Tensor, " sequences"], Float[Tensor, "sequences seq d_embedding"]]:
        """Return the values of embeddings in the place of tokens, and their gradients; BOS is put in front here.

        Taken at ``position``, or where each is largest.
        """
        self.token_evaluations += (GRADIENT_COST - 1) * embeddings.shape[:2].numel()
        with torch.enable_grad():
            leaf = embeddings.to(self.site.model.dtype).clone().requires_grad_()
            value = self.value_of(leaf, feature, position)
            [slope] = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope.float()

    def value_of(
        self,
        embeddings: Float[Tensor, "sequences seq d_embedding"],
        feature: Int64[Tensor, " sequences"],
        position: Int64[Tensor, " sequences"] | None = None,
    ) -> Float[Tensor, " sequences"]:
        """Return the values of embeddings in the place of tokens, as ``slope`` does, without its gradient."""
        self.token_evaluations += embeddings.shape[:2].numel()
        x = self.site.model.activations_of_embeddings(self._with_bos_embedded(embeddings), self.site.hook)
        rows = torch.arange(len(embeddings), device=x.device)
        x = x[:, self._bos_columns :].float()
        if position is not None:
            return self._values(x[rows, position])[rows, feature]
        return self._values(x)[rows, :, feature].amax(dim=1)

    def fluency(self, ids: Int64[Tensor, "sequences seq"], candidates: Int64[Tensor, " allowed"], most: int) -> Fluency:
        """Run whole forward passes; ``most`` is how many likely candidates are wanted in each place."""
        self.token_evaluations += ids.numel()
        surprises, likely = [], []
        for part in ids.split(max(1, _NUMBERS_AT_ONCE // (ids.shape[1] * self.site.model.d_vocab))):
            whole = self._with_bos(part)
            logits = self.site.model.forward(whole)[:, :-1].float()
            own = logits.gather(2, whole[:, 1:, None].to(logits.device))[..., 0]
            surprises.append((logits.logsumexp(dim=-1) - own).mean(dim=1).cpu())
            expected = logits[..., candidates].topk(min(most, len(candidates)), dim=-1).indices.cpu()
            if not self.site.prepend_bos:  # nothing is before the first token that could expect it
                expected = torch.cat((expected[:, :1], expected), dim=1)
            likely.append(expected)
        return Fluency(cross_entropy=torch.cat(surprises), likely=torch.cat(likely))

    def sample(
        self, count: int, length: int, candidates: Int64[Tensor, " allowed"], generator: torch.Generator
    ) -> Int64[Tensor, "sequences seq"]:
        """Return what the model itself would write, of candidate tokens; without BOS the first one is any of them.

        Raises:
            ModelError: logits that are no numbers.
        """
        model, memory = self.site.model, self.site.model.new_memory()
        ids = candidates[torch.randint(len(candidates), (count, int(not self.site.prepend_bos)), generator=generator)]
        unread = self._with_bos(ids)
        while ids.shape[1] < length:
            self.token_evaluations += unread.numel()
            logits = model.forward(unread, memory)[:, -1].float().cpu()[:, candidates]
            check_finite(self.site, logits)
            drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            ids = torch.cat((ids, candidates[drawn]), dim=1)
            unread = ids[:, -1:] if memory is not None else self._with_bos(ids)
        return ids

    @property
    def _bos_columns(self) -> int:
        return int(self.site.prepend_bos)

    def _with_bos(self, ids: Int64[Tensor, "sequences seq"]) -> Int64[Tensor, "sequences with_bos"]:
        bos = self.site.model.tokens.bos_token_id
        if not self.site.prepend_bos or bos is None:
            return ids
        return torch.cat((ids.new_full((len(ids), 1), bos), ids), dim=1)

    def _with_bos_embedded(self, embeddings: Float[Tensor, "sequences seq d"]) -> Float[Tensor, "sequences with_bos d"]:
        bos = self.site.model.embed(self._with_bos(torch.zeros((len(embeddings), 0), dtype=torch.int64)))
        return torch.cat((bos.detach().to(embeddings.dtype), embeddings), dim=1)

    def _activations(
        self, ids: Int64[Tensor, "sequences seq"], shared: int, siblings: int
    ) -> Float[Tensor, "sequences looked_at d_in"]:
        model, hook = self.site.model, self.site.hook
        beginnings = ids[::siblings, :shared]
        memory = model.begin(self._with_bos(beginnings), hook, siblings) if shared and siblings > 1 else None
        if memory is None:
            self.token_evaluations += ids.numel()
            return model.activations(self._with_bos(ids), hook)[:, self._bos_columns + shared :].float()
        rest = ids[:, shared:]
        self.token_evaluations += beginnings.numel() + rest.numel()
        return model.activations(rest, hook, memory).float()

    def _values(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch features"]:
        return self._probe(x)
