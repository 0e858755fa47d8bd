"""An independent second look at ``synthetic``: every reported string is run again, by none of our code.

    python tests/rerun.py MODEL_FOLDER SAE_FOLDER results/synthetic.json

Reads the model through ``transformers``, a dictionary_learning TopK SAE through ``torch.load`` and its published
formula, and the result as plain JSON. Each text is encoded, run alone in its batch and whole, without any cache; so is
each text with one token left out. Prints the largest relative difference from the reported number of each kind.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

ALLOWED = 1e-4
"""Relative difference above which a number is not the reported one."""


class Plain:
    """A model and the SAE on the output of one of its decoder layers, but the last."""

    def __init__(self, model: Path, sae: Path, *, layer: int, bos: bool):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.weights = {key: value.float() for key, value in torch.load(sae / "ae.pt", weights_only=True).items()}
        self.layer, self.prefix = layer, [self.tokenizer.bos_token_id] if bos else []

    @torch.no_grad()
    def run(self, ids: list[int], feature: int) -> tuple[torch.Tensor, torch.Tensor, float | None]:
        """Return activations and pre-activations at each token, and the mean surprise."""
        inputs = torch.tensor([self.prefix + ids])
        output = self.network(inputs, output_hidden_states=True, use_cache=False)
        x = output.hidden_states[self.layer + 1][0, len(self.prefix) :]
        w = self.weights
        pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
        top = pre.relu().topk(int(w["k"]), dim=-1)
        acts = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        log_p = output.logits[0, :-1].double().log_softmax(-1).gather(1, inputs[0, 1:, None])
        return acts[:, feature], pre[:, feature], -float(log_p.mean()) if log_p.numel() else None


def compare(plain: Plain, feature: int, example: dict) -> Iterator[tuple[str, float]]:
    """Yield the kind of each number and how far it is from ours, relative to the example's scale."""
    ids, found = plain.tokenizer(example["text"], add_special_tokens=False)["input_ids"], example["synthesis"]
    yield "round trip", float(ids != example["token_ids"] or not found["is_text"])
    if ids != example["token_ids"]:
        return
    acts, pre, surprise = plain.run(ids, feature)
    fires = float(acts.max()) > 0
    peak = example["peak_position"]
    scale = float(acts.max()) if fires else abs(float(pre.max()))
    yield "activation", float((acts - torch.tensor(example["activations"])).abs().max()) / scale
    yield "peak activation", abs(float(acts.max().relu()) - example["max_activation"]) / scale
    yield "peak position", abs(float((acts if fires else pre)[peak] - (acts if fires else pre).max())) / scale
    yield "pre-activation", abs(float(pre[peak]) - found["pre_activation"]) / abs(float(pre[peak]))
    if surprise is None or found["cross_entropy"] is None:
        yield "cross-entropy", float(surprise is not found["cross_entropy"])
    else:
        yield "cross-entropy", abs(surprise - found["cross_entropy"]) / surprise
    for place, reported in enumerate(found["attribution"]):
        rest = ids[:place] + ids[place + 1 :]
        left = float(plain.run(rest, feature)[0].max()) if rest else 0.0
        yield "attribution", abs(float(acts.max()) - left - reported) / scale


def differences(model: Path, sae: Path, result: Path) -> dict[str, float]:
    """Return the largest relative difference of each kind of number, over all examples of a synthetic.json."""
    content = json.loads(result.read_text())
    run = content["provenance"]
    block, _, place = run["hook"].removeprefix("blocks.").partition(".")
    assert place == "hook_resid_post", f"only residual streams are run here, not {run['hook']}"
    plain = Plain(model, sae, layer=int(block), bos=run["bos"].startswith("prepended"))
    largest: dict[str, float] = {}
    for stats in content["features"]:
        search = stats["search"]
        strongest = max((example["max_activation"] for example in stats["examples"]), default=0.0)
        found = [("feature maximum", abs(strongest - stats["max_activation"]) / max(strongest, 1e-9))]
        shortest = [search["shortest"]] if search["shortest"] else []
        for example in stats["examples"] + search["frontier"] + shortest:
            found += compare(plain, stats["feature_idx"], example)
        for kind, difference in found:
            largest[kind] = max(largest.get(kind, 0.0), difference)
    return largest


def main(arguments: list[str]) -> int:
    """Run everything again and print; 1 if something is not what was reported."""
    if len(arguments) != 3:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    found = differences(*map(Path, arguments))
    for kind, difference in found.items():
        print(f"{kind:<16} {difference:.2e}")
    worst = max(found.values(), default=0.0)
    print(f"largest relative difference {worst:.2e}: {'as reported' if worst <= ALLOWED else 'NOT as reported'}")
    return int(worst > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
