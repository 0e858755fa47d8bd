"""Rules of all architectures, written anew in plain torch, and what a case is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

# --- rules, written anew -------------------------------------------------------------------------------------------


def relu(pre):
    return pre.clamp(min=0)


def jump(pre, threshold):
    return relu(pre) * (pre > threshold)


def largest(ranked, k):
    places = ranked.argsort(dim=-1, descending=True)[..., :k]
    return torch.zeros_like(ranked).scatter(-1, places, 1.0)


def top_k(pre, k):
    return relu(pre) * largest(pre, k)


def abs_top_k(pre, k):
    return pre * largest(pre.abs(), k)


def group_max(pre, groups):
    cut = pre.reshape(len(pre), groups, -1)
    return relu(cut * (cut == cut.max(-1, keepdim=True).values)).reshape(pre.shape)


def gated(p, x):
    return (x @ p.W_enc + p.b_gate > 0) * relu(x @ (p.W_enc * p.r_mag.exp()) + p.b_mag)


def spread(x):
    return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)


def layer_normed(x):
    mean, deviation = spread(x)
    return (x - mean) / (deviation + 1e-5)


def un_normed(out, x):
    mean, deviation = spread(x)
    return out * deviation + mean


def norm_ratio(x):
    return x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


def pursue(x, W_dec, *, steps, tolerance, stop_on_repeat):
    """Take from each token, again and again, the decoder row that it holds most of."""
    features = torch.zeros(len(x), len(W_dec), dtype=x.dtype)
    for token, residue in enumerate(x):
        for _ in range(steps):
            best = int((W_dec @ residue).argmax())
            value = relu(W_dec[best] @ residue)
            repeats = features[token, best] != 0 or value == 0
            features[token, best] += value
            residue = residue - value * W_dec[best]  # noqa: PLW2901
            if (stop_on_repeat and repeats) or residue.norm() < tolerance:
                break
    return features


# --- the cases -----------------------------------------------------------------------------------------------------

Formula = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint on disk, what it should compute, and what it tells about itself."""

    path: Path
    encode: Formula
    decode: Formula
    """Of features and of the activations they come from."""

    name: str
    folder: Path | None = None
    """What a user would name instead of the file; if left out, the folder it lies in."""

    about: dict[str, object] = field(default_factory=dict)
    warns: str = ""
    """Part of the only warning; empty if there is none."""


Write = Callable[[Path, int, int], Case]


def usual(p, *, subtract=True, rule=relu):
    """Encode and decode as most do."""
    return {
        "encode": lambda x: rule((x - p.b_dec if subtract else x) @ p.W_enc + p.b_enc),
        "decode": lambda f, _x: f @ p.W_dec + p.b_dec,
    }
