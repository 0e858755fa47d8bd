"""Screened encoding against the whole product: the same features, with the same values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis.errors import FitError
from sae_analysis.sae_interface import (
    AbsTopK,
    Gated,
    GroupMax,
    JumpReLU,
    LayerNorm,
    MatchingPursuit,
    Pursuit,
    ReLU,
    Screen,
    SparseAutoencoder,
    TopK,
    UnifiedSAEInterface,
    screening,
)
from sae_analysis.sae_interface.rules import SeparableRule

RULES = ("topk", "ranked topk", "relu", "jumprelu", "gated")


def rule_of(name, d_sae, k, draw):
    """Return a rule whose arithmetic is exact on whole numbers."""

    def whole(low, high):
        return torch.randint(low, high, (d_sae,), generator=draw).float()

    if name == "topk":
        return TopK(k)
    if name == "ranked topk":
        return TopK(k, rank_by=2.0 ** whole(-1, 2))
    if name == "relu":
        return ReLU()
    return JumpReLU(whole(-3, 9)) if name == "jumprelu" else Gated(whole(-3, 3), torch.zeros(d_sae), whole(-3, 3))


def sae_of(weights, bias, rule, **options):
    d_in, d_sae = weights.shape
    parts = {"W_dec": torch.ones(d_sae, d_in), "b_dec": torch.zeros(d_in), "subtract_b_dec": False} | options
    return SparseAutoencoder(W_enc=weights, b_enc=bias, rule=rule, **parts)


def table(code, tokens, d_sae):
    """Lay non-zero activations out, and hold them to be in order of token, each of them once."""
    token, feature, value = code
    assert (value != 0).all()
    assert (token.diff() >= 0).all()
    assert len(set(zip(token.tolist(), feature.tolist(), strict=True))) == len(token)
    dense = torch.zeros(tokens, d_sae)
    dense[token, feature] = value
    return dense


def whole_numbers(tokens, d_in, d_sae, draw, *, most):
    """Return an input, weights and biases of small whole numbers, with ties everywhere."""
    shapes = ((tokens, d_in), (d_in, d_sae), (d_sae,))
    return (torch.randint(-most, most + 1, shape, generator=draw).float() for shape in shapes)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 700), st.integers(1, 40))
"""Tokens, d_in, d_sae and k."""


@pytest.mark.parametrize("rule", RULES)
@given(
    sizes=SIZES,
    most=st.sampled_from((1, 3, 300)),
    unit=st.sampled_from((1.0, 0.25)),
    share=st.sampled_from((screening._MOST_SHARE, 1.0)),
    seed=st.integers(0, 2**30),
)
def test_whole_numbers_give_the_same_bits_ties_and_all(*, rule, sizes, most, unit, share, seed):
    """Sums of whole numbers and of quarters are exact in float32; above 256 they are not in bfloat16.

    Where more than a share of the features may fire the product is taken whole; half of these do, by chance.
    """
    tokens, d_in, d_sae, k = sizes
    draw = torch.Generator().manual_seed(seed)
    x, weights, bias = whole_numbers(tokens, d_in, d_sae, draw, most=most)
    x, bias = unit * x, unit * bias
    sae = sae_of(weights, bias, rule_of(rule, d_sae, min(k, d_sae), draw))
    plain, screen = table(UnifiedSAEInterface(sae).encode_sparse(x), tokens, d_sae), Screen(sae)
    wanted = torch.rand(d_sae, generator=draw) < 4 / d_sae
    narrow = screen.only(wanted, torch.rand(d_sae, generator=draw))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(screening, "_MOST_SHARE", share)
        assert torch.equal(table(screen.encode(x), tokens, d_sae), plain)
        assert torch.equal(table(narrow.encode(x), tokens, d_sae), plain * wanted)


@given(
    rule=st.sampled_from(("topk", "jumprelu")),
    sizes=st.tuples(st.integers(1, 600), st.integers(1, 64)),
    scale=st.sampled_from((1e-30, 1e-3, 1.0, 1e6, 1e17)),
    spread=st.floats(0, 3),
    seed=st.integers(0, 2**30),
)
def test_real_numbers_differ_by_rounding_alone(rule, sizes, scale, spread, seed):
    """What lies clearly above or below, in float64, is in or out; norms differ by up to e^6, inputs are off centre."""
    (d_in, k), draw, d_sae, tokens = sizes, torch.Generator().manual_seed(seed), 400, 6
    mean = 3 * torch.randn(d_in, generator=draw)
    norms = (spread * (torch.rand(d_sae, generator=draw) * 2 - 1)).exp()
    weights = torch.randn(d_in, d_sae, generator=draw) * norms
    x = scale * (torch.randn(tokens, d_in, generator=draw) + mean)
    bias = scale * torch.randn(d_sae, generator=draw)
    true = (x.double() @ weights.double() + bias.double()).clamp(min=0)
    size = x.double().norm(dim=1, keepdim=True) * weights.double().norm(dim=0).max() + bias.abs().max()
    edge = true.topk(k, dim=1).values[:, -1:] if rule == "topk" else 2.0 * scale * torch.ones(tokens, 1)
    sae = sae_of(weights, bias, TopK(k) if rule == "topk" else JumpReLU(torch.tensor(2.0 * scale)))
    found = table(Screen(sae).encode(x), tokens, d_sae).double()
    doubt = 4e-7 * d_in**0.5 * size + 1e-37
    assert (found[(true > edge + doubt) & (true > doubt)] > 0).all()
    assert (found[true < edge - doubt] == 0).all()
    fired = found > 0
    assert ((found - true).abs()[fired] <= doubt.expand_as(true)[fired]).all()


DOWN, UP = 1 + 2.0**-8 * (1 - 2.0**-6), 1 + 2.0**-8 * (1 + 2.0**-6)
"""Numbers beside the middle between two of bfloat16, which is 1 + 2^-8: rounded to 1 and to 1 + 2^-7."""


def hidden_by_rounding(what):
    """Return an input, weights and biases whose first feature is larger than its second, and not so in bfloat16."""
    zeros, ones = torch.zeros(128), torch.ones(128)
    first, second = torch.cat((ones, zeros)), torch.cat((zeros, ones))
    bias = torch.tensor([-128.0, -128.125])  # large products would be rounded to no difference at all
    if what == "input":
        return torch.cat((DOWN * ones, UP * ones)), torch.stack((first, second), 1), bias
    if what == "weights":
        return torch.ones(256), torch.stack((DOWN * first, UP * second), 1), bias
    # What the bias is made of is taken off again, so that what it was rounded by counts.
    return torch.ones(2), torch.tensor([[-256.0, -256.0], [0.0, -3 / 32]]), torch.tensor([257 - 1 / 32, 257 + 1 / 32])


@pytest.mark.parametrize("what", ["input", "weights", "bias"])
def test_what_rounding_hides_is_found(what):
    """The first feature loses, and the second gains, as much as rounding can do; TopK(1) is to choose the first."""
    x, weights, bias = hidden_by_rounding(what)
    exact = x.double() @ weights.double() + bias.double()
    rounded = (x.bfloat16().double() @ weights.bfloat16().double()) + (bias.bfloat16() if what == "bias" else bias)
    assert exact[0] > exact[1]
    assert rounded[0] < rounded[1]
    sae = sae_of(torch.cat((weights, torch.zeros(len(x), 62)), 1), torch.cat((bias, torch.full((62,), -9.0))), TopK(1))
    in_stages = Screen(sae).only(torch.arange(64) == 0, (torch.arange(64) == 1).float())
    for screen, tokens in ((Screen(sae), x[None]), (in_stages, torch.stack((0 * x, x)))):  # the first is out at once
        token, feature, value = screen.encode(tokens)
        assert (token.tolist(), feature.tolist()) == ([len(tokens) - 1], [0])
        assert value.item() == pytest.approx(float(exact[0]), rel=1e-6)


def test_what_rounding_hides_is_found_wherever_the_edge_lies(monkeypatch):
    """As above, with the input alone; about one the steps of bfloat16 change, and so does what rounds up."""
    monkeypatch.setattr(screening, "_BLOCK_NUMBERS", 1 << 10)  # less to lay out
    x = torch.tensor([[DOWN]])
    for step in range(-48, 48):
        edge = 1 + step * 2.0**-13
        bias = torch.tensor([edge - DOWN, edge - 2.0**-14 + DOWN])
        _, feature, value = Screen(sae_of(torch.tensor([[1.0, -1.0]]), bias, TopK(1))).encode(x)
        assert (feature.tolist(), value.tolist()) == ([0], [edge])


def test_the_bound_holds_and_is_not_idle():
    """Of random products none is further off than the bound, and some are by more than a tenth of it."""
    draw = torch.Generator().manual_seed(0)
    weights, x = torch.randn(300, 500, generator=draw), torch.randn(50, 300, generator=draw)
    bias = torch.randn(500, generator=draw)
    screen = Screen(sae_of(weights, bias, ReLU()))
    error, _ = screen._lay_out(x)
    product = screen._input[:50].float() @ screen._weights.float()
    off = (product[:, :500] - error[:, None] - (x @ weights + bias)).abs() / error[:, None]
    assert 0.1 < off.max() < 1


def test_the_bound_is_rounded_up():
    """It is laid out in bfloat16 itself; with one weight of 1 it is next to nothing more than what an input loses."""
    x = torch.linspace(1, 2, 1000)[:, None]
    error = Screen(sae_of(torch.ones(1, 2), torch.zeros(2), ReLU()))._lay_out(x)[0]
    lost = (x - x.bfloat16().float())[:, 0].abs()
    assert (error >= lost).all()
    assert (error <= 1.01 * lost + 1e-5).all()


def test_the_bound_covers_what_a_matrix_unit_takes_for_zero():
    """Units may flush what is below 2^-126: inputs, weights or their products."""
    for x, weight in ((2.0**-127, 1000.0), (1000.0, 2.0**-127), (2.0**-70, 2.0**-60)):
        screen = Screen(sae_of(torch.full((64, 2), weight), torch.zeros(2), ReLU()))
        [error] = screen._lay_out(torch.full((1, 64), x))[0].tolist()
        assert 64 * x * weight <= error < 2.0**-100


def test_many_features_a_token_are_found():
    """So many that NumPy, which sorts short rows whole, sorts only as far as it is asked to."""
    draw = torch.Generator().manual_seed(5)
    x, weights, bias = whole_numbers(100, 16, 4096, draw, most=9)
    sae = sae_of(weights, bias, TopK(300))
    assert torch.equal(table(Screen(sae).encode(x), 100, 4096), sae.rule(sae.product(x)))


def test_the_bound_covers_what_adding_up_a_large_bias_rounds():
    """Each of d_in + 3 additions may round by 2^-24 of what there is so far, which the bias is nearly all of."""
    screen = Screen(sae_of(torch.ones(64, 2), torch.full((2,), -1000.0), ReLU()))
    error, rounding = screen._lay_out(torch.full((1, 64), 0.01))
    assert (64 + 3) * 2.0**-24 * 1000 <= rounding.item() <= error.item() < 1


def test_the_bound_covers_what_adding_up_products_rounds():
    """Ones are whole in bfloat16: nothing but the 64 additions can round, each by 2^-24 of 64 at most."""
    screen = Screen(sae_of(torch.ones(64, 2), torch.zeros(2), ReLU()))
    error, rounding = screen._lay_out(torch.ones(1, 64))
    assert 64 * 2.0**-24 * 64 <= rounding.item() <= error.item() < 0.01


@pytest.mark.parametrize("rule", RULES)
def test_blocks_and_wanted_features_change_nothing(rule, monkeypatch):
    draw = torch.Generator().manual_seed(1)
    x, weights, bias = whole_numbers(100, 24, 200, draw, most=2)
    sae = sae_of(weights, bias, rule_of(rule, 200, 5, draw))
    whole = table(UnifiedSAEInterface(sae).encode_sparse(x), 100, 200)
    monkeypatch.setattr(screening, "_BLOCK_NUMBERS", 16 * 224)
    monkeypatch.setattr(screening, "_MOST_SHARE", 1.0)
    interface = UnifiedSAEInterface(sae)
    screen = interface.new_screen()
    assert torch.equal(table(interface.encode_sparse(x, screen), 100, 200), whole)
    for features in ([3], [0, 17, 199], []):
        wanted = torch.zeros(200)
        wanted[features] = 1
        assert torch.equal(table(interface.encoder_of(features, screen)(x), 100, 200), whole * wanted)


def test_a_long_run_has_few_numbers_of_rows(monkeypatch):
    """For each, oneDNN keeps machine code; what stands in the rows beyond the tokens is of no account."""
    given_rows, product = set(), torch.mm

    def counted(left, right, **options):
        given_rows.add(len(left))
        return product(left, right, **options)

    monkeypatch.setattr(torch, "mm", counted)
    draw = torch.Generator().manual_seed(0)
    sae = sae_of(torch.randn(8, 64, generator=draw), torch.zeros(64), TopK(4))
    screen = Screen(sae)
    screen.encode(torch.full((300, 8), torch.inf))
    for tokens in range(1, 300):
        x = torch.randn(tokens, 8, generator=draw)
        values, features = sae.rule.select(sae.product(x))
        expected = torch.zeros(tokens, 64).scatter_(1, features, values)
        torch.testing.assert_close(table(screen.encode(x), tokens, 64), expected)
    assert given_rows == {32 * number for number in range(1, 11)}


@pytest.mark.parametrize("rule", [TopK(8), JumpReLU(torch.tensor(20.0))], ids=str)
def test_few_are_computed_that_do_not_fire(rule, monkeypatch):
    draw = torch.Generator().manual_seed(2)
    weights, x = torch.randn(64, 2048, generator=draw), torch.randn(200, 64, generator=draw)
    screen = Screen(sae_of(weights, torch.zeros(2048), rule))
    fired = len(screen.encode(x)[0])
    computed, compute = [], Screen._pre_activations
    monkeypatch.setattr(
        Screen,
        "_pre_activations",
        lambda self, z, token, *rest: (computed.append(len(token)), compute(self, z, token, *rest))[1],
    )
    screen.encode(x)
    assert fired > 1000
    assert fired < sum(computed) < 2.5 * fired


@pytest.fixture
def laid_out(monkeypatch):
    """Tokens and columns of each screening product."""
    sizes, product = [], Screen._upper_bits
    monkeypatch.setattr(
        Screen, "_upper_bits", lambda self, n, w, *at: (sizes.append((n, w.shape[1])), product(self, n, w, *at))[1]
    )
    return sizes


@pytest.mark.parametrize("knows_density", [True, False])
def test_the_rest_of_the_dictionary_is_looked_at_for_the_tokens_that_are_left(knows_density, laid_out):
    """A twentieth of the features fires much; who knows that has few tokens left at once."""
    draw, d_sae = torch.Generator().manual_seed(4), 8192
    weights, x = torch.randn(64, d_sae, generator=draw), torch.randn(1000, 64, generator=draw)
    sae = sae_of(weights, torch.where(torch.arange(d_sae) % 20 == 0, 9.0, 0.0), TopK(16))
    mask = torch.arange(d_sae) % 512 == 1
    expected = sae.rule(sae.product(x))
    density = (expected > 0).double().mean(0) if knows_density else torch.ones(d_sae)
    code = Screen(sae).only(mask, density).encode(x)
    torch.testing.assert_close(table(code, 1000, d_sae), expected * mask)
    tokens, columns = zip(*laid_out, strict=True)
    assert columns == (1024, 1024, 2048, 4096)
    must = int((expected * mask).any(1).sum())
    assert 1000 == tokens[0] > tokens[1] >= tokens[2] >= tokens[3] >= must > 10
    assert (tokens[1] < 2 * must + 20) == knows_density


@pytest.mark.parametrize(
    ("wanted", "density", "in_stages"),
    [(1, 0.0, True), (8, 0.374, True), (8, 0.376, False), (32, 0.1, True), (33, 0.1, False), (0, 0.0, False)],
)
def test_stages_are_for_few_features_that_seldom_fire(wanted, density, in_stages):
    """Two fire on a token, of 256: three quarters of a firing are three eighths of all."""
    mask = torch.arange(256) < wanted
    shares = torch.where(mask, 4 * density / max(wanted, 1), 4 * (1 - density) / (256 - wanted))  # in any unit
    screen = Screen(sae_of(torch.ones(4, 256), torch.zeros(256), TopK(2))).only(mask, shares)
    assert bool(screen._stages) == in_stages


def test_a_token_of_which_nothing_is_left_is_not_looked_at_again(laid_out):
    """The first feature beats all others on every token, and another is asked for."""
    weights = torch.ones(4, 256)
    weights[:, 0] = 9
    screen = Screen(sae_of(weights, torch.zeros(256), TopK(1)))
    narrow = screen.only(torch.arange(256) == 7, (torch.arange(256) == 0).float())
    assert [len(column) for column in narrow.encode(torch.ones(50, 4))] == [0, 0, 0]
    assert laid_out == [(50, 32)]


def test_most_tokens_take_the_short_way_and_the_rest_the_long_one(monkeypatch):
    """Tokens whose edge is a tie, or that have too many candidates, are encoded whole; others never are."""
    draw = torch.Generator().manual_seed(2)
    weights, x = torch.randn(64, 2048, generator=draw), torch.randn(40, 64, generator=draw)
    weights[:, 1] = weights[:, 0]
    sae, asked = sae_of(weights, torch.zeros(2048), TopK(8)), []
    whole = SparseAutoencoder.product
    monkeypatch.setattr(SparseAutoencoder, "product", lambda self, z: (asked.append(len(z)), whole(self, z))[1])
    screen = Screen(sae)
    screen.encode(x)
    assert asked == []
    x[5] = x[9] = torch.linalg.lstsq(weights[:, :1].T, torch.tensor([[1.0]])).solution[:, 0]  # the two come first
    sae.rule._k = 1
    code = screen.encode(x)
    assert asked == [2]
    torch.testing.assert_close(table(code, 40, 2048), sae.rule(whole(sae, x)))
    asked.clear()
    monkeypatch.setattr(screening, "_MOST_PER_K", 0)
    assert torch.equal(table(screen.encode(x), 40, 2048), sae.rule(whole(sae, x)))
    assert asked == [40]


def test_what_does_not_fit_into_float32_takes_the_long_way():
    """The norm of the first token overflows, and no product does."""
    x = torch.tensor([[1e38], [1.0]]) * (1 + torch.arange(64) / 128)
    assert x.norm(dim=1).isinf().tolist() == [True, False]
    sae = sae_of(torch.eye(64), torch.zeros(64), TopK(3))
    expected = table(UnifiedSAEInterface(sae).encode_sparse(x), 2, 64)
    assert torch.equal(table(Screen(sae).encode(x), 2, 64), expected)


def test_norm_and_decoder_bias_come_first():
    draw = torch.Generator().manual_seed(3)
    weights, x = torch.randn(32, 256, generator=draw), 5 + torch.randn(20, 32, generator=draw)
    sae = sae_of(
        weights,
        torch.zeros(256),
        TopK(6),
        b_dec=torch.randn(32, generator=draw),
        subtract_b_dec=True,
        input_norm=LayerNorm(),
    )
    plain = table(UnifiedSAEInterface(sae).encode_sparse(x), 20, 256)
    torch.testing.assert_close(table(Screen(sae).encode(x), 20, 256), plain)


def test_no_tokens_and_none_that_fire():
    sae = sae_of(torch.ones(4, 16), torch.full((16,), -100.0), TopK(2))
    for tokens in (0, 3):
        token, feature, value = Screen(sae).encode(torch.ones(tokens, 4))
        assert (len(token), len(feature), len(value)) == (0, 0, 0)


class Softplus(SeparableRule):
    """Fires wherever the pre-activation lies, which nobody has said is not so."""

    def forward(self, pre_activation):
        return torch.nn.functional.softplus(pre_activation)


class Loudest(TopK):
    """Chooses in a way of its own."""


def test_other_rules_are_not_screened():
    weights, bias = torch.randn(8, 16), torch.zeros(16)
    for rule in (AbsTopK(2), GroupMax(4), Softplus(), Loudest(2)):
        sae = sae_of(weights, bias, rule)
        assert UnifiedSAEInterface(sae).new_screen() is None
        assert UnifiedSAEInterface(sae).faster_screen(torch.randn(3, 8)) is None
        with pytest.raises(ValueError, match="cannot be screened on cpu"):
            Screen(sae)
    pursuit = Pursuit(most=3, tolerance=0.0, stop_on_repeat=False)
    pursuing = MatchingPursuit(W_dec=weights.T, b_dec=torch.zeros(8), rule=pursuit, subtract_b_dec=False)
    assert UnifiedSAEInterface(pursuing).new_screen() is None
    assert UnifiedSAEInterface(sae_of(weights, bias, TopK(2))).new_screen() is not None


def test_another_width_is_refused_with_a_screen_too():
    interface = UnifiedSAEInterface(sae_of(torch.randn(8, 16), torch.zeros(16), TopK(2)))
    screen = interface.new_screen()
    for encode in (lambda x: interface.encode_sparse(x, screen), interface.encoder_of([1], screen)):
        with pytest.raises(FitError, match="reads activations of width 8, but was given width 9"):
            encode(torch.randn(2, 9))


def test_the_faster_way_is_taken(monkeypatch):
    x, small, large = torch.randn(3, 64), torch.randn(64, 512), torch.randn(64, 1 << 14)
    for (screened, dense), is_faster in (((8.5, 10), True), ((9.5, 10), False)):
        for weights in (small, large):
            # Of several times the shortest counts, first or last.
            clock = iter(np.cumsum([0, screened + 9, 0, screened, 0, dense, 0, dense + 9]).tolist())
            monkeypatch.setattr("time.perf_counter", lambda clock=clock: next(clock))
            interface = UnifiedSAEInterface(sae_of(weights, torch.zeros(weights.shape[1]), TopK(2)))
            assert (interface.faster_screen(x) is not None) == (is_faster and weights is large)
