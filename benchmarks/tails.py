"""Does the tail that is fitted to a tenth of a corpus say how far all of it goes?

    python benchmarks/tails.py --model MODEL --sae SAE --corpus CORPUS [--write NAME]

Every tenth document is read, the tail of each feature fitted, and the largest activation on all documents predicted;
then all are read. Counted is how often the interval of nine tenths holds it. Model, SAE and corpus are the demo's
unless given. ``--write`` puts the table into docs/comparison.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from synthetic_table import put_between

from sae_analysis.comparison import fitted_tail
from sae_analysis.corpus import Corpus, Document
from sae_analysis.demo import default_corpus, default_model_folder, default_sae_path
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import load_model
from sae_analysis.machine import prepare
from sae_analysis.real_activations import RealSettings, analyze
from sae_analysis.reconstruction import attach
from sae_analysis.records import FeatureStats
from sae_analysis.sae_formats import load_sae

_PARTS = 10
"""Documents are dealt out to so many parts in turn; two of them are fitted to."""

PAGE = Path(__file__).resolve().parent.parent / "docs" / "comparison.md"


_NAMES = {
    "small": "A Llama of 260 thousand parameters, TopK SAE of 512 features, stories",
    "demo": "The demo's model, SAE and text",
}


class Part:
    """Every tenth document of a corpus, from one on."""

    def __init__(self, corpus: Corpus, first: int) -> None:
        """Read nothing yet."""
        self._corpus, self._first = corpus, first

    def __iter__(self) -> Iterator[Document]:
        """Yield the part's documents."""
        for number, document in enumerate(self._corpus):
            if number % _PARTS == self._first:
                yield document


def main() -> None:
    """Fit to two parts, read all, and print how often the intervals hold."""
    options = _options()
    prepare(options.threads)
    corpus = Corpus(source=options.corpus or default_corpus())
    model = load_model(options.model or str(default_model_folder()), device="cpu", dtype="float32")
    site = attach(load_sae(options.sae or default_sae_path()), model, documents=corpus)
    selection = parse_features(options.features)
    settings = RealSettings(firings=0, allow_poor_fit=True, max_examples=1, band_examples=1)
    whole = analyze(site, selection, corpus, settings).by_feature()
    lines = []
    for first in (0, _PARTS // 2):
        part = analyze(site, selection, Part(corpus, first), settings).by_feature()
        lines.append(_line(part, whole))
    head = "| features | tokens fitted to | of | interval holds the maximum | below | above | width, median |"
    table = "\n".join([head, "|---|---|---|---|---|---|---|", *lines])
    print(table)
    if options.write:
        PAGE.write_text(put_between(PAGE.read_text(), f"tails {options.write}", f"{_NAMES[options.write]}:\n\n{table}"))


def _line(part: dict[int, FeatureStats], whole: dict[int, FeatureStats]) -> str:
    """Return a row of the table: all features that fired often enough in the part to say anything."""
    below, above, widths = 0, 0, []
    for feature, stats in part.items():
        tail, largest = fitted_tail(stats), whole[feature].max_activation
        if tail is None:
            continue
        rest = tail.largest_on(whole[feature].token_count - stats.token_count)
        low, high = max(stats.max_activation, rest.low), max(stats.max_activation, rest.high)
        below += largest < low * (1 - 1e-6)
        above += largest > high * (1 + 1e-6)
        widths.append((high - low) / largest)
    one = next(iter(part))
    held = 1 - (below + above) / len(widths)
    cells = (
        f"{len(widths):,}",
        f"{part[one].token_count:,}",
        f"{whole[one].token_count:,}",
        f"{100 * held:.1f} %",
        f"{100 * below / len(widths):.1f} %",
        f"{100 * above / len(widths):.1f} %",
        f"{100 * np.median(widths):.0f} % of it",
    )
    return "| " + " | ".join(cells) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--sae")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--features", default="all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", choices=_NAMES, help=f"put the table into {PAGE.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
