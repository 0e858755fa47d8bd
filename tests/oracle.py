"""A second, slow opinion on ``real``: one window at a time, dense arrays, plain formulas, none of our streaming code.

It reads the model through ``transformers`` and the SAE through ``torch.load`` and its published formula, holds every
activation in memory, and compares each statistic of a finished analysis. Run on any dictionary_learning TopK SAE:

    python tests/oracle.py --model FOLDER --sae FOLDER --corpus texts.jsonl --features 0-511
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from sae_analysis.records import AnalysisResult, FeatureStats


class Dense:
    """Every activation of a corpus of JSON lines at the output of one decoder layer."""

    def __init__(self, model: Path, sae: Path, corpus: Path, *, layer: int, seq_len: int, bos: bool, threads: int = 1):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        weights = {key: value.float() for key, value in torch.load(sae / "ae.pt", weights_only=True).items()}
        prefix = [tokenizer.bos_token_id] if bos else []
        length = seq_len - len(prefix)
        self.windows, acts, errors, inputs = [], [], [], []
        for line in corpus.read_text().splitlines():
            ids = tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]
            self.windows += [ids[start : start + length] for start in range(0, len(ids), length)]
        with torch.no_grad():
            for window in self.windows:
                states = network(torch.tensor([prefix + window]), output_hidden_states=True).hidden_states
                x = states[layer + 1][0, len(prefix) :]
                pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
                top = pre.relu().topk(int(weights["k"]), dim=-1)
                dense = torch.zeros_like(pre).scatter(1, top.indices, top.values)
                acts.append(dense.numpy())
                errors.append(dense @ weights["decoder.weight"].T + weights["b_dec"] - x)
                inputs.append(x)
        self.acts = acts
        self.special = set(tokenizer.all_special_ids)
        self.keep = [np.array([index not in self.special for index in window]) for window in self.windows]
        keep = torch.from_numpy(np.concatenate(self.keep))
        x, error = torch.cat(inputs)[keep].double(), torch.cat(errors)[keep].double()
        self.explained_variance = float(1 - error.square().sum() / (x - x.mean(0)).square().sum())

    def differences(self, stats: FeatureStats) -> list[str]:
        """Return what in one feature's statistics is not what the dense arrays say; means may differ by 1e-6."""
        column = [dense[:, stats.feature_idx] * keep for dense, keep in zip(self.acts, self.keep, strict=True)]
        values = np.concatenate(column)
        active = values[values != 0]
        tokens = np.concatenate([np.array(window) for window in self.windows])[values != 0]
        found, expected = {}, {}

        def compare(name: str, ours: object, theirs: object) -> None:
            found[name], expected[name] = ours, theirs

        compare("token_count", stats.token_count, int(sum(keep.sum() for keep in self.keep)))
        compare("active_count", stats.active_count, len(active))
        compare("max", np.float32(stats.max_activation).tolist(), close_to(stats.max_activation, max([0, *active])))
        if len(active):
            mean, std = active.astype(np.float64).mean(), active.astype(np.float64).std()
            compare("mean", stats.mean_activation, close_to(stats.mean_activation, mean))
            rounded = 1e-6 * abs(active).max()  # what all that a nearly constant feature's deviation is may be
            compare("std", stats.std_activation, close_to(stats.std_activation, std, 1e-5, rounded))
            counts, _ = np.histogram(active, bins=np.array(stats.histogram.edges))
            compare("histogram", stats.histogram.counts, tuple(counts.tolist()))
        places = Counter(np.concatenate([np.flatnonzero(window) for window in column]).tolist())
        edges = np.array(stats.position_histogram.edges)
        by_bin = np.histogram(list(places.elements()), bins=edges)[0].tolist() if places else [0] * (len(edges) - 1)
        compare("positions", list(stats.position_histogram.counts), by_bin)
        by_token = Counter(tokens.tolist())
        compare(
            "top token counts",
            [row.active_count for row in stats.top_tokens],
            [
                count
                for _, count in sorted(by_token.items(), key=lambda item: (-item[1], item[0]))[: len(stats.top_tokens)]
            ],
        )
        sums = defaultdict(list)
        for token, value in zip(tokens.tolist(), active.tolist(), strict=True):
            sums[token].append(value)
        kept = Counter(
            token
            for window, keep in zip(self.windows, self.keep, strict=True)
            for token in np.array(window)[keep].tolist()
        )
        for row in stats.top_tokens:
            compare(f"rate on {row.token_id}", row.firing_rate, by_token[row.token_id] / kept[row.token_id])
            compare(f"share of {row.token_id}", row.share, by_token[row.token_id] / len(active))
            compare(
                f"mean on {row.token_id}",
                row.mean_activation,
                close_to(row.mean_activation, np.mean(sums[row.token_id])),
            )
        compare("examples", [(e.token_ids, e.peak_position) for e in stats.examples], self.strongest(column, stats))
        return [
            f"feature {stats.feature_idx} {name}: {found[name]} is not {expected[name]}"
            for name in found
            if found[name] != expected[name]
        ]

    def strongest(self, column: list[np.ndarray], stats: FeatureStats) -> list[tuple[tuple[int, ...], int]]:
        """Return the windows of highest maximum, each content once; where rounding decides, as the analysis has it."""
        ours = {example.token_ids: (place, example.peak_position) for place, example in enumerate(stats.examples)}
        found: dict[tuple[int, ...], tuple[float, int, int]] = {}
        for window, values in zip(map(tuple, self.windows), column, strict=True):
            if values.any():
                highest = int(values.argmax())
                place, peak = ours.get(window, (len(ours), highest))
                tied = values[peak] >= values[highest] * (1 - TIED)
                found[window] = float(values[highest]), place, peak if tied else highest
        order: dict[tuple[int, ...], tuple[int, int]] = {}
        group, above = 0, float("inf")
        for window, (value, place, _) in sorted(found.items(), key=lambda item: -item[1][0]):
            group += value < above * (1 - TIED)
            order[window], above = (group, place), value
        return [(window, found[window][2]) for window in sorted(order, key=order.__getitem__)][: len(ours)]


