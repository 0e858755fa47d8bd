"""EleutherAI's sparsify: TopK and GroupMax, transcoding or not, with and without a skip connection."""

from itertools import product

import pytest
import torch
from agreement import SHAPES, assert_agreement, dense, randomise, shape_name

from sae_analysis.sae_formats import load_sae

sparsify = pytest.importorskip("sparsify")

KINDS = [
    {"activation": activation, "transcode": transcode, "skip_connection": skips}
    for activation, transcode, skips in product(("topk", "groupmax"), (False, True), (False, True))
]
HOOK = "layers.1.mlp"


def kind_name(kind):
    return "-".join([kind["activation"], *(name for name, is_on in kind.items() if is_on is True)])


def make(shape, **options):
    d_in, d_sae = shape
    config = sparsify.SparseCoderConfig(num_latents=d_sae, k=2, **options)  # 2 divides every d_sae, as groups must
    return randomise(sparsify.SparseCoder(d_in, config))


def reference(folder):
    sae = sparsify.SparseCoder.load_from_disk(folder).float()

    def run(x):
        out = sae(x)
        return dense(out.latent_acts, out.latent_indices, sae.num_latents), out.sae_out

    return run


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize("kind", KINDS, ids=kind_name)
def test_sparse_coder(tmp_path, kind, shape):
    make(shape, **kind).save_to_disk(tmp_path / HOOK)
    ours = load_sae(tmp_path / HOOK)
    assert ours.is_transcoder == kind["transcode"]
    assert ours.origin.hook == (f"{HOOK}.input" if kind["transcode"] else HOOK)
    assert_agreement(ours, reference(tmp_path / HOOK))


def test_width_from_the_expansion_factor(tmp_path):
    config = sparsify.SparseCoderConfig(expansion_factor=3, k=4)
    randomise(sparsify.SparseCoder(16, config)).save_to_disk(tmp_path / HOOK)
    assert load_sae(tmp_path / HOOK).dict_size == 48
    assert_agreement(load_sae(tmp_path / HOOK), reference(tmp_path / HOOK))


def test_bfloat16(tmp_path):
    make((16, 48)).to(torch.bfloat16).save_to_disk(tmp_path / HOOK)
    assert_agreement(load_sae(tmp_path / HOOK), reference(tmp_path / HOOK))
