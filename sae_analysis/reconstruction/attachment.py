"""Bringing an SAE and a model together: at which hook, with which BOS, in which reading."""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from sae_analysis.corpus import Document
from sae_analysis.errors import FitError, ModelError, SAEFormatError, check_choice
from sae_analysis.language_model import LanguageModel
from sae_analysis.reconstruction.search import HookSearch, Progress, least_bad, no_place, places, search_hook
from sae_analysis.reconstruction.site import BosPolicy, Site
from sae_analysis.sae_interface import UnifiedSAEInterface
from sae_analysis.wording import counted, listed

logger = logging.getLogger(__name__)

AUTO = "auto"
"""As a hook: look for it, whatever the checkpoint says."""

Sign = Literal["auto", "relu", "signed"]
Switch = Literal["auto", "on", "off"]

_ASSUMED = "assumed from its format"
"""Where a checkpoint is not asked but known for something."""

_LISTED = 6
"""Hooks that an error names."""


def attach(
    sae: UnifiedSAEInterface,
    model: LanguageModel,
    hook: str | None = None,
    bos: BosPolicy = "auto",
    *,
    hook_out: str | None = None,
    centre: Switch = "auto",
    sign: Sign = "auto",
    documents: Iterable[Document] | None = None,
    progress: Progress | None = None,
) -> Site:
    """Bring an SAE and a model together, on the model's device.

    What is left open follows the checkpoint, and where that says nothing, the data: the hook is looked for by trying
    all of the SAE's width on a few hundred tokens of ``documents``, or of a text of our own, and so is the reading.

    Args:
        sae: The SAE; the returned site may hold another reading of its weights.
        model: The model.
        hook: Where the SAE reads; ``"auto"`` looks for the place even if the checkpoint names one.
        hook_out: Where a transcoder writes.
        bos: BOS in front of each window; ``"auto"`` asks the checkpoint, then the model.
        centre: Whether the mean over its entries is taken off each activation.
        sign: Reading of files that leave open whether activations keep their sign.
        documents: Text that a search runs on.
        progress: Told of each hook that a search has tried.

    Raises:
        ModelError: no such hook, or none that is the SAE's, or clearly so.
        FitError: the hook's width is not the SAE's.
        SAEFormatError: a reading that this SAE does not have.
        SettingError: a word for BOS, centring or sign that is none of theirs.
    """
    check_choice(get_args(BosPolicy), bos=bos)
    check_choice(get_args(Switch), center_residual=centre)
    check_choice(get_args(Sign), vsae_sign=sign)
    sae = sae.to(model.device)
    prepend_bos, words = _bos(sae, model, bos)
    _warn(sae, model)
    sae, centre = _centred(sae, model, centre)
    sae = _signed(sae, sign)
    pairs, reason = _named(sae, model, hook, hook_out)
    search = None
    if len(pairs) > 1 or sae.origin.other_rules:
        search = search_hook(
            sae,
            model,
            documents,
            prepend_bos=prepend_bos,
            pairs=pairs,
            centre=centre == "auto" and len(pairs) > 1,
            progress=progress,
        )
        pair, sae = _decided(search, model, is_alone=len(pairs) == 1)
        reason = reason or f"found by search: explained variance {search.scores[0].explained_variance:.3f}"
    else:
        [pair] = pairs
    return Site(
        sae=sae,
        model=model,
        hook=pair[0],
        hook_out=pair[1],
        hook_reason=_confronted(sae, model, pair, reason),
        hook_search=search.scores if search else (),
        prepend_bos=prepend_bos,
        bos=words,
    )


# --- what the checkpoint and the user say ----------------------------------------------------------------------------


def _bos(sae: UnifiedSAEInterface, model: LanguageModel, bos: BosPolicy) -> tuple[bool, str]:
    if bos != "auto":
        prepend, reason = bos == "always", f"bos {bos}"
    elif sae.origin.prepend_bos is not None:
        is_assumed = "prepend_bos" in sae.origin.assumed
        prepend, reason = sae.origin.prepend_bos, _ASSUMED if is_assumed else "the SAE's configuration says so"
    else:
        prepend, reason = model.prepends_bos, model.bos_reason
    return prepend, f"{'prepended, not counted' if prepend else 'not prepended'} ({reason})"


def _warn(sae: UnifiedSAEInterface, model: LanguageModel) -> None:
    """Pass on what the reader warns of, and say if the SAE was trained on another model."""
    for warning in sae.origin.warnings:
        logger.warning("SAE: %s", warning)
    trained_on = sae.origin.model or ""
    ours, theirs = (name.rstrip("/").rpartition("/")[2].lower() for name in (model.name, trained_on))
    if ours not in theirs and theirs not in ours:
        if "model" in sae.origin.assumed:
            says = f"The SAE was trained on {trained_on} ({_ASSUMED})"
        else:
            says = f"The SAE says that it was trained on {trained_on}"
        logger.warning("%s, and is read on %s.", says, model.name)


