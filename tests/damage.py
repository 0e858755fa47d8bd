"""Whole files of every kind that is read, and ways to damage them, for ``test_fuzzing.py`` and ``fuzz.py``.

Bytes that are changed at random mostly break a checksum or a bracket, and are refused by the first line that looks at
them. So containers are taken apart, something inside is damaged, and they are put together again as if it were meant.
"""

import hashlib
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import record_factory as make
import torch
from checkpoint_factory import (
    circuit_tracer,
    dictionary_learning,
    free_keys,
    gemma_scope_2,
    legacy,
    linear_keys,
    llama_scope_r1,
    neel,
    nested_yaml,
    plain,
    saelens,
    selecting_keys,
    sparsify,
)
from safetensors.torch import save

from sae_analysis.artifacts import read_any, write_result
from sae_analysis.corpus import Corpus
from sae_analysis.exports import FORMATS, export
from sae_analysis.feature_selection import parse_features
from sae_analysis.inspection import describe, inspect_sae
from sae_analysis.parts import Part, Storage
from sae_analysis.records import ComparisonResult
from sae_analysis.sae_formats import load_sae

# --- damage --------------------------------------------------------------------------------------------------------

Damage = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1)
_TOKENS = (
    *(b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"1" * 40, b"null", b"true", b'""', b"[]", b"{}", b"[[[[", b"]}"),
    *(b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\r\n", b",", b":", b"'", b"#", b"\\"),
)


def of_bytes(content: bytes, chance: Random) -> bytes:
    """Change a byte, a bit, a number or a stretch somewhere."""
    if not content:
        return chance.randbytes(chance.randint(0, 8))
    here, there = sorted(chance.randint(0, len(content)) for _ in range(2))
    at = chance.choice((chance.randrange(len(content)), chance.randrange(max(0, len(content) - 400), len(content))))
    length = chance.choice((1, 2, 4, 8))
    number = chance.choice(_NUMBERS).to_bytes(16, chance.choice(("little", "big")), signed=True)
    part = number[:length] if number[-1] in (0, 255) else number[-length:]
    some = chance.choice((1, 4, 64, len(content)))
    middle = (here + there) // 2
    changes = (
        lambda: content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :],
        lambda: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        lambda: content[:at] + part + content[at + length :],
        lambda: content[:at],
        lambda: content[:here] + content[min(there, here + some) :],
        lambda: content[:at] + content[here : min(there, here + 64)] + content[at:],
        lambda: content[:at] + chance.choice(_TOKENS) + content[at:],
        lambda: content[:at] + chance.choice(_TOKENS) + content[at + length :],
        lambda: content[:here] + content[middle:there] + content[here:middle] + content[there:],
    )
    return chance.choice(changes)()


def of_text(content: bytes, chance: Random) -> bytes:
    """Put another number or word in the place of one: what stands between two marks."""
    marks = [place for place, byte in enumerate(content[:20_000]) if byte in b' ,:;[](){}"\n-']
    if len(marks) < 2:
        return of_bytes(content, chance)
    which = chance.randrange(len(marks) - 1)
    return content[: marks[which] + 1] + chance.choice(_TOKENS) + content[marks[which + 1] :]


def of_json(content: bytes, chance: Random) -> bytes:
    """Put another value in the place of one."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return of_text(content, chance)
    root = place = [whole]
    key: Any = 0
    while isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.9:
        place = place[key]
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
    inside = place[key]
    if isinstance(inside, (int, float)) and not isinstance(inside, bool) and chance.random() < 0.5:
        place[key] = chance.choice(
            (-inside, inside + 1, float(inside) * 1e9 if abs(inside) < 1e300 else 0, 0, 1 << 62, 1 << 70, 1e-320, 0.5)
        )
    elif isinstance(inside, list) and inside and chance.random() < 0.5:
        place[key] = chance.choice((inside[1:], inside + inside[:1], inside[::-1]))
    elif chance.random() < 0.2 and isinstance(place, dict):
        del place[key]
    else:
        values = (None, 3, -7, 0.5, "x", "", "\ud800", "<script>", [], {}, [[1]], True, {"edges": 2}, "9" * 400)
        place[key] = chance.choice(values)
    return json.dumps(root[0]).encode()


def of_zip(content: bytes, chance: Random) -> bytes:
    """Damage one member and put the archive together with checksums that are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [
                (entry.filename, archive.read(entry)) for entry in archive.infolist() if entry.file_size < 1 << 20
            ]
    except Exception:
        return of_bytes(content, chance)
    if not members:
        return of_bytes(content, chance)
    which = chance.randrange(len(members)) if chance.random() < 0.3 else 0
    name, inside = members[which]
    kind = chance.randrange(8)
    if kind == 0:
        members.pop(which)
    elif kind == 1:
        members.append((chance.choice(members)[0], chance.choice(members)[1]))
    elif kind == 2:
        members[which] = (chance.choice(("/etc/passwd", "../x", "archive/data.pkl", "", f"{name}x")), inside)
    else:
        members[which] = (name, chance.choice((of_bytes, of_text))(inside, chance))
    how = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", how) as archive:  # a name given twice
        for member, inner in members:
            archive.writestr(zipfile.ZipInfo(member), inner, how)
    return buffer.getvalue()


