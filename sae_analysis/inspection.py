"""What a checkpoint is, what its weights look like, and where in a model it belongs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from sae_analysis import directions
from sae_analysis.corpus import Document
from sae_analysis.errors import FitError
from sae_analysis.language_model import LanguageModel
from sae_analysis.reconstruction import (
    LEAST_EXPLAINED,
    Site,
    SplicedLoss,
    least_bad,
    no_place,
    search_hook,
    spliced_loss,
)
from sae_analysis.records import HookScore
from sae_analysis.sae_interface import UnifiedSAEInterface
from sae_analysis.wording import counted, percent, three_digits

_LISTED = 12
"""Places shown; JSON holds all."""

_LEAST_ADDED = 0.01
"""Nats per token that ablation must add to the loss for a share of them to say anything."""

_GOOD, _MODERATE = 0.7, LEAST_EXPLAINED
"""Explained variance from which a fit is called good, or moderate and not weak: which place is best says neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The range of one number over all features, in the unit of that number."""

    lowest: float
    median: float
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a model an SAE was found to belong."""

    model: str
    tokens: int
    """Tokens that every place was tried on."""

    scores: tuple[HookScore, ...]
    """Every place, best first."""

    winner: HookScore | None
    """The one that is clearly best, if any is."""

    loss: SplicedLoss | None = None
    """What the model's next-token loss is with the activations there replaced; None without a winner, and for a
    transcoder."""

    recovered_against_zero: float | None = None
    """Share of the loss added by zeroing that the reconstruction avoids; None where zeroing adds next to none."""

    recovered_against_mean: float | None = None
    """Share of the loss added by mean-ablation that the reconstruction avoids; None likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """All that can be said of an SAE without analysing features."""

    sae: str
    """File or folder, as asked for."""

    sha256: str
    format: str
    reason: str
    """What the format was recognised by."""

    d_in: int
    d_sae: int
    d_out: int
    is_transcoder: bool
    rule: str
    k: int | None
    """Most features active on one token, where the rule fixes it."""

    separable: bool
    """Whether single features can be encoded without the others."""

    encoder_norm: Spread | None
    decoder_norm: Spread | None
    encoder_decoder_cosine: Spread | None
    """None for transcoders, whose directions lie in two places."""

    model: str | None
    """Model that the checkpoint names."""

    hook: str | None
    """Hook that the checkpoint names."""

    hook_out: str | None
    prepend_bos: bool | None
    """What the checkpoint says of BOS."""

    centred: bool | None
    """What the checkpoint says of a centred residual stream."""

    assumed: tuple[str, ...]
    """Which of these it does not say, but are known of its format."""

    warnings: tuple[str, ...]
    place: Place | None = None
    """Where it reconstructs a model, if one was given."""


def inspect_sae(
    sae: UnifiedSAEInterface,
    name: str,
    model: LanguageModel | None = None,
    documents: Iterable[Document] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Look at an SAE, and with a model try it at every hook of its width; where it belongs, measure the loss recovered.

    Args:
        sae: The SAE.
        name: What to call it.
        model: Where to look for its place.
        documents: Text to try it on; a short one of our own if left out.
        progress: Told of each hook tried: how many since the last call, and how many there are.
    """
    norms, origin = directions.norms(sae), sae.origin
    place = _find(sae, model, documents, progress) if model else None
    return Inspection(
        sae=name,
        sha256=origin.sha256,
        format=origin.format_name,
        reason=origin.reason,
        d_in=sae.activation_dim,
        d_sae=sae.dict_size,
        d_out=sae.output_dim,
        is_transcoder=sae.is_transcoder,
        rule=sae.rule_name,
        k=sae.k,
        separable=sae.is_separable,
        encoder_norm=_spread(norms.encoder),
        decoder_norm=_spread(norms.decoder),
        encoder_decoder_cosine=_spread(norms.cosine),
        model=origin.model,
        hook=origin.hook,
        hook_out=origin.hook_out,
        prepend_bos=origin.prepend_bos,
        centred=origin.centred,
        assumed=origin.assumed,
        warnings=(*origin.warnings, *_about_weights(norms), *_about_place(sae, place, model)),
        place=place,
    )


def describe(inspection: Inspection) -> Iterator[str]:
    """Yield an inspection as lines of text."""
    found = inspection
    shape = f"{found.d_in} -> {counted(found.d_sae, 'feature')} -> {found.d_out}"
    says = {
        "model": found.model,
        "hook": found.hook,
        "output hook": found.hook_out,
        "BOS": None if found.prepend_bos is None else ("prepended" if found.prepend_bos else "not prepended"),
        "residual": None if found.centred is None else ("centred" if found.centred else "not centred"),
    }
    assumed = [{"prepend_bos": "BOS", "centred": "residual"}.get(name, name) for name in found.assumed]
    told = "; ".join(
        f"{name} {value}{' (assumed from its format)' if name in assumed else ''}"
        for name, value in says.items()
        if value is not None
    )
    yield f"SAE:        {found.sae}"
    yield f"Format:     {found.format} ({found.reason})"
    yield f"Shape:      {shape}, {'transcoder' if found.is_transcoder else 'autoencoder'}"
    yield f"Rule:       {found.rule}; features can{'' if found.separable else 'not'} be encoded one by one"
    for label, spread in {"Encoder": found.encoder_norm, "Decoder": found.decoder_norm}.items():
        if spread:
            lowest, median, highest = map(three_digits, (spread.lowest, spread.median, spread.highest))
            yield f"{label}:    norms {lowest} to {highest}, median {median}"
    if cosine := found.encoder_decoder_cosine:
        yield f"Cosine:     encoder to decoder {cosine.lowest:.2f} to {cosine.highest:.2f}, median {cosine.median:.2f}"
    yield f"It says:    {told or 'nothing about where it belongs'}"
    if found.place:
        yield from _table(found.place)
    for warning in found.warnings:
        yield f"Warning:    {warning}"
    yield f"SHA-256:    {found.sha256}"


