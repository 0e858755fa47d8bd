"""Where a result comes from: what was run on what, with which versions."""

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from sae_analysis.reconstruction import Site
from sae_analysis.records import Provenance

_DECIDING = ("model_sha256", "hook", "hook_out", "sae_sha256", "sae_format", "activation_rule", "dtype", "device")
"""Of a provenance, what decides about results beside options and versions."""

_COMPUTING_PACKAGES = ("sae-analysis", "torch", "transformers", "numpy")


def describe_run(
    site: Site,
    *,
    analysis: str,
    names: Mapping[str, str],
    corpus_sha256: str,
    options: Mapping[str, str | int | float | bool | None],
) -> Provenance:
    """Return the provenance of a run that ends now; ``names`` says what model, SAE and corpus were asked for as."""
    sae, model = site.sae, site.model
    return Provenance(
        analysis=analysis,
        model=names.get("model", model.name),
        model_sha256=model.fingerprint,
        hook=site.hook,
        hook_out=site.hook_out,
        hook_reason=site.hook_reason,
        hook_search=site.hook_search,
        sae=names.get("sae", type(sae.model).__name__),
        sae_sha256=sae.origin.sha256,
        sae_format=f"{sae.origin.format_name} ({sae.origin.reason})",
        activation_rule=sae.rule_name,
        corpus=names.get("corpus", "documents given as objects"),
        corpus_sha256=corpus_sha256,
        bos=site.bos,
        logit_convention=model.logit_convention(site.hook_out),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        options=options,
        versions={"python": platform.python_version()} | {name: _version(name) for name in _COMPUTING_PACKAGES},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def fingerprint(site: Site, analysis: str, options: Mapping[str, Any], **content: object) -> str:
    """Hash all that a result depends on: not what things are called, nor when and where it is made.

    ``content`` is what it depends on beside model, SAE, place, options and versions; anything that JSON can hold.
    """
    run = describe_run(site, analysis=analysis, names={}, corpus_sha256="", options=options)
    told = {name: getattr(run, name) for name in (*_DECIDING, "options", "versions")}
    told |= {"analysis": analysis, "bos": site.prepend_bos} | content
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
