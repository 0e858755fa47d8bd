"""How fast ``real`` is, against what a user could run instead and against the limit of the machine.

    python benchmarks/real.py --results real.jsonl --opponents PYTHON [--cases topk-16384-128 …] [--write]

``PYTHON`` is the interpreter of an environment with sae-dashboard 0.8.0 and TransformerLens below 4. The subject is of
the shape of gelu-1l, with random weights (benchmarks/real_subject.py): 512 contexts of 128 tokens, BOS included. Every
measurement is a process of its own, and rounds go through all contenders, so that what else the machine does hits all
alike. Loading is not counted. Finished measurements are kept in the results file; ``--write`` puts the table into
docs/benchmarks.md.

    python benchmarks/real.py --cases demo-128 given-128 --model FOLDER --sae FOLDER --corpus FILE

Cases ``demo-…`` read as many tokens with the demo's model and SAE, ``given-…`` with those that are given. Opponents are
left out there: they read neither these models' files nor these SAEs' format.

The limit is the model's forward pass to the hook, the encoder's product in float32 and one top-k (or one comparison
with the thresholds), each with nothing around it and in the best of a few batch sizes; where few features are asked
for of an SAE whose features do not depend on each other, the product with these alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import real_subject
import torch
from peak import peak_mib
from synthetic_table import put_between

if TYPE_CHECKING:
    from sae_analysis.corpus import TokenBatch, TokenStream

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
CASES = (
    "topk-16384-16",
    "topk-16384-128",
    "topk-16384-all",
    "jumprelu-16384-16",
    "jumprelu-16384-128",
    "jumprelu-16384-all",
    "topk-65536-128",
    "topk-65536-all",
)
BUILT = ("topk", "jumprelu")
"""How cases of the shape of gelu-1l begin."""
OTHERS = tuple(f"{which}-{features}" for which in ("demo", "given") for features in ("16", "128", "all"))
OURS, DENSE, LIMIT = "ours", "ours, dense", "limit"
OPPONENTS = ("SAEDashboard", "dense loop")
SUBJECT = Path(tempfile.gettempdir()) / "sae-analysis-benchmark"
BATCHES = (8, 16, 32)
FIT_TOKENS = 4096
"""Tokens on which all features are measured where few are asked for: others measure none."""
TOKENS = real_subject.CONTEXTS * real_subject.LENGTH


class Subject(NamedTuple):
    """What a case is measured on, as the library loads it."""

    model: str
    sae: Path
    corpus: Path


def built(folder: Path, sae: Path) -> Subject:
    """Return the shape of gelu-1l with an SAE of it."""
    return Subject("gelu-1l", sae, folder / "text.jsonl")


def subject_of(case: str, options: argparse.Namespace) -> Subject:
    """Return what a case is measured on."""
    from sae_analysis import demo

    which = case.split("-", maxsplit=1)[0]
    if which in BUILT:
        return built(options.subject, options.subject / case.rpartition("-")[0])
    if which == "demo":
        return Subject(str(demo.default_model_folder()), demo.default_sae_path(), demo.default_corpus_folder())
    return Subject(options.model, options.sae, options.corpus)


def measure(contender: str, case: str, options: argparse.Namespace) -> dict[str, float]:
    """Run a contender once, in a process of its own."""
    if contender in OPPONENTS:
        rule, width, features = case.split("-")
        sae = options.subject / f"{rule}-{width}"
        script = Path(__file__).with_name("real_opponents.py")
        command = [options.opponents, script, contender, options.subject, sae, features, options.threads]
    else:
        command = [sys.executable, __file__, "--child", contender, case, *_shared(options)]
    environment = os.environ | _hub(options.subject) if case.startswith(BUILT) else None
    printed = subprocess.check_output(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL, text=True)
    return json.loads(printed.splitlines()[-1])


def _shared(options: argparse.Namespace) -> list[str]:
    given = {"--model": options.model, "--sae": options.sae, "--corpus": options.corpus}
    named = [str(part) for name, value in given.items() if value for part in (name, value)]
    return ["--subject", str(options.subject), "--threads", str(options.threads), *named]


def _hub(folder: Path) -> dict[str, str]:
    return {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}


# --- in a process of its own ---------------------------------------------------------------------------------------


def child(contender: str, case: str, options: argparse.Namespace) -> None:
    """Measure one of ours, and print it."""
    from sae_analysis.machine import prepare

    prepare(options.threads)
    subject, features = subject_of(case, options), case.rsplit("-", maxsplit=1)[-1]
    if contender == LIMIT:
        found = limit(subject, features)
    else:
        found = ours(subject, features, encoder="dense" if contender == DENSE else "auto")
    found["peak_mib"] = round(peak_mib())
    print(json.dumps(found))


def ours(
    subject: Subject, features: str, *, encoder: Literal["auto", "dense"] = "auto", tokens: int = TOKENS
) -> dict[str, Any]:
    """Run the analysis as the library runs it: from text to the statistics of every feature asked for.

    All features are a survey: one of them in full, a row of a table for each.
    """
    from sae_analysis.corpus import Corpus, Windowing
    from sae_analysis.exports import FeatureTable
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.language_model import load_model
    from sae_analysis.real_activations import RealSettings, analyze
    from sae_analysis.reconstruction import attach
    from sae_analysis.records import AnalysisResult
    from sae_analysis.sae_formats import load_sae

    site = attach(load_sae(subject.sae), load_model(subject.model, device="cpu"), None)
    corpus = Corpus(source=subject.corpus)

    def run(spec: str, tokens: int, table: FeatureTable | None = None) -> tuple[float, AnalysisResult]:
        settings = RealSettings(
            windowing=Windowing(seq_len=real_subject.LENGTH, max_tokens=tokens),
            dictionary_tokens=FIT_TOKENS,
            encoder=encoder,
            firings=0,
            allow_poor_fit=True,
        )
        read = begin = time.perf_counter()

        def progress(*_: int | None) -> None:
            nonlocal read
            read = time.perf_counter()

        add = table.add if table else None
        result = analyze(site, parse_features(spec), corpus, settings, progress=progress, survey=add)
        if table:
            table.finish(result.provenance)
        return read - begin, result

    run("0", 4 * real_subject.LENGTH)  # what is slow once
    begin = time.perf_counter()
    if features == "all":
        reading, result = run("0", tokens, FeatureTable())
    else:
        reading, result = run(f"random:{features}", tokens)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "reading": reading,
        "encoder": result.provenance.options["encoder"],
        "tokens": result.fit.token_count if result.fit else 0,
        "width": site.sae.dict_size,
        "about": f"{Path(subject.model).name}, {site.sae.rule_name}",
    }


def limit(subject: Subject, features: str) -> dict[str, Any]:
    """Return the seconds of the bare forward pass, product and selection, all tokens at the best batch size."""
    from sae_analysis import products
    from sae_analysis.corpus import Corpus, TokenStream, Windowing
    from sae_analysis.language_model import load_model
    from sae_analysis.reconstruction import attach
    from sae_analysis.sae_formats import load_sae

    site = attach(load_sae(subject.sae), load_model(subject.model, device="cpu"), None)
    sae, corpus = site.sae, Corpus(source=subject.corpus)
    few = int(features) if features != "all" and sae.k is None else sae.dict_size
    weights, bias = sae.encoder_weights[:, :few].contiguous(), torch.zeros(few)
    rows = weights.T.contiguous()

    def seconds_of(work: Callable[[Any], object], batches: Iterable[Any]) -> float:
        first, *rest = batches
        work(first)
        begin = time.perf_counter()
        for batch in (first, *rest):
            work(batch)
        return time.perf_counter() - begin

    def stream(size: int) -> "TokenStream":
        windowing = Windowing(seq_len=real_subject.LENGTH, batch_size=size, max_tokens=TOKENS)
        return TokenStream(corpus, site.model.tokens, windowing, prepend_bos=site.prepend_bos)

    def forward(batch: "TokenBatch") -> torch.Tensor:
        return site.model.activations(batch.ids, site.hook)

    def product(x: torch.Tensor) -> None:
        torch.addmm(bias, x, weights, out=out[: len(x)])

    def fast_product(x: torch.Tensor) -> None:
        products.product(x, rows, bias)

    def select(x: torch.Tensor) -> object:
        values = out[: len(x)]
        return (values > 1.0).any() if sae.k is None else values.topk(sae.k, dim=1)

    tried: dict[str, list[float]] = {"forward": [], "product": [], "selection": []}
    with torch.inference_mode():
        kept = [forward(one)[:, one.bos_columns :][torch.from_numpy(one.windows.keep)] for one in stream(16)]
        x = torch.cat(kept)
        for size in BATCHES:
            parts = x.split(size * real_subject.LENGTH)
            out = torch.zeros(len(parts[0]), few)
            tried["forward"].append(seconds_of(forward, stream(size)))
            tried["product"].append(min(seconds_of(product, parts), seconds_of(fast_product, parts)))
            tried["selection"].append(seconds_of(select, parts))
    best = {name: min(seconds) for name, seconds in tried.items()}
    return {"seconds": sum(best.values()), **best, "tokens": len(x)}


# --- the table -----------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], threads: int) -> str:
    """Return a table for each case, medians over rounds."""
    said = [
        "Unless a model is named, shape of gelu-1l (d_model 512, one block, vocabulary 48,262), random weights. "
        f"{TOKENS:,} tokens; {threads} threads, float32; medians over rounds, with the lowest and the highest. Of "
        "ours, *reading* is the pass over the text, and the rest the report (logit effects, nearest features, examples "
        "as text)."
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        tokens, name, width = TOKENS, *_about(case, of_case)
        features = case.split("-")[-1]
        number = width if features == "all" else int(features)
        rounds = max(row["round"] for row in of_case) + 1
        times = f"{rounds} rounds" if rounds > 1 else "one round"
        said += ["", f"**{name}, {width:,} features, {features} asked for** ({times})", ""]
        said += ["| | seconds | tokens/s | feature-tokens/s | peak MiB | against ours |", "|---|---|---|---|---|---|"]
        said += _case_rows(of_case, tokens, number)
    return "\n".join(said)


def _about(case: str, rows: list[dict[str, Any]]) -> tuple[str, int]:
    """Return what a case is called, and how many features there are."""
    if not case.startswith(BUILT):
        return next((row["about"], row["width"]) for row in rows if "about" in row)
    rule, width, _ = case.split("-")
    return f"TopK(k={real_subject.K})" if rule == "topk" else "JumpReLU", int(width)


def _case_rows(rows: list[dict[str, Any]], tokens: int, number: int) -> Iterator[str]:
    by_name = {name: [row for row in rows if row["contender"] == name] for name in (OURS, DENSE, *OPPONENTS, LIMIT)}
    ours_by_round = {row["round"]: row["seconds"] for row in by_name[OURS]}
    for name, found in by_name.items():
        if not found:
            continue
        seconds = [row["seconds"] for row in found]
        middle = statistics.median(seconds)
        ratio = statistics.median(row["seconds"] / ours_by_round[row["round"]] for row in found)
        parts = [key for key in ("reading", "forward", "product", "selection") if key in found[0]]
        inner = ", ".join(f"{key} {statistics.median(row[key] for row in found):.2f}" for key in parts)
        cells = [
            name + (f" ({found[0]['encoder']})" if "encoder" in found[0] else ""),
            f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f})" + (f"; {inner}" if inner else ""),
            f"{tokens / middle:,.0f}",
            f"{tokens * number / middle / 1e6:,.2f} M",
            f"{max(row['peak_mib'] for row in found):,}",
            f"{ratio:.2f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Go through the rounds, and print the table."""
    options = _options()
    if options.child:
        contender, case = options.child
        child(contender, case, options)
        return
    done = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    if not options.report:
        parts = (case.split("-") for case in options.cases if case.startswith(BUILT))
        if saes := [(rule, int(width), real_subject.K) for rule, width, _ in parts]:
            prepare_subject(options.subject, saes)
        known = {(row["case"], row["contender"], row["round"]) for row in done}
        contenders = options.contenders or (OURS, DENSE, *(OPPONENTS if options.opponents else ()), LIMIT)
        with options.results.open("a") as results:
            for number in range(options.rounds):
                for case in options.cases:
                    for contender in contenders:
                        # All features take them hours, since they read the text 64 times.
                        is_out = contender in OPPONENTS and (case.endswith("all") or not case.startswith(BUILT))
                        if (case, contender, number) in known or is_out:
                            continue
                        found = measure(contender, case, options)
                        done.append({"case": case, "contender": contender, "round": number, **found})
                        print(json.dumps(done[-1]), file=results, flush=True)
    written = table(done, options.threads)
    print(written)
    if options.write:
        PAGE.write_text(put_between(PAGE.read_text(), "real", written))