TIED = 1.3e-4
"""Relative difference up to which rounding may decide which of two maxima is taken for the larger."""


def close_to(ours: float | None, theirs: float, relative: float = 1e-6, absolute: float = 0.0) -> float | None:
    """Return ours if it is theirs within rounding, else theirs."""
    allowed = max(relative * abs(theirs), absolute)
    return ours if ours is not None and abs(ours - theirs) <= allowed else float(theirs)


def disagreements(result: AnalysisResult, dense: Dense) -> list[str]:
    """Return every difference between an analysis and the dense opinion."""
    found = []
    if abs(result.fit.explained_variance - dense.explained_variance) > 1e-6:
        found.append(f"explained variance: {result.fit.explained_variance} is not {dense.explained_variance}")
    for stats in result.features:
        found += dense.differences(stats)
    return found


def main() -> int:
    """Analyse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "sae", "corpus"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--features", default="all")
    options = parser.parse_args()

    from sae_analysis.corpus import Corpus
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.language_model import load_model
    from sae_analysis.real_activations import RealSettings, analyze
    from sae_analysis.reconstruction import attach
    from sae_analysis.sae_formats import load_sae

    torch.set_num_threads(1)
    site = attach(load_sae(options.sae), load_model(str(options.model), device="cpu"), None)
    result = analyze(site, parse_features(options.features), Corpus(source=options.corpus), RealSettings())
    layer = int(site.hook.split(".")[1])
    dense = Dense(options.model, options.sae, options.corpus, layer=layer, seq_len=128, bos=site.prepend_bos)
    found = disagreements(result, dense)
    print("\n".join(found[:40]))
    print(f"{len(result.features)} features on {result.fit.token_count:,} tokens: {len(found)} disagreements")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
