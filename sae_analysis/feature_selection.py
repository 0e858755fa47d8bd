"""Which features were asked for: ``0,5,10``, ``0-20``, ``0-10,50-60``, ``all``, ``random:N``, ``top:N``, ``dead:N``."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from sae_analysis.errors import FeatureError

GRAMMAR = "0,5,10 | 0-20 | 0-10,50-60 | all | random:N | top:N (by density) | top:N:max (by maximum) | dead:N"
"""The grammar in one line, for help and errors."""

_LONGEST_SHOWN = 100
"""Characters of a specification that an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSelection:
    """Features asked for by number, or by a rule that the SAE or the data answers."""

    kind: Literal["indices", "all", "random", "top-density", "top-maximum", "dead"]
    ranges: tuple[range, ...] = ()
    """Features asked for by number, in the order given; not written out, for a slip can name a thousand million."""

    count: int = 0
    """Number of features that a rule is to choose."""

    @property
    def needs_data(self) -> bool:
        """Whether only the analysed text can say which features these are."""
        return self.kind in ("top-density", "top-maximum", "dead")

    def before_data(self, d_sae: int, seed: int) -> tuple[int, ...]:
        """Return the features to measure, each once: those meant, or all where the data decides later.

        Raises:
            FeatureError: a number beyond the SAE's last feature, or more features than it has.
        """
        if self.kind == "indices":
            for asked in self.ranges:
                if asked.start < 0 or asked.stop > d_sae:
                    outside = asked.start if asked.start < 0 else max(asked.start, d_sae)
                    raise FeatureError(f"Feature {outside} does not exist: the SAE has features 0 to {d_sae - 1}.")
            return tuple(dict.fromkeys(chain.from_iterable(self.ranges)))
        if self.count > d_sae:
            raise FeatureError(f"{self.count} features were asked for: the SAE has {d_sae}. Ask for fewer.")
        if self.kind == "random":
            return tuple(sorted(random.Random(seed).sample(range(d_sae), self.count)))
        return tuple(range(d_sae))

    def after_data(self, active_counts: Sequence[int], max_magnitudes: Sequence[float]) -> tuple[int, ...]:
        """Return the features that the data chose: by firings, or by the largest magnitude of their activations.

        Equal ones come by index, dead ones too.

        Raises:
            FeatureError: dead features were asked for and every feature fired.
        """
        everything = range(len(active_counts))
        if self.kind == "top-density":
            return tuple(sorted(everything, key=lambda index: -active_counts[index])[: self.count])
        if self.kind == "top-maximum":
            return tuple(sorted(everything, key=lambda index: -max_magnitudes[index])[: self.count])
        dead = tuple(index for index in everything if active_counts[index] == 0)[: self.count]
        if not dead:
            raise FeatureError(
                f"features dead:{self.count} found none: all {len(everything)} features fired on this corpus."
            )
        return dead


def parse_features(text: str) -> FeatureSelection:
    """Read a feature specification.

    Raises:
        FeatureError: not in the grammar, an empty range, or a count below 1.
    """
    text = text.strip()
    if text == "all":
        return FeatureSelection(kind="all")
    if match := re.fullmatch(r"(random|top|dead):(\d{1,9})(:max)?", text, re.ASCII):
        rule, count, by_maximum = match[1], int(match[2]), match[3] is not None
        if count < 1 or (by_maximum and rule != "top"):
            raise FeatureError(f"features '{text}' asks for nothing that exists: expected {GRAMMAR}.")
        if rule == "top":
            return FeatureSelection(kind="top-maximum" if by_maximum else "top-density", count=count)
        return FeatureSelection(kind="random" if rule == "random" else "dead", count=count)
    ranges: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if not match:
            raise FeatureError(
                f"features '{_shown(text)}' cannot be read at '{_shown(part.strip())}': expected {GRAMMAR}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise FeatureError(f"features '{_shown(text)}' has the empty range {part.strip()}: write {last}-{first}.")
        ranges.append(range(first, last + 1))
    return FeatureSelection(kind="indices", ranges=tuple(ranges))


def _shown(text: str) -> str:
    """Return the beginning of a text, if it is a long one."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
