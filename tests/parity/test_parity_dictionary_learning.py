"""dictionary_learning: every class with random weights, and what each trainer saves after a few steps.

The package index has version 0.1.0; what the repository added later (backups, for instance) is not covered here.
"""

import json

import pytest
import torch
from agreement import SHAPES, assert_agreement, inputs, randomise, report, shape_name, stand_in

from sae_analysis.sae_formats import load_sae

# Its buffer of activations and its evaluation import nnsight, which runs models; dictionaries and training do not.
stand_in("nnsight", "LanguageModel", needed_by="dictionary_learning")
dictionaries = pytest.importorskip("dictionary_learning.dictionary")
training = pytest.importorskip("dictionary_learning.training")
trainers = pytest.importorskip("dictionary_learning.trainers")
standard = pytest.importorskip("dictionary_learning.trainers.standard")
top_k = pytest.importorskip("dictionary_learning.trainers.top_k")
batch_top_k = pytest.importorskip("dictionary_learning.trainers.batch_top_k")
matryoshka = pytest.importorskip("dictionary_learning.trainers.matryoshka_batch_top_k")

CLASSES = {
    "AutoEncoder": dictionaries.AutoEncoder,
    "AutoEncoderNew": dictionaries.AutoEncoderNew,
    "GatedAutoEncoder": dictionaries.GatedAutoEncoder,
    "JumpReluAutoEncoder": dictionaries.JumpReluAutoEncoder,
    "AutoEncoderTopK": top_k.AutoEncoderTopK,
    "BatchTopKSAE": batch_top_k.BatchTopKSAE,
    "MatryoshkaBatchTopKSAE": matryoshka.MatryoshkaBatchTopKSAE,
}

STEPS = 6
COMMON = {"steps": STEPS, "warmup_steps": 1, "lr": 0.05, "layer": 1, "lm_name": "tiny", "device": "cpu"}
PENALISED = COMMON | {"sparsity_warmup_steps": 2, "submodule_name": "resid_post_layer_1"}
SELECTING = COMMON | {"k": 4, "threshold_start_step": 1, "threshold_beta": 0.5, "submodule_name": "mlp_out_layer_1"}
TRAINERS = {
    "AutoEncoder": (standard.StandardTrainer, PENALISED),
    "AutoEncoder-april": (standard.StandardTrainerAprilUpdate, PENALISED),
    "GatedAutoEncoder": (trainers.GatedSAETrainer, PENALISED),
    "JumpReluAutoEncoder": (trainers.JumpReluTrainer, PENALISED),
    "AutoEncoderTopK": (trainers.TopKTrainer, SELECTING),
    "BatchTopKSAE": (trainers.BatchTopKTrainer, SELECTING),
    "MatryoshkaBatchTopKSAE": (matryoshka.MatryoshkaBatchTopKTrainer, SELECTING | {"group_fractions": [0.5, 0.5]}),
}


def make(name, shape):
    d_in, d_sae = shape
    options = {"k": 4} if "TopK" in name else {}
    if name.startswith("Matryoshka"):
        options["group_sizes"] = [d_sae // 2, d_sae - d_sae // 2]
    return randomise(CLASSES[name](d_in, d_sae, **options))


def reference(name, path):
    """Return the library's own reading of a file, as activations and output of an input."""
    if name.startswith("Matryoshka"):  # whose loader fails on its own files: it passes k as the group sizes
        saved = torch.load(path)
        dictionary = CLASSES[name](*saved["W_enc"].shape, int(saved["k"]), saved["group_sizes"].tolist())
        dictionary.load_state_dict(saved)
    else:
        options = {"normalize_decoder": False} if name == "AutoEncoder" else {}
        dictionary = CLASSES[name].from_pretrained(path, **options)
    return lambda x: (dictionary.encode(x), dictionary(x))


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize("name", CLASSES)
def test_dictionary(tmp_path, name, shape):
    torch.save(make(name, shape).state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}}))
    assert_agreement(load_sae(tmp_path), reference(name, tmp_path / "ae.pt"))


@pytest.mark.parametrize("normalises", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("name", TRAINERS)
def test_trained(tmp_path, name, normalises):
    """The library scales biases and thresholds back when it saves, and both its files read raw activations."""
    torch.manual_seed(0)
    trainer, options = TRAINERS[name]
    data = [2 * torch.randn(64, 16) + torch.arange(16) / 8 for _ in range(101)]
    training.trainSAE(
        data,
        [options | {"trainer": trainer, "activation_dim": 16, "dict_size": 48}],
        steps=STEPS,
        save_steps=[4],
        save_dir=str(tmp_path),
        normalize_activations=normalises,
        device="cpu",
    )
    folder = tmp_path / "trainer_0"
    name, _, _ = name.partition("-")
    for path in (folder / "ae.pt", folder / "checkpoints" / "ae_4.pt"):
        ours = load_sae(path)
        assert ours.origin.format_name == f"dictionary_learning {name}"
        place = "resid_post" if options["submodule_name"].startswith("resid_post") else "mlp_out"
        assert (ours.origin.model, ours.origin.hook) == ("tiny", f"blocks.1.hook_{place}")
        assert_agreement(ours, reference(name, path))


def test_the_library_may_rescale(tmp_path):
    """Its loader makes decoder rows 1 long and activations larger by as much; ours keep the file's units and say so."""
    torch.save(make("AutoEncoder", (16, 48)).state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    theirs, ours = dictionaries.AutoEncoder.from_pretrained(tmp_path / "ae.pt"), load_sae(tmp_path)
    assert "the library may rescale both when it loads" in ours.origin.warnings[0]
    x = inputs(16, 1.0)
    with torch.no_grad():
        found = ours.encode(x).sparse_features
        report("encode", found * ours.decoder_weights.norm(dim=1), theirs.encode(x))
        report("decode", ours.decode(found), theirs(x))
