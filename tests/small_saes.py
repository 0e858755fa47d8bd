"""Small SAEs for tests of their interface: one by hand, one for every rule, and one of someone else."""

import torch
from hypothesis import settings
from torch import nn

from sae_analysis.sae_interface import (
    AbsTopK,
    ConstantNorm,
    Gated,
    GroupMax,
    JumpReLU,
    LayerNorm,
    MatchingPursuit,
    Pursuit,
    ReLU,
    SparseAutoencoder,
    TopK,
    UnifiedSAEInterface,
)

WEIGHTS = {
    "W_enc": torch.tensor([[1.0, 2.0], [0.0, -1.0]]),
    "b_enc": torch.tensor([0.5, -1.0]),
    "W_dec": torch.tensor([[2.0, 0.0], [1.0, 1.0]]),
    "b_dec": torch.tensor([1.0, 2.0]),
}


def by_hand(rule, *, subtract_b_dec=True):
    return UnifiedSAEInterface(SparseAutoencoder(**WEIGHTS, rule=rule, subtract_b_dec=subtract_b_dec))


def interface(weights, *, rule=None, origin=None, subtract_b_dec=True, **options):
    """Return an SAE of weights as dictionary_learning names them, TopK with the k among them unless a rule is given."""
    sae = SparseAutoencoder(
        W_enc=weights["encoder.weight"].T,
        b_enc=weights["encoder.bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["b_dec"],
        rule=rule or TopK(int(weights["k"])),
        subtract_b_dec=subtract_b_dec,
        **options,
    )
    return UnifiedSAEInterface(sae, origin=origin)


X = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
# minus b_dec: [2, 2] and [-1, 0]; times W_enc: [2, 2] and [-1, -2]; plus b_enc:
PRE = [[2.5, 1.0], [-0.5, -3.0]]

D_IN, N_FEATURES = 6, 10


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def random_sae(rule, seed=0, **options):
    draw = drawn(seed)
    weights = {
        "W_enc": draw(D_IN, N_FEATURES),
        "b_enc": draw(N_FEATURES),
        "W_dec": draw(N_FEATURES, D_IN),
        "b_dec": draw(D_IN),
    }
    return UnifiedSAEInterface(SparseAutoencoder(**weights, rule=rule, **{"subtract_b_dec": True} | options))


def pursuing(seed=0, **options):
    draw = drawn(seed)
    rows = nn.functional.normalize(draw(N_FEATURES, D_IN), dim=1)
    rule = Pursuit(**{"most": None, "tolerance": 0.3, "stop_on_repeat": True} | options)
    return UnifiedSAEInterface(MatchingPursuit(W_dec=rows, b_dec=draw(D_IN), rule=rule, subtract_b_dec=True))


def vectors(seed=99):
    draw = drawn(seed)
    return lambda: draw(N_FEATURES)


class Plain(nn.Module):
    """A TopK SAE of someone else, whose ``encode`` returns its activations in whatever form ``give`` puts them."""

    def __init__(self, draw, give):
        super().__init__()
        self.W_enc, self.W_dec = nn.Parameter(draw(D_IN, N_FEATURES)), nn.Parameter(draw(N_FEATURES, D_IN))
        self.b_enc, self.b_dec = nn.Parameter(draw(N_FEATURES)), nn.Parameter(draw(D_IN))
        self.give = give

    def acts(self, x):
        return TopK(3)((x - self.b_dec) @ self.W_enc + self.b_enc)

    def encode(self, x):
        return self.give(self.acts(x))

    def decode(self, features):
        return features @ self.W_dec + self.b_dec


# Every rule, and every way of treating the input; some have a state of their own, so each test makes them anew.
SEPARABLE = {
    "ReLU": lambda: random_sae(ReLU()),
    "JumpReLU, one threshold": lambda: random_sae(JumpReLU(torch.tensor(0.5))),
    "JumpReLU, thresholds": lambda: random_sae(JumpReLU(vectors()().abs())),
    "Gated": lambda: random_sae(Gated(*(vectors(seed)() for seed in (7, 8, 9)))),
    "no subtraction": lambda: random_sae(ReLU(), subtract_b_dec=False),
    "layer norm": lambda: random_sae(ReLU(), input_norm=LayerNorm()),
    "constant norm": lambda: random_sae(JumpReLU(torch.tensor(0.5)), input_norm=ConstantNorm()),
    "skip": lambda: random_sae(ReLU(), W_skip=drawn(3)(D_IN, D_IN)),
    "centred": lambda: random_sae(ReLU()).reread(centred=True),
}
OTHERS = {
    "TopK": lambda: random_sae(TopK(3)),
    "TopK, all": lambda: random_sae(TopK(N_FEATURES)),
    "TopK, by weights": lambda: random_sae(TopK(3, rank_by=vectors()().abs())),
    "AbsTopK": lambda: random_sae(AbsTopK(3)),
    "GroupMax": lambda: random_sae(GroupMax(5)),
    "TopK after layer norm": lambda: random_sae(TopK(3), input_norm=LayerNorm()),
    "matching pursuit": pursuing,
    "foreign": lambda: UnifiedSAEInterface(Plain(drawn(4), lambda acts: acts)),
}
ALL = SEPARABLE | OTHERS

FEW = settings(max_examples=12)  # for each of many SAEs


def dense(code, tokens=5):
    full = torch.zeros(tokens, N_FEATURES)
    full[code.token, code.feature] = code.value
    return full
