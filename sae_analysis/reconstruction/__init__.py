"""Where an SAE belongs in a model, and how well it fits there."""

from sae_analysis.reconstruction.attachment import Sign, Switch, attach
from sae_analysis.reconstruction.fit import SplicedLoss, check_fit, spliced_loss, update_fit
from sae_analysis.reconstruction.search import (
    LEAST_EXPLAINED,
    HookSearch,
    fit_on_sample,
    least_bad,
    no_place,
    search_hook,
)
from sae_analysis.reconstruction.site import BosPolicy, Site

__all__ = [
    "LEAST_EXPLAINED",
    "BosPolicy",
    "HookSearch",
    "Sign",
    "Site",
    "SplicedLoss",
    "Switch",
    "attach",
    "check_fit",
    "fit_on_sample",
    "least_bad",
    "no_place",
    "search_hook",
    "spliced_loss",
    "update_fit",
]
