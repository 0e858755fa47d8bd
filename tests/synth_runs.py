"""What tests of the search share: an SAE at its hook, and sequences to try."""

import torch
from conftest import K, topk_weights

from sae_analysis.reconstruction import attach
from sae_analysis.sae_interface import Origin, SparseAutoencoder, TopK, UnifiedSAEInterface

HOOK = "blocks.1.hook_resid_post"


def site_of(model, rule=None, **options):
    weights = topk_weights()
    sae = SparseAutoencoder(
        W_enc=weights["encoder.weight"].T,
        b_enc=weights["encoder.bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["b_dec"],
        rule=rule or TopK(K),
        subtract_b_dec=True,
    )
    return attach(UnifiedSAEInterface(sae, origin=Origin(hook=HOOK)), model, **options)


def random_ids(count, length, seed=0):
    return torch.randint(3, 320, (count, length), generator=torch.Generator().manual_seed(seed))
