"""SAEs by name: where a name is no path, the Hugging Face hub or SAELens' list is asked for the files."""

import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import is_weight_file

_SAELENS = "saelens:"
_LISTED = 6
_WHITENING = "activation_whitening.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the files of an SAE lie on this machine."""

    path: Path

    known: Mapping[str, Any] = field(default_factory=dict)
    """What a list of releases says about it that its files do not."""


def locate(name: str) -> Located:
    """Return where the files of an SAE lie, fetching them if the name is none of this machine's.

    Raises:
        SAEFormatError: a name of neither kind, or one that cannot be had.
    """
    if name.startswith(_SAELENS):
        return _listed_by_saelens(name)
    path = Path(name)
    if path.exists() or path.is_absolute() or not re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w./-]+)?", name):
        return Located(path=path)
    owner, repository, *folder = name.rstrip("/").split("/")
    return Located(path=_fetched(name, f"{owner}/{repository}", "/".join(folder)))


def _listed_by_saelens(name: str) -> Located:
    try:
        listed = importlib.import_module("sae_lens.loading.pretrained_saes_directory").get_pretrained_saes_directory()
    except ImportError:
        raise SAEFormatError(
            f"SAE '{name}' is a name of SAELens, which is not installed: pip install 'sae-analysis[saelens]', or "
            "give the repository's own name and folder."
        ) from None
    release, _, sae_id = name.removeprefix(_SAELENS).partition("/")
    if release not in listed:
        near = ", ".join(difflib.get_close_matches(release, listed, n=_LISTED, cutoff=0.3))
        raise SAEFormatError(f"SAELens lists no release '{release}'. Nearest: {near}.")
    entry = listed[release]
    if sae_id not in entry.saes_map:
        near = ", ".join(difflib.get_close_matches(sae_id, entry.saes_map, n=_LISTED, cutoff=0.0))
        raise SAEFormatError(f"SAELens' release '{release}' has no SAE '{sae_id}'. Nearest: {near}.")
    factor = entry.norm_scaling_factor.get(sae_id)
    return Located(
        path=_fetched(name, entry.repo_id, entry.saes_map[sae_id]),
        known={} if factor is None else {"norm_scaling_factor": factor},
    )


def _fetched(name: str, repository: str, folder: str) -> Path:
    """Return a folder or file of a repository in the hub's cache, fetching one SAE if the hub can be reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # pyright: ignore[reportPrivateImportUsage]

    try:
        try:
            files = HfApi().list_repo_files(repository)
        except (OfflineModeIsEnabled, HTTPError, OSError):
            return Path(snapshot_download(repository, local_files_only=True)) / folder
        inside = [file for file in files if file == folder or file.startswith(f"{folder}/" if folder else "")]
        weights = [file for file in inside if is_weight_file(Path(file))]
        if len(weights) != 1:
            raise SAEFormatError(
                f"SAE '{name}': the repository holds {len(weights)} weight files there"
                + (f" ({', '.join(weights[:_LISTED])} …): name one of them." if weights else ": check the folder.")
            )
        # By their names, since a pattern for one folder would match those of all folders below it as well.
        around = [file for file in files if Path(file).parent in (*Path(weights[0]).parents[:2], Path())]
        wanted = [file for file in around if Path(file).suffix in (".json", ".yaml") or Path(file).name == _WHITENING]
        return Path(snapshot_download(repository, allow_patterns=[*weights, *wanted])) / weights[0]
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise SAEFormatError(
            f"SAE '{name}' is no local path, and no hub or cache could give it: {reason}. Check the name and the "
            "connection, or give a local file."
        ) from None
