"""Checkpoints compute what their formulas say, in half precision too."""

import pytest
import torch
from checkpoint_factory import dictionary_learning, free_keys, plain, saelens, selecting_keys
from checkpoint_reading import furthest, inputs
from conftest import D_MODEL, topk_weights
from format_cases import CASES
from format_cases_rules import top_k
from format_cases_saelens import EXPECTED, SCALE, by_rows, scaler
from safetensors.torch import save_file

from sae_analysis.errors import FitError
from sae_analysis.sae_formats import load_sae

# --- formulas ------------------------------------------------------------------------------------------------------

SIZES = {"D > d": (6, 10), "D = d": (6, 6), "D < d": (8, 4)}


@pytest.mark.parametrize(("d", "D"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_what_is_read_computes_what_the_formula_says(tmp_path, write, d, D):
    written = write(tmp_path, d, D)
    x = inputs(d)
    sae, features = load_sae(written.path), written.encode(x.double())
    assert (features != 0).any(), "the formula says something"
    assert furthest(sae.encode(x).sparse_features, features) <= 1e-5
    reconstruction = written.decode(features, x.double())
    assert furthest(sae.decode(features.float(), x), reconstruction) <= 1e-5
    assert furthest(sae.decode_sparse(sae.encode_sparse(x), x), reconstruction) <= 2e-5
    assert (sae.activation_dim, sae.dict_size, sae.output_dim) == (d, D, reconstruction.shape[-1])


UNBIASED = ("saelens_matching_pursuit_that_repeats_and_subtracts_nothing",)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNBIASED])
def test_a_case_would_show_a_bias_that_is_left_out(tmp_path, name):
    """The cases are worth something only if an SAE without biases would miss them."""
    written, x = CASES[name](tmp_path, 6, 10), inputs(6)
    sae = load_sae(written.path)
    sae.model.b_enc.zero_()
    sae.model.b_dec.zero_()
    features = written.encode(x.double())
    differs = furthest(sae.encode(x).sparse_features, features) > 1e-3
    assert differs or furthest(sae.decode(features.float(), x), written.decode(features, x.double())) > 1e-3


@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_decoding_asks_for_the_input_only_where_the_formula_needs_it(tmp_path, write):
    written, x, features = write(tmp_path, 6, 10), inputs(6).double(), torch.rand(40, 10).double()
    sae = load_sae(written.path)
    if torch.equal(written.decode(features, x), written.decode(features, x.flip(0))):
        assert furthest(sae.decode(features.float()), written.decode(features, x)) <= 1e-5
        return
    with pytest.raises(FitError) as caught:
        sae.decode(features.float())
    assert str(caught.value) == (
        "This SAE decodes with the help of its input: give decode the activations encoded as well."
    )


# --- half precision ------------------------------------------------------------------------------------------------

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_widened_and_not_rounded_again(tmp_path, dtype):
    halves = {name: w.to(dtype) if w.is_floating_point() else w for name, w in topk_weights().items()}
    torch.save(halves, tmp_path / "ae.pt")
    sae, x = load_sae(tmp_path), torch.randn(20, D_MODEL).to(dtype)
    assert sae.encoder_weights.dtype == sae.decoder_weights.dtype == torch.float32
    assert torch.equal(sae.encoder_weights, halves["encoder.weight"].float().T)
    pre = (x.double() - halves["b_dec"].double()) @ halves["encoder.weight"].double().T + halves[
        "encoder.bias"
    ].double()
    assert furthest(sae.encode(x).pre_activation, pre) <= 1e-6


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_thresholds_are_exact(tmp_path, dtype):
    """A feature just above its threshold fires, one on it does not; rounding anything would blur the two."""
    threshold = torch.tensor([0.1, 1.7, 33.0], dtype=dtype)
    keys = {
        "W_enc": torch.eye(3).to(dtype),
        "b_enc": torch.zeros(3, dtype=dtype),
        "W_dec": torch.eye(3).to(dtype),
        "b_dec": torch.zeros(3, dtype=dtype),
        "threshold": threshold,
    }
    torch.save(keys, tmp_path / "ae.pt")
    on = threshold.float()
    above, below = (on.nextafter(torch.full((3,), end)) for end in (torch.inf, 0.0))
    found = load_sae(tmp_path).encode(torch.stack([below, on, above])).sparse_features
    assert torch.equal(found, torch.stack([torch.zeros(3), torch.zeros(3), above]))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_a_single_threshold_is_exact(tmp_path, dtype):
    keys = selecting_keys(plain(), 3) | {"threshold": torch.tensor(0.1, dtype=dtype)}
    path = dictionary_learning(tmp_path, "BatchTopKSAE", {})
    torch.save({key: value.to(dtype) if value.is_floating_point() else value for key, value in keys.items()}, path)
    assert float(load_sae(path).model.rule.threshold) == float(keys["threshold"].double())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [SCALE, 1.0])
def test_what_is_folded_into_half_precision_weights_is_not_rounded_to_them(tmp_path, dtype, scale):
    config = {} if scale == 1 else {"normalize_activations": EXPECTED}
    scaler(tmp_path)
    path = saelens(tmp_path, "topk", {}, k=3, rescale_acts_by_decoder_norm=True, **config)
    p, x = plain(), inputs(6)
    halves = {key: value.to(dtype).contiguous() for key, value in free_keys(p).items()}
    save_file(halves, path)
    p.W_enc, p.b_enc, p.W_dec, p.b_dec = (halves[key].double() for key in ("W_enc", "b_enc", "W_dec", "b_dec"))
    expected = by_rows(p, lambda pre: top_k(pre, 3))["encode"](scale * x.double()) / scale
    assert furthest(load_sae(path).encode(x).sparse_features, expected) <= 1e-5
