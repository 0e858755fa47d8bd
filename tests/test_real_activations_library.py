"""``analyze_real_activations`` as a library has it: what it takes, what it gives back, what goes where."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import record_factory as make
import torch
from conftest import D_SAE, TEXTS, topk_weights
from small_saes import interface

from sae_analysis import real_activations, subject
from sae_analysis.artifacts import read_result, write_result
from sae_analysis.corpus import Corpus, Document, Windowing
from sae_analysis.errors import CorpusError, ModelError
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import LanguageModel
from sae_analysis.real_activations import RealSettings, analyze, analyze_real_activations
from sae_analysis.reconstruction import attach
from sae_analysis.sae_interface import (
    JumpReLU,
    UnifiedSAEInterface,
)
from sae_analysis.visualizer import visualize_features

SHORT = RealSettings(windowing=Windowing(seq_len=24, batch_size=4), max_examples=6)
ALWAYS = replace(SHORT, allow_poor_fit=True)


def test_the_library_function_takes_paths_objects_and_documents(
    model: LanguageModel, model_folder: Path, sae: UnifiedSAEInterface, sae_folder: Path, corpus_file: Path
) -> None:
    documents = [
        Document(name=f"corpus.jsonl#{n}", text=json.loads(line)["text"])
        for n, line in enumerate(corpus_file.read_text().splitlines(), start=1)
    ]
    by_path = analyze_real_activations(str(sae_folder), str(model_folder), "2,1", corpus_file, settings=SHORT)
    by_object = analyze_real_activations(sae, model, [2, 1], documents, settings=SHORT)
    assert analyze_real_activations(sae, model, [2, 1], [corpus_file], settings=SHORT) == by_object
    by_module = analyze_real_activations(
        sae.model, model, [2, 1], documents, settings=SHORT, hook="blocks.1.hook_resid_post"
    )
    assert list(by_path) == [2, 1]
    assert by_path == by_object == by_module


def test_what_the_library_function_returns_knows_the_whole_analysis(
    model: LanguageModel, sae: UnifiedSAEInterface, corpus_file: Path, tmp_path: Path
) -> None:
    results = analyze_real_activations(sae, model, [2, 1], corpus_file, settings=SHORT)
    write_result(results, tmp_path / "real.json")
    whole = read_result(tmp_path / "real.json")
    assert (whole, whole.by_feature()) == (results.result, results)
    assert whole.fit == analyze(attach(sae, model), parse_features("2,1"), Corpus(source=corpus_file), SHORT).fit
    pages = visualize_features(results, tmp_path)
    assert [page.stem for page in pages] == ["feature_2_real", "feature_1_real", "summary_1_real", "statistics_real"]
    centred = analyze_real_activations(sae, model, [2, 1], corpus_file, center_residual="on", settings=SHORT)
    assert centred != results


def test_an_sae_that_names_no_hook_and_fits_nowhere_needs_to_be_given_one(
    model: LanguageModel, corpus_file: Path
) -> None:
    eye = torch.eye(16)
    weights = topk_weights() | {"encoder.weight": torch.cat((eye, -eye, eye[:16]))}
    unnamed = interface(weights, rule=JumpReLU(torch.linspace(0.1, 0.6, D_SAE)))
    with pytest.raises(ModelError, match=r"fits no place of"):
        analyze_real_activations(unnamed, model, [1], corpus_file, settings=ALWAYS)
    stats = analyze_real_activations(unnamed, model, [1], corpus_file, hook="blocks.0.hook_resid_post", settings=ALWAYS)
    assert stats[1].token_count > 0


def test_every_option_of_the_library_function_goes_where_it_belongs(monkeypatch, sae, model):
    asked = {}

    def taking(name, answer):
        return lambda *given, **named: asked.update({name: (given, named)}) or answer

    monkeypatch.setattr(real_activations, "attach", taking("place", "the site"))
    monkeypatch.setattr(real_activations, "analyze", taking("reading", make.result()))
    settings, documents = replace(SHORT, bos="never"), [Document(name="one", text=TEXTS[0])]
    options = {"hook": "reads", "hook_out": "writes", "center_residual": "on", "vsae_sign": "signed"}
    analyze_real_activations(sae, model, "3,17", documents, **options, settings=settings, progress=print)
    expected = {"hook_out": "writes", "centre": "on", "sign": "signed", "documents": documents}
    assert asked["place"] == ((sae, model, "reads", "never"), expected)
    assert asked["reading"] == (("the site", parse_features("3,17"), documents, settings), {"progress": print})


def test_demo_is_a_name_for_the_text_from_python_too(monkeypatch, sae, model, corpus_file):
    monkeypatch.setattr(real_activations, "default_corpus", lambda: (corpus_file,))
    found = analyze_real_activations(sae, model, [1], "demo", settings=SHORT)
    assert found == analyze_real_activations(sae, model, [1], corpus_file, settings=SHORT)


@pytest.mark.parametrize("corpus", [["a text", "another"], [Path("a.txt"), "b.txt"], [3]])
def test_what_is_no_document_is_refused(sae, model, corpus):
    with pytest.raises(CorpusError) as caught:
        analyze_real_activations(sae, model, [1], corpus)
    kind = next(type(one).__name__ for one in corpus if isinstance(one, (str, int)))
    assert str(caught.value).startswith(f"The corpus holds a {kind} where documents are expected: give each text as ")


def test_sae_and_model_may_be_paths(model_folder, sae_folder):
    sae, model, _ = subject.open_subject(sae_folder, model_folder, "1")
    assert (sae.dict_size, model.name) == (D_SAE, str(model_folder))


def test_demo_is_a_name_for_model_and_sae_from_python_too(monkeypatch, model_folder, sae_folder):
    monkeypatch.setattr(subject, "default_model_folder", lambda: model_folder)
    monkeypatch.setattr(subject, "default_sae_path", lambda: sae_folder)
    sae, model, _ = subject.open_subject("demo", "demo", "1")
    assert (sae.dict_size, model.name) == (D_SAE, str(model_folder))
