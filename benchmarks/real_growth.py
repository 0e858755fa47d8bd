"""How fast ``real`` runs, against the bare forward pass to the hook, and in how much memory.

    python benchmarks/real_growth.py --tokens 200000            the demo: speed, ratio to the limit, peak memory
    python benchmarks/real_growth.py --tokens 100000 1000000    memory as the corpus grows
    python benchmarks/real_growth.py --dtypes float32 bfloat16  what the number format does to speed and results

Every case runs in a process of its own, so that peak memory is its own. The limit is the same batches through the
model up to the hook and nothing else: no SAE, no statistics. Set-up (loading, tokenizer) is not counted.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from peak import peak_mib

from sae_analysis.records import AnalysisResult


def measure(options: argparse.Namespace) -> None:
    """Run one case in this process; print its figures as JSON and keep the result if a file was named."""
    import torch

    from sae_analysis.artifacts import write_result
    from sae_analysis.corpus import Corpus, TokenStream, Windowing
    from sae_analysis.demo import default_corpus_folder, default_model_folder, default_sae_path
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.language_model import load_model
    from sae_analysis.machine import prepare
    from sae_analysis.real_activations import RealSettings, analyze
    from sae_analysis.reconstruction import attach
    from sae_analysis.sae_formats import load_sae

    threads = prepare(options.threads)
    model = load_model(options.model or str(default_model_folder()), dtype=options.dtype)
    site = attach(load_sae(options.sae or default_sae_path()), model, None)
    corpus = Corpus(source=options.corpus or default_corpus_folder())
    windowing = Windowing(batch_size=options.batch_size, max_tokens=options.tokens)
    warm_up = Windowing(batch_size=options.batch_size, max_tokens=4096)
    analyze(site, parse_features("0"), corpus, RealSettings(windowing=warm_up, allow_poor_fit=True))

    begin = time.perf_counter()
    result = analyze(site, parse_features(options.features), corpus, RealSettings(windowing=windowing))
    seconds = time.perf_counter() - begin
    peak = peak_mib()
    if options.keep:
        write_result(result, options.keep)

    limit_tokens = min(options.tokens, 20_000)
    limit_windowing = Windowing(batch_size=options.batch_size, max_tokens=limit_tokens)
    begin = time.perf_counter()
    with torch.inference_mode():
        for batch in TokenStream(corpus, model.tokens, limit_windowing, prepend_bos=site.prepend_bos):
            model.activations(batch.ids, site.hook)
    bare = limit_tokens / (time.perf_counter() - begin)
    tokens = result.features[0].token_count
    rate = tokens / seconds
    figures = {
        "tokens": tokens,
        "dtype": result.provenance.dtype,
        "threads": threads,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(rate),
        "bare_forward_tokens_per_second": round(bare),
        "ratio_to_limit": round(rate / bare, 3),
        "peak_memory_mib": round(peak),
    }
    print(json.dumps(figures))


def differences(first: AnalysisResult, second: AnalysisResult) -> dict[str, float]:
    """Return how far two runs of the same features on the same text lie apart."""
    overlaps, maxima, densities = [], [], []
    for ours, theirs in zip(first.features, second.features, strict=True):
        shared = {example.token_ids for example in ours.examples} & {example.token_ids for example in theirs.examples}
        overlaps.append(len(shared) / max(len(ours.examples), 1))
        maxima.append(abs(ours.max_activation - theirs.max_activation) / max(ours.max_activation, 1e-9))
        densities.append(abs(ours.density - theirs.density) / max(ours.density, 1e-9))
    explained = [result.fit.explained_variance for result in (first, second) if result.fit]
    return {
        "top_examples_shared": round(sum(overlaps) / len(overlaps), 3),
        "largest_relative_change_of_a_maximum": round(max(maxima), 4),
        "largest_relative_change_of_a_density": round(max(densities), 4),
        "explained_variance_change": round(explained[1] - explained[0], 5),
    }


def main() -> None:
    """Run every case in a process of its own and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--sae")
    parser.add_argument("--corpus", help="default: all State of the Union addresses")
    parser.add_argument("--features", default="random:10")
    parser.add_argument("--tokens", type=int, nargs="+", default=[200_000])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dtype:
        (options.tokens,) = options.tokens
        measure(options)
        return
    from tempfile import TemporaryDirectory

    from sae_analysis.artifacts import read_result

    with TemporaryDirectory() as folder:
        kept = []
        for dtype in options.dtypes:
            for tokens in options.tokens:
                kept.append(Path(folder) / f"{dtype}-{tokens}.json")
                case = ["--tokens", str(tokens), "--dtype", dtype, "--keep", str(kept[-1])]
                print(subprocess.check_output([sys.executable, __file__, *sys.argv[1:], *case], text=True), end="")
        if len(options.dtypes) > 1 and len(options.tokens) == 1:
            first, *others = (read_result(path) for path in kept)
            for other in others:
                print(json.dumps({other.provenance.dtype: differences(first, other)}))


if __name__ == "__main__":
    main()
