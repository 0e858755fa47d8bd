"""The texts the demo SAE is trained and measured on: reading, the held-out split, and windows of tokens.

Used by train_sae.py and evaluate_sae.py, so that both mean the same by "document", "held out" and "window".
Texts are read as their packages unpack; see train_sae.py for the package names and versions.
"""

import html
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_analysis.demo import HELD_OUT_EVERY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW_TOKENS = 128
"""Length of a context window; documents are cut, never joined, and the shorter rest of each is kept."""

GLOSSES_PER_DOCUMENT = 40
"""WordNet has one line per meaning; so many of them in a row make one document."""


def sotu_documents(folder: Path) -> list[str]:
    """State of the Union addresses, one text per file of ``folder``, in the order of the file names."""
    return [path.read_text(encoding="utf-8") for path in _files(folder, "*.txt")]


def factbook_documents(folder: Path) -> list[str]:
    """World Factbook profiles, ``folder/<region>/<code>.json``, each one text of ``Field: value`` lines."""
    paths = [path for path in _files(folder, "*/*.json") if path.parent.name != "meta"]
    return [_profile_text(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def wordnet_documents(folder: Path, *, seed: int) -> list[str]:
    """Lines of ``word: gloss`` from WordNet's ``data.*`` files, in runs that keep related meanings together.

    The runs come shuffled by ``seed``, so that any first part of the list is a fair sample of all meanings.
    """
    lines = [line for path in _files(folder, "data.*") for line in _gloss_lines(path)]
    starts = range(0, len(lines), GLOSSES_PER_DOCUMENT)
    runs = [lines[start : start + GLOSSES_PER_DOCUMENT] for start in starts]
    random.Random(seed).shuffle(runs)
    return ["\n".join(run) for run in runs]


def split(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training documents and held-out documents, by position alone (see HELD_OUT_EVERY)."""
    held_out = list(documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    train = [text for position, text in enumerate(documents, start=1) if position % HELD_OUT_EVERY]
    return train, held_out


def windows(tokenizer: "PreTrainedTokenizerBase", documents: Sequence[str]) -> list[list[int]]:
    """Token ids of every window of every document; no special tokens, no window across two documents."""
    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    return [ids[at : at + WINDOW_TOKENS] for ids in encoded for at in range(0, len(ids), WINDOW_TOKENS)]


def _files(folder: Path, pattern: str) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"{folder}: expected files {pattern}, found none; train_sae.py says where from")
    return paths


def _gloss_lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        fields, bar, gloss = line.partition(" | ")
        if bar and not line.startswith(" "):  # the licence text at the top of each file is indented
            yield f"{fields.split(' ')[4].replace('_', ' ')}: {gloss.strip()}"


def _profile_text(profile: dict[str, Any]) -> str:
    naming = profile.get("Government", {}).get("Country name", {})
    name = naming.get("conventional short form", {}).get("text", "")
    lines = [_plain(name)] if name else []
    for section, fields in profile.items():
        lines.extend(_section_lines(section, fields))
    return "\n".join(lines)


def _section_lines(section: str, fields: dict[str, Any]) -> Iterator[str]:
    yield f"\n{_plain(section)}"
    for field, value in fields.items():
        yield from _value_lines(_plain(field), value)


def _value_lines(label: str, value: object) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{label}: {_plain(str(value))}"
        return
    for name, inner in value.items():
        yield from _value_lines(label if name == "text" else f"{label}, {_plain(name).rstrip(':')}", inner)


def _plain(text: str) -> str:
    """Text without mark-up; ``++`` is how the profiles join paragraphs."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(text)).replace("++", " ").split())
