"""What the documentation says in code, run."""

import re
from dataclasses import fields
from pathlib import Path

import record_factory as make
import torch
from safetensors.torch import save_file

from sae_analysis import sae_formats
from sae_analysis.comparison import compare
from sae_analysis.records import Comparison, Likeness
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.visualizer import (
    comparison_page,
    comparison_pages,
    feature_comparison_page,
    feature_page,
    panels,
    search_page,
    statistics_page,
    synthetic_panels,
)
from sae_analysis.visualizer.columns import Column

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


CALLED = {
    "Llama Scope R1": "its R1 successor",
    "circuit-tracer transcoder": "circuit-tracer",
    "ReLU SAE (Neel Nanda's layout)": "Neel Nanda's one-layer SAEs",
}
"""What the page on formats calls a layout, where it is not its name."""


def test_the_page_on_formats_names_every_layout():
    page = (DOCS / "formats.md").read_text()
    for family in sae_formats._FAMILIES:
        for layout in family.LAYOUTS:
            named = layout.name.removeprefix("dictionary_learning ").removeprefix("SAELens ")
            assert re.search(rf"\b{re.escape(CALLED.get(named, named))}\b", page), layout.name


def test_the_page_on_figures_explains_every_panel_and_number(monkeypatch):
    titles, pairs = set(), [make.comparison_pair(), make.comparison_pair(synthetic_is_dead=True)]
    set_heading = Column.heading
    monkeypatch.setattr(
        Column, "heading", lambda column, title, says="": titles.add(title) or set_heading(column, title, says)
    )
    compared = compare(*make.results_of(pairs)).features
    real, synthetic = zip(*pairs, strict=True)
    for stats in (*real, *synthetic, make.dead_stats()):
        feature_page(stats)
    for one in compared:
        feature_comparison_page(one, real[one.feature_idx], synthetic[one.feature_idx])
    statistics_page(make.dictionary(), {})
    search_page(dict(enumerate(synthetic)))
    comparison_page(compared, 1000)
    assert len(titles) > 20
    facts = [*panels.facts_on_text(real[0]), *panels.facts_of_weights(real[0]), *comparison_pages._facts(compared[0])]
    facts += synthetic_panels.facts_of_search(synthetic[0], synthetic[0].search)
    notes = {match.group() for *_, note in facts if (match := re.match("[a-z][a-z .-]*[a-z.]", note))}
    labels = titles | notes | {name for name, *_ in facts} | {*comparison_pages._COLUMNS}
    page = " ".join((DOCS / "figures.md").read_text().lower().split())
    assert {label for label in labels if label.lower() not in page} == set()


def test_the_page_on_comparing_names_every_field_of_a_feature():
    page = (DOCS / "comparison.md").read_text()
    names = [one.name for record in (Comparison, Likeness) for one in fields(record) if one.name != "likeness"]
    assert [name for name in names if not re.search(rf"`(likeness\.)?{name}`", page)] == []
