"""An SAE at the place it is read at."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.language_model import LanguageModel
from sae_analysis.records import HookScore
from sae_analysis.sae_interface import UnifiedSAEInterface

BosPolicy = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An SAE at its place: what every analysis needs to get from token ids to activations."""

    sae: UnifiedSAEInterface
    model: LanguageModel
    hook: str
    """Where it reads."""

    hook_out: str
    """Where it writes: for a transcoder another place than ``hook``."""

    hook_reason: str
    """What the hooks were chosen by, in words."""

    hook_search: tuple[HookScore, ...] = ()
    """Every place tried, best first, if one was looked for."""

    prepend_bos: bool
    """Whether BOS stands in front of every window."""

    bos: str
    """The BOS policy in words, and where it comes from."""

    @property
    def name(self) -> str:
        """Hooks and model in words, for messages."""
        hooks = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        return f"{hooks} of {self.model.name}"

    def activations(
        self, ids: Int64[Tensor, "batch seq"]
    ) -> tuple[Float[Tensor, "batch seq d_in"], Float[Tensor, "batch seq d_out"]]:
        """Return the activations that the SAE reads and those it is to reproduce: the same but for a transcoder."""
        found: dict[str, Tensor] = {}
        self.model.visit_activations(ids, [self.hook, self.hook_out], found.__setitem__)
        return found[self.hook], found[self.hook_out]
