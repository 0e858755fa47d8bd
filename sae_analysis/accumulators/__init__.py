"""Statistics of a stream: ``update`` with a batch, ``merge`` two streams, ``finish``. NumPy only, no torch.

Every class here keeps the same contract. ``update`` may be called any number of times, in any split and order of the
same windows; ``merge`` adds what another one saw and leaves that one usable; ``state`` and ``from_state`` are
inverse; ``finish`` may be called at any time and does not end anything. All are exact: integer counts, sums without
rounding, total orders. Memory depends on the dictionary and the options, never on the length of the stream.
"""

from sae_analysis.accumulators.batch import SparseActs, Windows
from sae_analysis.accumulators.dictionary import DictionaryStatistics, FitStatistics
from sae_analysis.accumulators.examples import MOST_WINDOWS, ExampleStatistics, HeldExample, HeldExamples
from sae_analysis.accumulators.features import (
    PositionStatistics,
    TokenStatistics,
    ValueStatistics,
    ValueSummary,
    position_edges,
)

__all__ = [
    "MOST_WINDOWS",
    "DictionaryStatistics",
    "ExampleStatistics",
    "FitStatistics",
    "HeldExample",
    "HeldExamples",
    "PositionStatistics",
    "SparseActs",
    "TokenStatistics",
    "ValueStatistics",
    "ValueSummary",
    "Windows",
    "position_edges",
]
