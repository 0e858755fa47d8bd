"""A TopK SAE trained on the spot, small enough for a test: real where random weights would prove nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_analysis.language_model import LanguageModel


def train_top_k(x: Tensor, *, d_sae: int, k: int, target: Tensor | None = None, steps: int = 800) -> dict[str, Tensor]:
    """Return the weights of a TopK SAE of ``x``, or of a transcoder from ``x`` to ``target``, as AutoEncoderTopK.

    For a transcoder ``b_dec`` is the bias of the output alone: nothing is subtracted from its input.
    """
    output = x if target is None else target
    draw = torch.Generator(device=x.device).manual_seed(0)
    shift = x.mean(0) if target is None else torch.zeros(x.shape[1], device=x.device)
    scale = (x - shift).norm(dim=1).mean()
    directions = F.normalize(torch.randn(d_sae, x.shape[1], generator=draw, device=x.device), dim=1)
    W_enc = directions.clone().requires_grad_()
    b_enc = torch.zeros(d_sae, device=x.device, requires_grad=True)
    begin = directions if target is None else 0.1 * torch.randn(d_sae, output.shape[1], generator=draw, device=x.device)
    W_dec = begin.clone().requires_grad_()
    b_dec = output.mean(0).clone().requires_grad_()
    weights = [W_enc, b_enc, W_dec, b_dec]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(x), (min(512, len(x)),), generator=draw, device=x.device)
            inputs, wanted = x[rows], output[rows]
            pre = (inputs - (b_dec.detach() if target is None else 0.0)) / scale @ W_enc.T + b_enc
            values, indices = pre.topk(k, dim=1)
            features = torch.zeros_like(pre).scatter(1, indices, values.relu())
            loss = (features @ W_dec * scale + b_dec - wanted).square().sum(1).mean() / output.var(0).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return {
        "encoder.weight": W_enc.detach(),
        "encoder.bias": b_enc.detach() * scale,
        "decoder.weight": W_dec.detach().T.contiguous(),
        "b_dec": b_dec.detach(),
        "k": torch.tensor(k, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
    }


def gather(model: LanguageModel, ids: Tensor, hooks: list[str]) -> dict[str, Tensor]:
    """Return the activations ``[tokens, width]`` at hooks, the first position of each window left out."""
    found: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    with torch.no_grad():
        for part in ids.split(64):
            model.visit_activations(part, hooks, lambda hook, x: found[hook].append(x[:, 1:].flatten(0, 1).float()))
    return {hook: torch.cat(parts) for hook, parts in found.items()}
