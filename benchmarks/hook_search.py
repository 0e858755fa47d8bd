"""Does the search find where an SAE belongs? SAEs are trained at several places of a model, then looked for.

    PYTHONPATH=.:tests python benchmarks/hook_search.py --model MODEL --corpus CORPUS

Prints, for an SAE trained at each place and for random ones, the place found, its explained variance and that of the
next place, and how long the search took. The SAEs see the first tokens of the corpus, the search its last document.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from training import gather, train_top_k

from sae_analysis.corpus import Corpus, TokenStream, Windowing
from sae_analysis.language_model import LanguageModel, load_model
from sae_analysis.machine import prepare
from sae_analysis.reconstruction import search_hook
from sae_analysis.sae_interface import SparseAutoencoder, TopK, UnifiedSAEInterface

PLACES = ("hook_mlp_out", "hook_attn_out", "hook_resid_post", "hook_resid_mid", "attn.hook_z", "mlp.hook_in")
TRAINING_TOKENS = 40_000
EXPANSION, K, STEPS = 8, 8, 1500


def autoencoder(weights: dict[str, torch.Tensor], *, transcoder: bool = False) -> UnifiedSAEInterface:
    """Return trained weights as an SAE, or as a transcoder."""
    return UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=weights["encoder.weight"].T,
            b_enc=weights["encoder.bias"],
            W_dec=weights["decoder.weight"].T,
            b_dec=weights["b_dec"],
            rule=TopK(int(weights["k"])),
            subtract_b_dec=not transcoder,
            is_transcoder=transcoder,
        )
    )


def windows(model: LanguageModel, corpus: Corpus) -> torch.Tensor:
    """Return full windows from the beginning of the corpus."""
    stream = TokenStream(corpus, model.tokens, Windowing(seq_len=128, max_tokens=TRAINING_TOKENS), prepend_bos=False)
    return torch.cat([batch.ids for batch in stream if batch.ids.shape[1] == 128 and batch.windows.keep.all()])


def main() -> None:
    """Train, search, print one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    prepare(options.threads)
    model, corpus = load_model(options.model, device="cpu"), Corpus(source=options.corpus)
    ids, unseen = windows(model, corpus), list(corpus)[-20:]
    hooks = [f"blocks.{options.layer}.{place}" for place in PLACES]
    x = gather(model, ids, hooks)
    trained = {
        hook: autoencoder(train_top_k(values, d_sae=EXPANSION * values.shape[1], k=K, steps=STEPS))
        for hook, values in x.items()
    }
    begin, end = f"blocks.{options.layer}.mlp.hook_in", f"blocks.{options.layer}.hook_mlp_out"
    across = train_top_k(x[begin], d_sae=EXPANSION * model.d_model, k=K, steps=STEPS, target=x[end])
    trained[f"{begin} -> {end}"] = autoencoder(across, transcoder=True)
    for seed in range(3):
        torch.manual_seed(seed)
        d_in, d_sae = model.d_model, EXPANSION * model.d_model
        directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        random = {"encoder.weight": directions, "encoder.bias": torch.zeros(d_sae), "decoder.weight": directions.T}
        trained[f"random {seed}"] = autoencoder(random | {"b_dec": torch.zeros(d_in), "k": torch.tensor(K)})
    for place, sae in trained.items():
        start = time.perf_counter()
        found = search_hook(sae, model, unseen, prepend_bos=False)
        print(
            json.dumps(
                {
                    "trained at": place,
                    "found": found.winner.place if found.winner else None,
                    "explained variance": round(found.scores[0].explained_variance, 3),
                    "next": round(found.scores[1].explained_variance, 3),
                    "next place": found.scores[1].place,
                    "places": len(found.scores),
                    "seconds": round(time.perf_counter() - start, 2),
                }
            )
        )


if __name__ == "__main__":
    main()
