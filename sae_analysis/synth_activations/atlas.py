"""What single tokens do to features: measured once for many of them, since one forward pass serves all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae_analysis.reconstruction import Site
from sae_analysis.synth_activations.evaluation import Evaluator
from sae_analysis.synth_activations.vocabulary import Vocabulary

_SHARE = 1 / 3
"""Most of the budget that is spent on single tokens; of a vocabulary that costs more, a random part is tried."""

_NUMBERS_AT_ONCE = 1 << 25
"""Values held: 128 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """What single tokens do to some features."""

    columns: Mapping[int, int]
    """Where each feature is in ``values``."""

    values: np.ndarray
    """``[allowed, features]``, -inf for tokens that were not tried."""

    token_evaluations: int
    """What it cost, for all features together."""

    def of(self, batch: Sequence[int]) -> tuple[np.ndarray, int]:
        """Return the values for some of the features ``[allowed, batch]``, and their part of the cost."""
        columns = [self.columns[feature] for feature in batch]
        return self.values[:, columns], self.token_evaluations * len(batch) // len(self.columns)


def make_atlas(site: Site, vocabulary: Vocabulary, features: tuple[int, ...], budget: int, seed: int) -> Atlas:
    """Run every token of the vocabulary alone behind BOS, or as many as a share of the features' budget allows."""
    affordable = max(1, int(_SHARE * budget * len(features)))
    order = torch.randperm(len(vocabulary), generator=torch.Generator().manual_seed(seed))
    tried = order[:affordable].sort().values
    evaluator = Evaluator(site, features)
    values = np.full((len(vocabulary), len(features)), -np.inf, np.float32)
    values[tried] = evaluator.score(vocabulary.ids[tried, None]).value.cpu().numpy()
    columns = {feature: column for column, feature in enumerate(features)}
    return Atlas(columns=columns, values=values, token_evaluations=evaluator.token_evaluations)


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
