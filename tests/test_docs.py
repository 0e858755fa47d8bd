"""What the documentation says in code, run."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from sae_analysis import sae_formats
from sae_analysis.sae_formats.checkpoint import Checkpoint

DOCS = Path(__file__).resolve().parents[1] / "docs"


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_the_reader_on_the_page_reads_and_the_module_on_the_page_is_wrapped(tmp_path):
    blocks = python_blocks("adding_an_architecture.md")
    assert len(blocks) == 2
    names = {}
    exec("\n".join(blocks), names)  # our own page, and as its reader would type it
    weights = {"enc.weight": torch.randn(7, 4), "enc.bias": torch.randn(7), "dec.weight": torch.randn(4, 7)}
    weights |= {"dec.bias": torch.randn(4), "shift": torch.rand(7)}
    save_file(weights, tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text('{"library": "mine", "hook": "blocks.1.hook_mlp_out"}')
    sae = names["read"](Checkpoint.open(tmp_path))
    x = torch.randn(5, 4)
    expected = (x @ weights["enc.weight"].T + weights["enc.bias"] - weights["shift"]).relu()
    torch.testing.assert_close(sae.encode(x).sparse_features, expected)
    torch.testing.assert_close(sae.decode(expected), expected @ weights["dec.weight"].T + weights["dec.bias"])
    assert (sae.origin.hook, sae.is_separable) == ("blocks.1.hook_mlp_out", True)
    alone = sae.encoder_of([2, 5])(x)
    assert set(alone.feature.tolist()) <= {2, 5}


def test_the_page_on_formats_names_every_layout():
    page = (DOCS / "formats.md").read_text().lower()
    for family in sae_formats._FAMILIES:
        for layout in family.LAYOUTS:
            named = layout.name.lower().removeprefix("dictionary_learning ").removeprefix("saelens ")
            words = named.replace("(", " ").replace(")", " ").split()
            assert any(word in page for word in (named, *words)), layout.name
