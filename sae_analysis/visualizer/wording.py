"""What a page says in words: the answer in its subtitle, and captions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sae_analysis.records import AnalysisResult, FeatureStats, Fit
from sae_analysis.visualizer.digits import count, number, share, shortened
from sae_analysis.wording import POOR_FIT

_NAMED = 3
"""Tokens named in a subtitle."""

_MOSTLY, _OFTEN = 0.5, 0.15
"""Share of firings that the named tokens must hold for *mostly* and for *often*."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """Tokens that a sentence speaks of."""

    tokens: tuple[str, ...]


_STRONG = 0.75
"""Quantile from which a band around it is strong; weak is one around a quantile as far from the other end."""

_FEW_FIRINGS = 20
"""Firings below which a histogram says how many it is made of, and counts them on an even scale."""

Part = str | Quoted
"""What a sentence is made of: words of ours, and tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a page says about where its numbers come from; empty parts are left out."""

    sae: str = ""
    model: str = ""
    hook: str = ""
    corpus: str = ""
    fit: Fit | None = None
    without_bos: bool = False
    """Whether no BOS stands in front, so that a single token is tried behind a common one."""

    @classmethod
    def of(cls, result: AnalysisResult) -> "Header":
        """Return the header of a finished analysis."""
        source = result.provenance
        return cls(
            sae=source.sae,
            model=source.model,
            hook=source.place,
            corpus=source.corpus,
            fit=result.fit,
            without_bos=source.bos.startswith("not prepended"),
        )

    def parts(self) -> list[tuple[str, str]]:
        """Return names and values in the order they are shown."""
        named = [("SAE", self.sae), ("model", self.model), ("hook", self.hook), ("text", self.corpus)]
        return [(name, " ".join(value.split())) for name, value in named if value.strip()]

    def fit_in_words(self) -> str:
        """Return how well the SAE fits, empty if it was not measured."""
        if self.fit is None:
            return ""
        alarm = f"{POOR_FIT}. " if self.fit.is_poor else ""
        return (
            f"{alarm}fit: explained variance {number(self.fit.explained_variance)}, cosine {number(self.fit.cosine)}, "
            f"{number(self.fit.l0)} features active per token, {shortened(self.fit.measured_tokens, 'token')}"
        )


def answer(stats: FeatureStats) -> list[Part]:
    """Return the subtitle: how often, on what, towards what."""
    if stats.is_dead:
        return [f"never fired in {shortened(stats.token_count, 'token')}", *pushes(stats)]
    return [_how_often(stats), *_on_what(stats), *pushes(stats)]


def _how_often(stats: FeatureStats) -> str:
    if stats.active_count == 1:
        often = f"fired once in {shortened(stats.token_count, 'token')}"
    else:
        often = f"fires on {share(stats.density)} of tokens"
    if stats.negative_count == stats.active_count:
        return f"{often}, always below zero"
    return often if not stats.negative_count else f"{often}, on {share(_negative_share(stats))} of them below zero"


def _negative_share(stats: FeatureStats) -> float:
    return stats.negative_count / stats.active_count


def _on_what(stats: FeatureStats) -> list[Part]:
    named = _distinct([item.token for item in stats.top_tokens])
    if not named:
        return []
    held = sum(item.share for item in stats.top_tokens if item.token.strip(" ").casefold() in {*map(_plain, named)})
    how = "mostly" if held >= _MOSTLY else "often" if held >= _OFTEN else "many different ones, such as"
    return [", on " if stats.active_count == 1 else f", {how} ", *_listed(named)]


def pushes(stats: FeatureStats) -> list[Part]:
    """Return towards which next tokens the feature pushes."""
    named = _distinct([token for token, effect in stats.top_boosted_tokens if effect > 0])
    verb = "would push" if stats.is_dead else "pushes"
    return [f"; {verb} towards ", *_listed(named)] if named else []


def _plain(token: str) -> str:
    return token.strip(" ").casefold()


def _distinct(tokens: Sequence[str]) -> list[str]:
    """Return the first few tokens that differ by more than case and outer spaces."""
    named: dict[str, str] = {}
    for token in tokens:
        named.setdefault(_plain(token), token)
    return list(named.values())[:_NAMED]


def _listed(tokens: Sequence[str]) -> list[Part]:
    parts: list[Part] = []
    for index, token in enumerate(tokens):
        parts += [*([", "] if index else []), Quoted((token,))]
    return parts


def band_name(lower: float, upper: float) -> str:
    """Return the quantiles that a band of activations spans, with a name by its middle unless it spans all of them."""
    span = f"quantiles {lower * 100:.3g}–{upper * 100:.3g} % of its activation"
    if upper - lower == 1:
        return span
    middle = (lower + upper) / 2
    name = "strong" if middle >= _STRONG else "weak" if middle <= 1 - _STRONG else "middle"
    return f"{name}: {span}"


def few_firings(stats: FeatureStats) -> str:
    """Return how many firings there are, where the shape of a histogram of them says little; else nothing."""
    return shortened(stats.active_count, "firing") if 0 < stats.active_count < _FEW_FIRINGS else ""


def firing_caption(stats: FeatureStats) -> str:
    """Return what the activation histogram counts."""
    few = few_firings(stats)
    counts = f"only {few} in" if few else f"{count(stats.active_count)} of"
    return (
        f"{counts} {shortened(stats.token_count, 'token')} ({share(stats.density)}); "
        f"tokens per bin{'' if few else ', log scale'}; activation in the SAE's units"
    )
