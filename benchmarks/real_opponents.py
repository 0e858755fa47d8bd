"""What others need for the same work; run by benchmarks/real.py in an environment of theirs, never by hand.

    python real_opponents.py NAME SUBJECT SAE FEATURES THREADS

prints one line of JSON: seconds and peak memory. Loading is not counted. ``SAEDashboard`` runs with its default layout
and batches; ``dense loop`` is what one would write first.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak import peak_mib

HOOK, BATCH, EXAMPLES = "blocks.0.hook_resid_post", 16, 20
Run = Callable[[], Any]


def sae_dashboard(model: Any, sae: Any, tokens: torch.Tensor, features: list[int]) -> Run:  # noqa: ANN401
    """Return SAEDashboard's own run."""
    data, runner = (import_module(f"sae_dashboard.{name}") for name in ("sae_vis_data", "sae_vis_runner"))
    config = data.SaeVisConfig(hook_point=HOOK, features=features, device="cpu", dtype="float32")
    return lambda: runner.SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)


def dense(model: Any, sae: Any, tokens: torch.Tensor, features: list[int]) -> Run:  # noqa: ANN401
    """Encode everything, select, and keep counts, sums and the strongest windows of the features asked for."""

    def run() -> None:
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
            best, place = strongest.topk(min(EXAMPLES, strongest.shape[1]), dim=1)
            windows = torch.cat((windows, numbers), 1).gather(1, place)

    return run


def load_model(subject: Path) -> Any:  # noqa: ANN401
    """Return gelu-1l from a hub cache; by its name the library would ask the hub what files there are."""
    sae_lens, transformer_lens = import_module("sae_lens"), import_module("transformer_lens")
    tokenizers = import_module("transformers").AutoTokenizer
    [weights], [tokenizer] = subject.rglob("model_final.pth"), subject.rglob("tokenizer.json")
    said = json.loads((weights.parent / "config.json").read_text())
    names = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn")
    options = {name: said[name] for name in names} | {"normalization_type": "LN", "device": "cpu"}
    config = transformer_lens.HookedTransformerConfig(**options)
    model = sae_lens.HookedSAETransformer(config, tokenizer=tokenizers.from_pretrained(tokenizer.parent))
    model.load_and_process_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def main() -> None:
    """Run one contender once."""
    name, subject, path, features, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with contextlib.redirect_stdout(sys.stderr):
        model = load_model(Path(subject))
        sae = import_module("sae_lens").SAE.load_from_disk(path, device="cpu")
        tokens = torch.from_numpy(np.load(Path(subject) / "tokens.npy"))
        count = sae.cfg.d_sae if features == "all" else int(features)
        chosen = torch.randperm(sae.cfg.d_sae, generator=torch.Generator().manual_seed(0))[:count].sort().values
        contender = {"SAEDashboard": sae_dashboard, "dense loop": dense}[name]
        with torch.inference_mode():
            contender(model, sae, tokens[:16], chosen[:4].tolist())()  # what is slow once
            run = contender(model, sae, tokens, chosen.tolist())
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin
    peak = peak_mib()
    print(json.dumps({"seconds": seconds, "peak_mib": round(peak)}))


if __name__ == "__main__":
    main()
