"""SAEs by name: local paths first, then the hub or its cache, then what SAELens lists."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from checkpoint_reading import refusal
from conftest import make_sae
from hub_cache import cached

from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_formats.hub import locate


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, and a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_local_folder_comes_before_a_repository_of_that_name(tmp_path, monkeypatch):
    make_sae(tmp_path / "owner" / "sae")
    monkeypatch.chdir(tmp_path)
    assert locate("owner/sae").path == Path("owner/sae")
    assert load_sae("owner/sae").origin.hook == "blocks.1.hook_resid_post"


def test_a_cached_repository_is_read_without_the_hub(cache):
    make_sae(cached(cache, "owner/saes") / "trainer_0")
    assert load_sae("owner/saes/trainer_0").k == 4
    assert load_sae("owner/saes").k == 4, "the only one in it"


def test_the_folders_of_a_release_say_where_it_belongs(cache):
    folder = cached(cache, "google/gemma-scope-2b-pt-res") / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    weights = {"W_enc": (6, 10), "W_dec": (10, 6), "b_enc": (10,), "b_dec": (6,), "threshold": (10,)}
    np.savez(folder / "params.npz", **{name: draw.random(shape, np.float32) for name, shape in weights.items()})
    origin = load_sae("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71").origin
    assert (origin.format_name, origin.hook) == ("Gemma Scope", "blocks.20.hook_resid_post")
    assert (origin.model, origin.prepend_bos) == ("google/gemma-2-2b", True)


def test_what_no_one_has_is_one_line(cache):
    message = refusal("no-one/no-such-sae")
    assert message.startswith("SAE 'no-one/no-such-sae' is no local path, and no hub or cache could give it: ")
    assert message.endswith(". Check the name and the connection, or give a local file.")
    assert "\n" not in message


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one repository; what is fetched from it is recorded."""
    fetched = []
    files = ["README.md", "a/ae.pt", "a/config.json", "b/ae.pt", "b/config.json", "b/sparsity.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda _api, _repository: files)

    def fetch(repository, *, allow_patterns):
        fetched.append((repository, allow_patterns))
        for name in "ab":
            if not (tmp_path / name).exists():
                make_sae(tmp_path / name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return fetched


def test_one_sae_is_fetched_and_nothing_else(hub):
    assert load_sae("owner/saes/b").k == 4
    [(repository, patterns)] = hub
    assert repository == "owner/saes"
    assert patterns == ["b/ae.pt", "b/config.json"]


def test_of_several_one_must_be_named(hub):
    assert refusal("owner/saes") == (
        "SAE 'owner/saes': the repository holds 2 weight files there (a/ae.pt, b/ae.pt …): name one of them."
    )
    assert refusal("owner/saes/c") == (
        "SAE 'owner/saes/c': the repository holds 0 weight files there: check the folder."
    )
    assert hub == [], "before anything is fetched"


@pytest.fixture
def saelens(monkeypatch):
    """SAELens' list of releases, with one in it."""
    release = SimpleNamespace(
        repo_id="owner/saes", saes_map={"layer_0": "a", "layer_1": "b"}, norm_scaling_factor={"layer_1": 2.0}
    )
    module = ModuleType("pretrained_saes_directory")
    module.get_pretrained_saes_directory = lambda: {"my-release": release}
    for name in ("sae_lens", "sae_lens.loading"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sae_lens.loading.pretrained_saes_directory", module)


def test_a_name_of_saelens_is_looked_up_in_its_list(hub, saelens):
    found = locate("saelens:my-release/layer_1")
    assert (hub[0][0], found.path.name, found.known) == ("owner/saes", "ae.pt", {"norm_scaling_factor": 2.0})
    assert locate("saelens:my-release/layer_0").known == {}


@pytest.mark.usefixtures("saelens")
def test_a_name_that_saelens_does_not_list_names_the_nearest():
    assert refusal("saelens:my-relaese/layer_0") == "SAELens lists no release 'my-relaese'. Nearest: my-release."
    assert refusal("saelens:my-release/layer_9") == (
        "SAELens' release 'my-release' has no SAE 'layer_9'. Nearest: layer_1, layer_0."
    )


def test_without_saelens_its_names_mean_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    assert refusal("saelens:a/b") == (
        "SAE 'saelens:a/b' is a name of SAELens, which is not installed: pip install 'sae-analysis[saelens]', or "
        "give the repository's own name and folder."
    )


def test_the_scale_of_a_release_is_folded_in(tmp_path):
    """SAELens keeps it in its list, not beside the weights."""
    from safetensors.torch import save_file

    from sae_analysis.sae_formats import read_checkpoint
    from sae_analysis.sae_formats.checkpoint import Checkpoint

    shapes = {"W_enc": (4, 7), "b_enc": (7,), "W_dec": (7, 4), "b_dec": (4,)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(
        '{"architecture": "standard", "d_in": 4, "d_sae": 7, "normalize_activations": "expected_average_only_in"}'
    )
    x = torch.randn(5, 4)
    sae = read_checkpoint(Checkpoint.open(tmp_path, known={"norm_scaling_factor": 2.0}))
    expected = ((2 * x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(x).sparse_features, expected)
    torch.testing.assert_close(sae.decode(expected), (expected @ weights["W_dec"] + weights["b_dec"]) / 2)
    assert sae.origin.warnings == ()
    [warning] = read_checkpoint(Checkpoint.open(tmp_path)).origin.warnings
    assert warning.startswith("It was trained on scaled activations and no scaling factor lies beside it")
