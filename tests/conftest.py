"""Shared fixtures: a tiny random Llama, a tokenizer trained on the spot, and an SAE whose decoder can reconstruct.

Shape annotations are checked while tests run (jaxtyping with beartype); nothing here needs a network.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import Phase, settings
from jaxtyping import install_import_hook

# The modules whose annotations carry tensor shapes; beartype cannot check the typing.Self of the others.
SHAPED = (
    "corpus", "directions", "firings", "language_model", "products", "reconstruction", "sae_interface",
    "synth_activations",
)  # fmt: skip
install_import_hook([f"sae_analysis.{name}" for name in SHAPED], "beartype.beartype")
# Shrinking a failure is for a person at work, not for CI: without it a red run ends as soon as a green one.
PHASES = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40, phases=PHASES)
settings.load_profile("suite")
torch.set_num_threads(1)
pytest.register_assert_rewrite("checkpoint_reading", "page_reader")  # what they assert is told as a test tells it

from sae_analysis.accumulators import exact, examples  # noqa: E402 - after the hook
from sae_analysis.corpus import Corpus, Windowing  # noqa: E402
from sae_analysis.feature_selection import parse_features  # noqa: E402
from sae_analysis.language_model import LanguageModel, TokenText, load_model  # noqa: E402
from sae_analysis.real_activations import RealSettings, analyze  # noqa: E402
from sae_analysis.reconstruction import Site, attach  # noqa: E402
from sae_analysis.records import AnalysisResult, FeatureStats  # noqa: E402
from sae_analysis.sae_formats import load_sae  # noqa: E402
from sae_analysis.sae_interface import UnifiedSAEInterface  # noqa: E402
from sae_analysis.synth_activations import Search, SynthSettings, Vocabulary, synthesize  # noqa: E402
from sae_analysis.synth_activations.atlas import SingleTokens  # noqa: E402

D_MODEL, D_SAE, K, LAYERS = 16, 48, 4, 3
IDS = torch.tensor([[5, 17, 42, 99, 7, 200], [0, 3, 0, 8, 8, 19]])  # id 0 is a token like any other
SHORT = SynthSettings(seq_len=5, budget=1_500, n_steps=3, max_examples=4, batch_size=2)
FEATURES = "3,17,40,8,25"

TEXTS = (
    "The old ship left the harbour at dawn, and the crew sang of the sea.",
    "A vessel of the fleet was lost; the board met twice to ask why.",
    "Über den Wolken, 你好世界, مرحبا, नमस्ते, 🤗 and a tab\there.",
    "def main():\n    return 0\n\n# the end of the file\n",
    "She said no. He said yes. They said nothing, and the old ship sailed.",
)


def make_tokenizer(folder: Path, *, adds_bos: bool) -> None:
    """Train a byte-level BPE on TEXTS and save it with <bos>, <eos> and <pad>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)


def make_model(folder: Path, *, adds_bos: bool) -> Path:
    """Save a random Llama of three layers with that tokenizer; BOS has id 0, which is a number and not nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    make_tokenizer(folder, adds_bos=adds_bos)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=D_MODEL,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def topk_weights(seed: int = 1) -> dict[str, torch.Tensor]:
    """Return a TopK SAE's state dict in dictionary_learning's layout; its features are random unit directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    return {
        "encoder.weight": 0.4 * directions,
        "encoder.bias": 0.05 * torch.randn(D_SAE, generator=generator),
        "decoder.weight": directions.T.contiguous(),
        "b_dec": 0.1 * torch.randn(D_MODEL, generator=generator),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
    }


def make_sae(folder: Path, weights: dict[str, torch.Tensor] | None = None, **trainer: object) -> Path:
    """Save a dictionary_learning AutoEncoderTopK folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights or topk_weights(), folder / "ae.pt")
    settings = {"dict_class": "AutoEncoderTopK", "layer": 1, "submodule_name": "resid_post_layer_1", "k": K}
    (folder / "config.json").write_text(json.dumps({"trainer": settings | trainer, "buffer": {}}))
    return folder


@pytest.fixture(scope="module")
def buffers_that_are_always_full() -> Iterator[None]:
    """Fold and prune as often as a long stream would, so that every admission threshold is in force."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact.KeyedSums, "_BUFFER_ROWS", 0)
        patch.setattr(examples, "_BUFFER_PAIRS", 0)
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), adds_bos=False)