def of_safetensors(content: bytes, chance: Random) -> bytes:
    """Damage the header and give its new length."""
    if len(content) < 8 or not 0 < (length := struct.unpack("<Q", content[:8])[0]) <= len(content) - 8:
        return of_bytes(content, chance)
    header = chance.choice((of_json, of_text, of_bytes))(content[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def of_lines(content: bytes, chance: Random) -> bytes:
    """Damage one line of JSON."""
    lines = content.split(b"\n")
    which = chance.randrange(len(lines))
    lines[which] = chance.choice((of_json, of_text, of_bytes))(lines[which], chance)
    return b"\n".join(lines)


def of_part(content: bytes, chance: Random) -> bytes:
    """Damage what stands behind the checksum, and give it one that is right."""
    inside = of_zip(content[32:], chance)
    return hashlib.sha256(inside).digest() + inside


# --- whole files ---------------------------------------------------------------------------------------------------


def _weights() -> list[dict[str, torch.Tensor]]:
    p = plain(4, 6)
    neel = free_keys(p)
    gemma = free_keys(p) | {"threshold": p.threshold}
    found = [selecting_keys(p, 2), neel, gemma, linear_keys(p, "bias")]
    return [
        {key: value.float().contiguous() if value.is_floating_point() else value for key, value in one.items()}
        for one in found
    ]


def _saved(content: object) -> bytes:
    torch.save(content, buffer := io.BytesIO())
    return buffer.getvalue()


def _checkpoints() -> list[bytes]:
    weights = _weights()
    backup = {"ae": weights[3], "norm_factor": 2.5, "step": 7}
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights[0].items()}
    openai = {"activation": "TopK", "activation_state_dict": {"k": 2}, "pre_bias": torch.ones(4)}
    return [*map(_saved, (*weights, backup, half, openai)), legacy(weights[0])]


def _safetensors() -> list[bytes]:
    return [save(one) for one in _weights()]


def _npz() -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        write(buffer := io.BytesIO(), **{key: value.numpy() for key, value in _weights()[2].items()})
        found.append(buffer.getvalue())
    return found


def _part() -> list[bytes]:
    arrays = {"chunks": np.arange(3), "names": np.array(["Über", "你好"]), "values": np.ones((4, 5), np.float32)}
    with TemporaryDirectory() as folder:
        Storage(folder).write("a.part", Part(header={"fingerprint": "f" * 64}, arrays=arrays))
        return [(Path(folder) / "a.part").read_bytes()]


def _parquet() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    texts = ["one", "two words", None, "Über 你好 " * 20, ""] * 9
    whole = [text or "" for text in texts]
    columns = [
        pa.array(whole),
        pa.array(whole, pa.large_string()),
        pa.array(whole).dictionary_encode(),
        pa.array(texts),
        pa.array([[text] for text in whole]),
        pa.array([{"text": text, "n": 3} for text in whole]),
        pa.array([text.encode() for text in whole]),
    ]
    found = []
    for number, column in enumerate(columns):
        codec = ("snappy", "zstd", "gzip", "none")[number % 4]
        table = pa.table({"text": column, "other": range(len(whole))})
        parquet.write_table(table, sink := pa.BufferOutputStream(), compression=codec, row_group_size=20)
        found.append(sink.getvalue().to_pybytes())
    return found


def _results() -> list[bytes]:
    from sae_analysis.comparison import compare

    real, synthetic = make.results_of([make.comparison_pair()])
    found = []
    with TemporaryDirectory() as folder:
        for result in (real, synthetic, compare(real, synthetic), make.result([make.dead_stats(3)])):
            write_result(result, path := Path(folder) / "result.json")
            found.append(path.read_bytes())
    return found


def _text() -> list[bytes]:
    text = "One line.\n\nÜber den Wolken 你好\r\n\r\n\ttabbed \x00 and the last"
    return [
        text.encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
        b"",
        text.encode("latin-1", "replace"),
    ]


def _json_lines() -> list[bytes]:
    return [
        b'{"text": "one", "n": 3}\n"two"\n\n{"text": "\\ud83e\\udd17 \xc3\xbc"}\n',
        b'{"n": [{"text": []}], "text": ""}',
    ]


def _json_list() -> list[bytes]:
    return [b'["one", {"text": "two", "n": {"x": 1.5}}, {"text": "\\ud83e\\udd17 \xc3\xbc"}]', b"[]"]


def _features() -> list[bytes]:
    known = ("0,5,10", "0-20", "0-10,50-60", "all", "random:10", "top:10", "top:10:max", "dead:5", " 3 , 1 ", "007")
    return [text.encode() for text in known]


def _settings() -> list[bytes]:
    p, keys = plain(), free_keys(plain())
    with TemporaryDirectory() as folder:
        root = Path(folder)
        saelens(root / "a", "topk", keys, k=2, activation_fn_kwargs={"k": 2}, rescale_acts_by_decoder_norm=True)
        saelens(root / "b", "matching_pursuit", keys, max_iterations=3, residual_threshold=0.1)
        sparsify(root / "c", p)
        gemma_scope_2(root / "d", p)
        llama_scope_r1(root / "e", p)
        neel(root / "f", p)
        dictionary_learning(root / "g", "BatchTopKSAE", keys)
        circuit_tracer(root / "h", p)
        files = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".yaml"))
        return [*(path.read_bytes() for path in files), nested_yaml(2, 2).encode()]


