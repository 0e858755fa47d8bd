"""What single tokens do to features: measured once for many of them, since one forward pass serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sae_analysis.reconstruction import Site
from sae_analysis.synth_activations.evaluation import Evaluator
from sae_analysis.synth_activations.vocabulary import Vocabulary

_SHARE = 1 / 3
"""Most of the budget that is spent on single tokens; of a vocabulary that costs more, a random part is tried."""

_NUMBERS_AT_ONCE = 1 << 25
"""Values held: 128 MB."""


_AT_ONCE = 1024
"""Tokens that share what stands in front of them."""

_ASKED = 64
"""Tokens behind which the model says what it expects, to find one that is common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleTokens:
    """What single tokens do to some features."""

    front: tuple[int, ...]
    """What stood in front of them: nothing but BOS, or without BOS a common token, since what stands first in a
    sequence is to the model like nothing else."""

    allowed: np.ndarray
    """The tokens."""

    values: np.ndarray
    """``[allowed, features]``, -inf for tokens that were not tried."""

    def best(self, column: int) -> tuple[int, ...]:
        """Return the one that fires a feature most, behind what stood in front."""
        return (*self.front, int(self.allowed[self.values[:, column].argmax()]))


def try_tokens(
    evaluator: Evaluator, vocabulary: Vocabulary, tried: Int64[Tensor, " tried"], *, caching: bool
) -> SingleTokens:
    """Run tokens by themselves; ``tried`` are places in the vocabulary, ``caching`` runs what is in front once."""
    front = () if evaluator.site.prepend_bos else (_common_token(evaluator, vocabulary),)
    values = np.full((len(vocabulary), len(evaluator.features)), -np.inf, np.float32)
    for part in tried.split(_AT_ONCE):
        sequences = torch.tensor(front).expand(len(part), -1).long()
        sequences = torch.cat((sequences, vocabulary.ids[part, None]), dim=1)
        values[part] = evaluator.score(sequences, len(front), len(part) if caching else 1).value.numpy()
    return SingleTokens(front=front, allowed=vocabulary.ids.numpy(), values=values)


def _common_token(evaluator: Evaluator, vocabulary: Vocabulary) -> int:
    """Return the token that the model expects most behind others, on average."""
    asked = vocabulary.ids[torch.linspace(0, len(vocabulary) - 1, _ASKED).long()]
    evaluator.token_evaluations += len(asked)
    logits = evaluator.site.model.forward(asked[:, None])[:, -1].float()[:, vocabulary.ids]
    return int(vocabulary.ids[logits.softmax(dim=-1).mean(dim=0).argmax().cpu()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """What single tokens do to some features."""

    columns: Mapping[int, int]
    """Where each feature is in ``tokens``."""

    tokens: SingleTokens

    token_evaluations: int
    """What it cost, for all features together."""

    def of(self, batch: Sequence[int]) -> tuple[SingleTokens, int]:
        """Return what it says of some of the features, and their part of the cost."""
        columns = [self.columns[feature] for feature in batch]
        tokens = replace(self.tokens, values=self.tokens.values[:, columns])
        return tokens, self.token_evaluations * len(batch) // len(self.columns)


def make_atlas(
    site: Site, vocabulary: Vocabulary, features: tuple[int, ...], budget: int, seed: int, *, caching: bool = True
) -> Atlas:
    """Try every token of the vocabulary, or as many as a share of the features' budget allows."""
    affordable = max(1, int(_SHARE * budget * len(features)))
    order = torch.randperm(len(vocabulary), generator=torch.Generator().manual_seed(seed))
    evaluator = Evaluator(site, features)
    tokens = try_tokens(evaluator, vocabulary, order[:affordable].sort().values, caching=caching)
    columns = {feature: column for column, feature in enumerate(features)}
    return Atlas(columns=columns, tokens=tokens, token_evaluations=evaluator.token_evaluations)


def atlas_groups(batches: Sequence[tuple[int, ...]], vocabulary: Vocabulary) -> list[list[tuple[int, ...]]]:
    """Cut batches, in order, into groups that share an atlas: as many as can be held, one at least."""
    most, groups, held = max(1, _NUMBERS_AT_ONCE // len(vocabulary)), [], 0
    for batch in batches:
        if not groups or held + len(batch) > most:
            groups.append([])
            held = 0
        groups[-1].append(batch)
        held += len(batch)
    return groups
