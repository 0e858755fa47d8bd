"""Real text to begin a search with: the ends of windows on which a feature fired, from an analysis of real text."""

from collections.abc import Sequence

from sae_analysis.errors import OutputError
from sae_analysis.reconstruction import Site
from sae_analysis.records import ActivationExample, AnalysisResult, AnyResults, Provenance

Seeds = dict[int, tuple[tuple[int, ...], ...]]
"""Token sequences by feature."""


def real_windows(real: AnyResults, features: Sequence[int], seq_len: int, special: frozenset[int]) -> Seeds:
    """Return for each feature its real examples' last ``seq_len`` tokens up to the peak, strongest first, each once.

    What stands before the last special token is left out: no text is cut into it. A feature that did not fire upwards
    has none, and is left out.
    """
    known = real.by_feature() if isinstance(real, AnalysisResult) else real
    seeds: Seeds = {}
    for feature in features:
        examples = known[feature].examples if feature in known else ()
        windows = [_end(example, seq_len, special) for example in examples if example.max_activation > 0]
        if distinct := tuple(dict.fromkeys(window for window in windows if window)):
            seeds[feature] = distinct
    return seeds


def _end(example: ActivationExample, seq_len: int, special: frozenset[int]) -> tuple[int, ...]:
    ids = example.token_ids[: example.peak_position + 1]
    begin = max((place + 1 for place, token in enumerate(ids) if token in special), default=0)
    return ids[begin:][-seq_len:]


def check_vocabulary(seeds: Seeds, site: Site) -> None:
    """Refuse tokens that the model does not have.

    Raises:
        OutputError: there is one.
    """
    for token in (token for windows in seeds.values() for window in windows for token in window):
        if not 0 <= token < site.model.d_vocab:
            raise OutputError(
                f"The real result has token {token}, and {site.model.name} has tokens 0 to {site.model.d_vocab - 1}: "
                "it is damaged. Run the analysis again."
            )


def check_origin(result: AnalysisResult, site: Site, wanted: str = "real") -> None:
    """Refuse an analysis of another kind than ``real`` or ``synthetic``, or of another model, SAE or place.

    Raises:
        OutputError: it is of another kind, or was made with something else.
    """
    run = result.provenance
    if run.analysis != wanted:
        meant = "real text to begin with" if wanted == "real" else "a search"
        raise OutputError(
            f"A result of '{run.analysis}' was given as {meant}: give a {wanted}.json, or drop `{wanted}`."
        )
    for what, is_same, theirs, ours in _must_be_same(run, site):
        if not is_same:
            raise OutputError(
                f"The {wanted} result is of another {what}: it was made with {theirs}, and the "
                f"{'search' if wanted == 'real' else 'reading'} is to run on {ours}. "
                f"Give a {wanted}.json of the same model, SAE and hook, or drop `{wanted}`."
            )


def _must_be_same(run: Provenance, site: Site) -> tuple[tuple[str, bool, str, str], ...]:
    """Return what must be the same, whether it is, what it was, and what it is: all that ``compare`` will ask for."""
    model, origin = site.model, site.sae.origin
    models = _hashed(run.model, run.model_sha256), _hashed(model.name, model.fingerprint)
    saes = _hashed(run.sae, run.sae_sha256), _hashed(origin.format_name, origin.sha256)
    return (
        ("model", run.model_sha256 == model.fingerprint, *models),
        ("SAE", run.sae_sha256 == origin.sha256, *saes),
        ("reading of the SAE", run.activation_rule == site.sae.rule_name, run.activation_rule, site.sae.rule_name),
        ("hook", run.hook == site.hook, run.hook, site.hook),
        ("hook to write to", run.hook_out == site.hook_out, run.hook_out, site.hook_out),
    )


def _hashed(name: str, sha256: str) -> str:
    return f"{name} (hash {sha256[:12] or 'unknown'})"