# --- reading -------------------------------------------------------------------------------------------------------


def _read_checkpoint(path: Path) -> object:
    return list(describe(inspect_sae(load_sae(path), str(path))))


def _read_corpus(path: Path) -> object:
    for unit in ("file", "blank-line") if path.suffix == ".txt" else ("file",):
        for document in Corpus(source=path, text_unit=unit):
            document.text.encode()
    return Corpus(source=path).text_bytes


def _read_result(path: Path) -> object:
    result = read_any(path)
    folder = path.parent / "exported"
    forms = FORMATS[-1:] if isinstance(result, ComparisonResult) else FORMATS
    return [export(result, form, folder) for form in forms]


def _read_part(path: Path) -> object:
    storage = Storage(path.parent)
    return storage.header(path.name), storage.read(path.name)


def _read_features(path: Path) -> object:
    return parse_features(path.read_bytes().decode("utf-8", "surrogateescape")).before_data(1000, 0)


def _read_settings(path: Path) -> object:
    """Read a good weight file beside the configuration."""
    weights = path.with_name("sae.safetensors")
    if not weights.exists():
        weights.write_bytes(_safetensors()[1])
    return _read_checkpoint(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Something that reads files of one kind."""

    file_name: str
    whole: Callable[[], list[bytes]]
    """Files as they should be."""

    read: Callable[[Path], object]
    damage: tuple[Damage, ...]

    def damaged(self, content: bytes, chance: Random) -> bytes:
        """Damage a file in one to three ways."""
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            content = chance.choice(self.damage)(content, chance)
        return content


READERS = {
    "checkpoint-pt": Reader(
        file_name="ae.pt", whole=_checkpoints, read=_read_checkpoint, damage=(of_zip, of_zip, of_bytes)
    ),
    "checkpoint-safetensors": Reader(
        file_name="sae.safetensors", whole=_safetensors, read=_read_checkpoint, damage=(of_safetensors, of_bytes)
    ),
    "checkpoint-npz": Reader(file_name="params.npz", whole=_npz, read=_read_checkpoint, damage=(of_zip, of_bytes)),
    "settings-json": Reader(
        file_name="cfg.json", whole=_settings, read=_read_settings, damage=(of_json, of_json, of_text, of_bytes)
    ),
    "settings-yaml": Reader(file_name="config.yaml", whole=_settings, read=_read_settings, damage=(of_text, of_bytes)),
    "corpus-txt": Reader(file_name="a.txt", whole=_text, read=_read_corpus, damage=(of_bytes, of_text)),
    "corpus-jsonl": Reader(file_name="a.jsonl", whole=_json_lines, read=_read_corpus, damage=(of_lines, of_bytes)),
    "corpus-json": Reader(file_name="a.json", whole=_json_list, read=_read_corpus, damage=(of_json, of_text, of_bytes)),
    "corpus-parquet": Reader(file_name="a.parquet", whole=_parquet, read=_read_corpus, damage=(of_bytes,)),
    "part": Reader(file_name="real.part", whole=_part, read=_read_part, damage=(of_part, of_part, of_bytes)),
    "features": Reader(file_name="features", whole=_features, read=_read_features, damage=(of_text, of_bytes)),
    "results": Reader(
        file_name="real.json", whole=_results, read=_read_result, damage=(of_json, of_json, of_text, of_bytes)
    ),
}