def _find(
    sae: UnifiedSAEInterface,
    model: LanguageModel,
    documents: Iterable[Document] | None,
    progress: Callable[[int, int], None] | None,
) -> Place:
    told = sae.origin.prepend_bos
    prepend_bos = model.prepends_bos if told is None else told
    search = search_hook(sae.to(model.device), model, documents, prepend_bos=prepend_bos, progress=progress)
    place = Place(model=model.name, tokens=search.tokens, scores=search.scores, winner=search.winner)
    if place.winner is None or sae.is_transcoder:
        return place
    site = Site(
        sae=search.readings[place.winner.reading],
        model=model,
        hook=place.winner.hook,
        hook_out=place.winner.hook_out,
        hook_reason="found by search",
        prepend_bos=prepend_bos,
        bos="",
    )
    with suppress(FitError), torch.inference_mode():  # text of lone tokens, where nothing is predicted
        place = with_loss(place, spliced_loss(site, lambda: search.batches))
    return place


def with_loss(place: Place, loss: SplicedLoss) -> Place:
    """Return what is known of a place with its loss, in nats per token, and the shares of it that say something."""
    return replace(
        place,
        loss=loss,
        recovered_against_zero=loss.recovered_against_zero if loss.zero - loss.clean >= _LEAST_ADDED else None,
        recovered_against_mean=loss.recovered_against_mean if loss.mean - loss.clean >= _LEAST_ADDED else None,
    )


def _table(place: Place) -> Iterator[str]:
    winner = place.winner
    tried, tokens = _tried(place.scores), counted(place.tokens, "token")
    if not place.scores:
        yield f"Belongs:    nowhere in {place.model}: nothing in it is as wide"
    elif best := least_bad(place.scores):
        yield f"Belongs:    nowhere: it fits no place of {place.model} ({best}), of {tried} tried on {tokens}"
    else:
        found = f"{winner.place}, clearly the best" if winner else "nowhere clearly,"
        yield f"Belongs:    {found} of {tried} of {place.model} tried on {tokens}"
        yield f"Best fit:   {_strength(winner or place.scores[0])} on these tokens; other text may give another"
    yield from _recovered(place)
    yield from (f"            {line}" for line in score_table(place.scores))


def _recovered(place: Place) -> Iterator[str]:
    shares = {"zero-ablation": place.recovered_against_zero, "mean-ablation": place.recovered_against_mean}
    said = [f"{percent(share)} against {ablation}" for ablation, share in shares.items() if share is not None]
    if place.loss and said:
        yield f"Loss:       recovered {', '.join(said)}, over {counted(place.loss.tokens, 'predicted token')}"


def _strength(score: HookScore) -> str:
    explained = score.explained_variance
    word = "good" if explained >= _GOOD else "moderate" if explained >= _MODERATE else "weak"
    return f"{word}, explained variance {explained:.3f}"


def _tried(scores: Sequence[HookScore]) -> str:
    """Return how many places were tried, and in how many readings, where that is why the table has more rows."""
    places, readings = {score.place for score in scores}, {score.reading for score in scores}
    return counted(len(places), "place") + (f" in {len(readings)} readings" if len(readings) > 1 else "")


def score_table(scores: Sequence[HookScore]) -> Iterator[str]:
    """Yield the lines of a table of the best places."""
    if scores:
        yield f"{'explained variance':>18}  {'cosine':>6}  {'L0':>7}  place"
    for score in scores[:_LISTED]:
        reading = f", {score.reading}" if score.reading else ""
        yield f"{score.explained_variance:18.4f}  {score.cosine:6.3f}  {score.l0:7.1f}  {score.place}{reading}"
    if len(scores) > _LISTED:
        yield f"{'…':>18}  {len(scores) - _LISTED} more"


def _spread(values: np.ndarray) -> Spread | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return Spread(lowest=float(values.min()), median=float(np.median(values)), highest=float(values.max()))


def _about_weights(norms: directions.Norms) -> Iterator[str]:
    if dead := int((norms.decoder == 0).sum()):
        yield f"{dead} of {len(norms.decoder)} decoder rows {'is' if dead == 1 else 'are'} zero."


def _about_place(sae: UnifiedSAEInterface, place: Place | None, model: LanguageModel | None) -> Iterator[str]:
    if place is None or model is None:
        return
    told = sae.origin.hook
    if not place.scores:
        yield f"It {no_place(sae, model)}"
    elif told is not None and not model.has_hook(told):
        yield f"It says that it reads {told}, which {model.name} does not have."
    elif told is not None and place.winner and model.first_name(told) != model.first_name(place.winner.hook):
        yield f"It says that it reads {told}, and it reconstructs {place.winner.hook} clearly better."
