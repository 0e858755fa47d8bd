"""What workers work on, on its way to them."""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Self

from sae_analysis.errors import WorkerError
from sae_analysis.language_model import LanguageModel
from sae_analysis.machine import prepare
from sae_analysis.reconstruction import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A site on its way to a worker: the model is loaded there, all else travels."""

    open_model: Callable[[], LanguageModel]
    model_sha256: str
    rest: dict[str, Any]
    threads: int

    @classmethod
    def of(cls, site: Site, open_model: Callable[[], LanguageModel], threads: int) -> Self:
        """Take a site apart, which stays as it is; ``open_model`` loads its model again, wherever it is called."""
        sae = site.sae
        if sae.encoder_weights.device.type != "cpu":
            sae = deepcopy(sae).to("cpu")  # it is moved in place, and the caller goes on with it
        rest = {one.name: getattr(site, one.name) for one in fields(site) if one.name != "model"}
        return cls(
            open_model=open_model,
            model_sha256=site.model.fingerprint,
            rest=rest | {"sae": sae},
            threads=threads,
        )

    def open(self) -> Site:
        """Return the site, in the process of a worker."""
        prepare(self.threads)
        model = self.open_model()
        check_same(model.fingerprint, self.model_sha256)
        return Site(**self.rest | {"model": model, "sae": self.rest["sae"].to(model.device)})


def check_same(found: str, expected: str) -> None:
    """Check that a worker has what this process has.

    Raises:
        WorkerError: it has not.
    """
    if found != expected:
        raise WorkerError(
            f"A worker on {os.uname().nodename} has another model or other versions of libraries than this process: "
            "install the same on all machines of the cluster."
        )
