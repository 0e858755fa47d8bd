"""What tests of the search share: an SAE at its hook, sequences to try, and what a search might have found."""

import torch
from conftest import topk_weights
from small_saes import interface

from sae_analysis.reconstruction import attach
from sae_analysis.sae_interface import Origin
from sae_analysis.synth_activations import Found, Searched

HOOK = "blocks.1.hook_resid_post"


def site_of(model, rule=None, **options):
    return attach(interface(topk_weights(), rule=rule, origin=Origin(hook=HOOK)), model, **options)


def random_ids(count, length, seed=0):
    return torch.randint(3, 320, (count, length), generator=torch.Generator().manual_seed(seed))


def found_in(sequences, **changes):
    """What a search might have found, with numbers that nobody should believe."""
    lies = {"value": 99.0, "position": 0, "provenance": "random", "evaluations": 7, "cross_entropy": 0.5} | changes
    return tuple(Found(ids=tuple(ids), **lies) for ids in sequences)


def searched_as(found, **changes):
    parts = {"token_evaluations": 10, "beginnings": 4, "convergence": (), "relaxation": None} | changes
    return Searched(found=found, **parts)


def random_texts(vocabulary, count, length, seed=0):
    """Return that many different sequences that are text."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(vocabulary), (20 * count, length), generator=generator)
    sequences = [tuple(ids) for ids in vocabulary.ids[picks].tolist()]
    texts = vocabulary.texts(sequences)
    return list(dict.fromkeys(ids for ids, text in zip(sequences, texts, strict=True) if text is not None))[:count]
