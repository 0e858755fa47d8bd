"""Checkpoints are found in their folders, and a path that leads to none says so."""

import hashlib
from pathlib import Path

import pytest
from checkpoint_factory import (
    dictionary_learning,
    free_keys,
    linear_keys,
    made,
    plain,
    saelens,
    selecting_keys,
    write_torch,
)
from checkpoint_reading import refusal
from conftest import make_sae
from format_cases_saelens import EXPECTED, scaler

from sae_analysis.sae_formats import load_sae

COMPANIONS = (
    "sparsity.safetensors",
    "activation_whitening.safetensors",
    "activations_store_state.safetensors",
    "trainer_state.pt",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
)


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_companion_is_not_taken_for_weights(tmp_path, name):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    (path.parent / name).write_bytes(b"")
    assert load_sae(path.parent).origin.format_name == "dictionary_learning AutoEncoder"


def test_a_folder_named_like_weights_is_none(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    (path.parent / "step_100.pt").mkdir()
    assert load_sae(path.parent).dict_size == 10


def test_earlier_checkpoints_further_down_do_not_matter(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    write_torch(path.parent / "checkpoints" / "ae_100.pt", linear_keys(plain(seed=1), "bias"))
    found = load_sae(tmp_path)
    assert found.origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_earlier_checkpoint_has_the_configuration_of_the_folder_above(tmp_path):
    path = dictionary_learning(tmp_path, "BatchTopKSAE", selecting_keys(plain(), 3, 0.75))
    earlier = write_torch(path.parent / "checkpoints" / "ae_100.pt", selecting_keys(plain(seed=1), 3, 0.5))
    assert load_sae(earlier).rule_name == "JumpReLU(threshold 0.5)"


def test_a_folder_without_weights(tmp_path):
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds no weight file: expected one that ends in .safetensors, .npz, .pt, .pth or .bin, "
        "such as sae_weights.safetensors or ae.pt, in it or up to 3 folders below."
    )


@pytest.mark.parametrize("name", ["cfg.json", "config.yaml", "ae_cfg.json"])
def test_a_configuration_given_as_the_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("{}")
    wanted = f"SAE {tmp_path / name} is a configuration and no weights: give the folder, {tmp_path}."
    assert refusal(tmp_path / name) == wanted


def test_a_folder_with_several_weight_files(tmp_path):
    for name in ("b.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds 2 weight files (a.safetensors, b.pt): name the one to read."
    )


def test_a_folder_with_many_weight_files_further_down(tmp_path):
    for layer in range(11):
        made(tmp_path / f"layer_{layer:02}" / "ae.pt").write_bytes(b"")
    named = ", ".join(f"layer_{layer:02}/ae.pt" for layer in range(8))
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds 11 weight files ({named} and 3 more): name the one to read."
    )


def test_a_missing_path(tmp_path):
    path = tmp_path / "none"
    assert refusal(path) == (
        f"SAE {path} does not exist: give a checkpoint file, the folder that holds it, or a hub name such as "
        "owner/repository/folder."
    )


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name):
    refusal(name)


@pytest.mark.parametrize(("method", "name"), [("open", "ae.pt"), ("read_bytes", "config.json")])
def test_a_file_that_cannot_be_read_says_which_and_why(tmp_path, monkeypatch, method, name):
    folder = make_sae(tmp_path / "sae")
    monkeypatch.setattr(Path, method, forbidden)
    assert refusal(folder) == f"SAE {folder / name} cannot be read: Permission denied. Check the file."


def test_a_companion_that_cannot_be_read_says_which_and_why(tmp_path, monkeypatch):
    scaler(tmp_path)
    saelens(tmp_path, "standard", free_keys(plain()), normalize_activations=EXPECTED)
    read = Path.read_bytes
    closed = "activation_scaler.json"
    monkeypatch.setattr(Path, "read_bytes", lambda path: forbidden(path) if path.name == closed else read(path))
    assert refusal(tmp_path) == (
        f"SAE {tmp_path / 'activation_scaler.json'} cannot be read: Permission denied. Check the file."
    )


def forbidden(path, *_arguments, **_options):
    raise PermissionError(13, "Permission denied", str(path))