def prepare_subject(subject: Path, saes: Iterable[tuple[str, int, int]]) -> None:
    """Write the subject's files, in this process, and SAEs of these rules, widths and k, as far as they are missing."""
    os.environ |= {"HF_HOME": str(subject), "HF_HUB_OFFLINE": "1"}  # before the hub's client is imported
    subject.mkdir(parents=True, exist_ok=True)
    real_subject.build(subject)
    from sae_analysis.language_model import load_model

    model = load_model("gelu-1l", device="cpu")
    ids = torch.from_numpy(np.load(subject / "tokens.npy"))[:16]
    with torch.inference_mode():
        x = model.activations(ids, real_subject.HOOK)[:, 1:].flatten(0, 1)
    for rule, width, k in dict.fromkeys(saes):
        real_subject.build_sae(subject, rule, width, x, k)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("real.jsonl"), help="measurements, made or gone on with")
    parser.add_argument("--subject", type=Path, default=SUBJECT)
    parser.add_argument("--opponents", help="interpreter of the opponents' environment (default: ours and the limit)")
    parser.add_argument("--cases", nargs="+", choices=(*CASES, *OTHERS), default=CASES)
    parser.add_argument("--model", help="model of cases given-…")
    parser.add_argument("--sae", type=Path, help="SAE of cases given-…")
    parser.add_argument("--corpus", type=Path, help="text of cases given-…")
    parser.add_argument("--contenders", nargs="+", choices=(OURS, DENSE, *OPPONENTS, LIMIT), help="these only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
