"""Where a result comes from: what was run on what, with which versions."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata

from sae_analysis.reconstruction import Site
from sae_analysis.records import Provenance

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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