@pytest.fixture(scope="session")
def bos_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bos_model"), adds_bos=True)


@pytest.fixture(scope="session")
def sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sae(tmp_path_factory.mktemp("sae") / "topk")


@pytest.fixture(scope="session")
def fitting_sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TopK SAE with a feature for each direction of the residual stream and its opposite, so that it fits."""
    eye = torch.eye(D_MODEL)
    weights = topk_weights() | {
        "encoder.weight": torch.cat((eye, -eye, torch.zeros(D_SAE - 2 * D_MODEL, D_MODEL))),
        "encoder.bias": torch.zeros(D_SAE),
        "decoder.weight": torch.cat((eye, -eye, torch.zeros(D_SAE - 2 * D_MODEL, D_MODEL))).T.contiguous(),
        "b_dec": torch.zeros(D_MODEL),
        "k": torch.tensor(12),
    }
    return make_sae(tmp_path_factory.mktemp("fitting") / "sae", weights, k=12)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> LanguageModel:
    return load_model(str(model_folder), device="cpu")


@pytest.fixture(scope="session")
def bos_model(bos_model_folder: Path) -> LanguageModel:
    return load_model(str(bos_model_folder), device="cpu")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> TokenText:
    """Byte-level BPE, as GPT-2, Llama 3 and SmolLM have it."""
    from transformers import AutoTokenizer

    make_tokenizer(folder := tmp_path_factory.mktemp("byte_level"), adds_bos=False)
    return TokenText(AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def sae(sae_folder: Path) -> UnifiedSAEInterface:
    return load_sae(sae_folder)


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": " ".join(TEXTS[i % 5 :] + TEXTS[: i % 3])}) for i in range(24)]
    path.write_text("\n".join(lines))
    return path


def as_arguments(options: dict[str, object]) -> list[str]:
    """Return options as they are typed, without those that are None."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None)
    return [part for pair in pairs for part in pair]


@pytest.fixture
def typed(model_folder: Path, fitting_sae_folder: Path, corpus_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return the arguments of a run that works, with what a test changes: a value, or None to leave one out."""

    def arguments(**changes: object) -> list[str]:
        options = {
            "model": model_folder,
            "sae": fitting_sae_folder,
            "corpus": corpus_file,
            "features": "0-2",
            "seq_len": 32,
            "output": tmp_path / "out",
        } | changes
        return ["real", *as_arguments(options), "--no-figures"]

    return arguments


@pytest.fixture
def searching(model_folder: Path, fitting_sae_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return the arguments of a short search that works, with what a test changes, as ``typed`` does."""

    def arguments(*extra: str, **changes: object) -> list[str]:
        options = {
            "model": model_folder,
            "sae": fitting_sae_folder,
            "features": "0-4",
            "seq_len": 4,
            "budget": 600,
            "n_steps": 2,
            "batch_size": 2,
            "output": tmp_path / "out",
        } | changes
        return ["synthetic", *as_arguments(options), "--no-figures", *extra]

    return arguments


@pytest.fixture(scope="module")
def site(bos_model: LanguageModel, sae_folder: Path) -> Site:
    return attach(load_sae(sae_folder), bos_model)


@pytest.fixture(scope="module")
def vocabulary(bos_model: LanguageModel) -> Vocabulary:
    return Vocabulary(bos_model.tokens, bos_model.d_vocab)


@pytest.fixture(scope="module")
def result(site: Site) -> AnalysisResult:
    return synthesize(site, parse_features(FEATURES), SHORT)


@pytest.fixture(scope="module")
def real(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AnalysisResult:
    (path := tmp_path_factory.mktemp("text") / "corpus.json").write_text(json.dumps(TEXTS * 2))
    settings = RealSettings(windowing=Windowing(seq_len=24), allow_poor_fit=True)
    return analyze(site, parse_features("all"), Corpus(source=path), settings)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FeatureStats]:
    """Return a function that reports what a search is said to have found."""

    def report(site, feature, searched, settings=SHORT, *, single_token=(50,), real=None):
        monkeypatch.setattr(Search, "run", lambda *_: {feature: searched})
        monkeypatch.setattr(SingleTokens, "best", lambda *_: single_token)
        return synthesize(site, parse_features(str(feature)), settings, real=real).features[0]

    return report