def _centred(sae: UnifiedSAEInterface, model: LanguageModel, centre: Switch) -> tuple[UnifiedSAEInterface, Switch]:
    """Return the SAE in the reading asked for, or as its checkpoint says, and what is still open."""
    told = sae.origin.centred
    if centre == "auto" and told is not None and model.centres:
        if model.is_centred and not told:
            logger.warning(
                "The SAE was trained on activations as they are, and %s is loaded with their mean taken off: its "
                "reconstruction may suffer. Give the model by its Hugging Face name or folder.",
                model.name,
            )
        centre = "on" if told and not model.is_centred else "off"
    return (sae.reread(centred=True) if centre == "on" else sae), centre


def _signed(sae: UnifiedSAEInterface, sign: Sign) -> UnifiedSAEInterface:
    if sign == "auto":
        return sae
    if sign not in sae.origin.other_rules:
        raise SAEFormatError(
            f"The reading {sign} was asked for, but {sae.origin.format_name} leaves nothing open: its rule is "
            f"{sae.rule_name}. Ask for none."
        )
    return sae.reread(rule=sae.origin.other_rules[sign])


def _named(
    sae: UnifiedSAEInterface, model: LanguageModel, hook: str | None, hook_out: str | None
) -> tuple[Sequence[tuple[str, str]], str]:
    """Return the pairs of hooks that come into question, and why, if there is one only."""
    if hook_out is not None and not sae.is_transcoder:
        raise FitError("hook_out is where a transcoder writes, and this SAE writes where it reads: drop the option.")
    if hook is not None and hook != AUTO:
        reason = "as asked for"
    else:
        hook, reason = None if hook == AUTO else sae.origin.hook, "the SAE's configuration says so"
        hook_out = hook_out or (sae.origin.hook_out if hook else None)
    _check_there(sae, model, hook, hook_out)
    reads = [_checked(sae.activation_dim, "reads", model, hook)] if hook else []
    writes = [_checked(sae.output_dim, "writes", model, hook_out)] if hook_out else []
    if reads and (writes or not sae.is_transcoder):
        return [(reads[0], writes[0] if writes else reads[0])], reason
    pairs = [
        (begin, end)
        for begin, end in places(sae, model)
        if (not reads or begin == reads[0]) and (not writes or end == writes[0])
    ]
    if not pairs:
        raise ModelError(f"The SAE {no_place(sae, model)}")
    return pairs, "the only hook of the SAE's width" if len(pairs) == 1 else ""


def _check_there(sae: UnifiedSAEInterface, model: LanguageModel, *hooks: str | None) -> None:
    """Refuse hooks that are not there, where no guess helps: of another model, or named by the checkpoint."""
    lost = next((hook for hook in hooks if hook and not model.has_hook(hook)), None)
    if lost and not any(places(sae, model)):
        raise ModelError(f"The SAE {no_place(sae, model)}")
    if lost and lost in (sae.origin.hook, sae.origin.hook_out):
        raise ModelError(
            f"The SAE says that its place is {lost}, and {model.name} has no such hook: give the model that it was "
            "trained on, or look for its place there with inspect, or with auto as `hook`."
        )


def _checked(width: int, does: str, model: LanguageModel, hook: str) -> str:
    name = model.hook_name(hook)
    if (found := model.tap(name).width) != width:
        fitting = model.hooks_of_width(width)
        raise FitError(
            f"The SAE {does} {width}-wide activations, but hook {name} of {model.name} gives {found}. "
            + (
                f"Hooks that fit: {listed(fitting, _LISTED)}."
                if fitting
                else "No hook of this model fits: it belongs to another model."
            )
        )
    return name


def _confronted(sae: UnifiedSAEInterface, model: LanguageModel, pair: tuple[str, str], reason: str) -> str:
    """Return why hooks were chosen; if the SAE says that it reads or writes elsewhere, with that, and warn of it."""
    said = {"reads": (sae.origin.hook, pair[0])}
    if sae.is_transcoder:
        said["writes"] = (sae.origin.hook_out, pair[1])
    told = " and ".join(
        f"{does} {hook}"
        for does, (hook, used) in said.items()
        if hook is not None and not (model.has_hook(hook) and model.first_name(hook) == model.first_name(used))
    )
    if not told:
        return reason
    place = " -> ".join(dict.fromkeys(pair))
    logger.warning("The SAE says that it %s, and is read at %s (%s).", told, place, reason)
    return f"{reason}; the SAE says that it {told}"


# --- what the data say -----------------------------------------------------------------------------------------------


def _decided(
    search: HookSearch, model: LanguageModel, *, is_alone: bool
) -> tuple[tuple[str, str], UnifiedSAEInterface]:
    """Return the place and reading that a search found to be clearly best; at a lone place, the better reading."""
    winner = search.winner or (search.scores[0] if is_alone and search.scores else None)
    if winner is None and (best := least_bad(search.scores)):
        raise ModelError(
            f"The SAE fits no place of {model.name} ({best}, on {counted(search.tokens, 'token')}): give the model "
            "that it was trained on, or check `bos`."
        )
    if winner is None:
        best = listed((f"{score.place} {score.explained_variance:.3f}" for score in search.scores), _LISTED)
        raise ModelError(
            f"The SAE does not say where it reads, and no hook of {model.name} is clearly its place. Explained "
            f"variance on {counted(search.tokens, 'token')}: {best}. Name one as `hook`, or give the SAE's own "
            "model."
        )
    return (winner.hook, winner.hook_out), search.readings[winner.reading]
