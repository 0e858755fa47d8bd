"""What others need for the same work; run by benchmarks/real.py in an environment of theirs, never by hand.

    python real_opponents.py NAME SUBJECT SAE FEATURES THREADS

prints one line of JSON: seconds and peak memory. Loading is not counted. ``sae-dashboard`` and ``sae-vis`` run with
their default layouts and batches; ``dense`` is the loop that one would write first.
"""

import contextlib
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

HOOK, BATCH = "blocks.0.hook_resid_post", 16


def sae_dashboard(model, sae, tokens, features):
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    config = SaeVisConfig(hook_point=HOOK, features=features, device="cpu", dtype="float32")
    return lambda: SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)


def sae_vis(model, sae, tokens, features):
    from sae_vis.data_config_classes import SaeVisConfig
    from sae_vis.data_storing_fns import SaeVisData

    sae.cfg.hook_name = HOOK  # where it stood in the versions of SAELens that this package was made for
    return lambda: SaeVisData.create(sae, model, tokens, SaeVisConfig(features=features))


def dense(model, sae, tokens, features):
    """Encode everything, select, and keep counts, sums, maxima and the strongest windows of the features asked for."""

    def run():
        chosen = torch.tensor(features)
        count, total = torch.zeros(len(chosen)), torch.zeros(len(chosen))
        best, windows = torch.zeros(len(chosen), 0), torch.zeros(len(chosen), 0, dtype=torch.long)
        for begin in range(0, len(tokens), BATCH):
            _, cache = model.run_with_cache(tokens[begin : begin + BATCH], names_filter=[HOOK], stop_at_layer=1)
            values = sae.encode(cache[HOOK][:, 1:])[..., chosen]
            count += (values > 0).sum((0, 1))
            total += values.sum((0, 1))
            strongest = torch.cat((best, values.amax(1).T), 1)
            numbers = torch.arange(begin, begin + len(values)).expand(len(chosen), -1)
            numbers = torch.cat((windows, numbers), 1)
            best, place = strongest.topk(min(20, strongest.shape[1]), dim=1)
            windows = numbers.gather(1, place)

    return run


def load_model(subject):
    """Return gelu-1l from a hub cache; by its name the library would ask the hub what files there are."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformers import AutoTokenizer

    [weights] = subject.rglob("model_final.pth")
    [tokenizer] = subject.rglob("tokenizer.json")
    said = json.loads((weights.parent / "config.json").read_text())
    names = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn")
    config = HookedTransformerConfig(**{name: said[name] for name in names}, normalization_type="LN", device="cpu")
    model = HookedSAETransformer(config, tokenizer=AutoTokenizer.from_pretrained(tokenizer.parent))
    model.load_and_process_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def main():
    name, subject, path, features, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with contextlib.redirect_stdout(sys.stderr):
        from sae_lens import SAE

        model = load_model(Path(subject))
        sae = SAE.load_from_disk(path, device="cpu")
        tokens = torch.from_numpy(np.load(Path(subject) / "tokens.npy"))
        count = sae.cfg.d_sae if features == "all" else int(features)
        chosen = (
            torch.randperm(sae.cfg.d_sae, generator=torch.Generator().manual_seed(0))[:count].sort().values.tolist()
        )
        contender = {"sae-dashboard": sae_dashboard, "sae-vis": sae_vis, "dense": dense}[name]
        with torch.inference_mode():
            contender(model, sae, tokens[:16], chosen[:4])()  # whatever is slow once
            run = contender(model, sae, tokens, chosen)
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": round(peak)}))


if __name__ == "__main__":
    main()
