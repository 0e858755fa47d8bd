"""Which search finds the input that fires a feature hardest, for the same number of tokens run through the model?

    python benchmarks/synthetic.py --results small.jsonl --model MODEL --sae SAE --corpus CORPUS \
        --dreamy CHECKOUT --nanogcg WHEEL                         50 features, 3 seeds, 20 k and 100 k; 16 features, 1 M
    python benchmarks/synthetic.py --results small.jsonl --report --write      the table of what is done by now
    python benchmarks/synthetic.py --results tuned.jsonl --tune …              what the opponents' settings come from

EPO runs from a checkout of Confirm-Solutions/dreamy at 3798e46 (`git archive` of it will do), GCG from the package
nanogcg 0.3.0 (its wheel or a folder it was unpacked to: `pip download --no-deps nanogcg==0.3.0`). Model, SAE and corpus
are the demo's unless given.

Every method has the same model, SAE, features, allowed tokens, BOS, length, rule of what is text and scorer. A
token-evaluation is a token run forward, and three are one run backward too; BOS is not counted. An opponent's result is
the best of all it ever ran, cut where the budget ended; ours is what it returns, every budget in a run of its own.
Finished cells are kept in the results file, and a second call goes on from there.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic_methods import FLOORS, OPPONENTS, Circumstances, Method, tuning_grid
from synthetic_subject import Judge, Meter, Run, Trace
from synthetic_table import BEGUN, OURS, put_between, report

from sae_analysis.corpus import Corpus, Windowing
from sae_analysis.demo import default_corpus, default_model_folder, default_sae_path
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import load_model
from sae_analysis.machine import prepare
from sae_analysis.real_activations import Collected, RealSettings, analyze, collect, plan
from sae_analysis.reconstruction import Site, attach
from sae_analysis.sae_formats import load_sae
from sae_analysis.synth_activations import Evaluator, Search, SearchSettings, Vocabulary

FROM_TEXT, ALONE = OURS + BEGUN, f"{OURS}, each feature alone"
SWEEP, UNIFORM = "unigram sweep", "uniform random"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
STRATA = 5
_REAL_SEEDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one method; of ours, over many features."""

    method: str
    features: tuple[int, ...]
    seed: int
    budgets: tuple[int, ...]
    """Budgets that it answers for; the largest is spent. 0 where there is no budget."""

    def cells(self) -> list[tuple[str, int, int, int]]:
        """Return the cells that it fills."""
        return [(self.method, feature, self.seed, budget) for feature in self.features for budget in self.budgets]


# --- what is compared on -------------------------------------------------------------------------------------------


def draw(counts: Sequence[int], number: int, never: int, seed: int) -> tuple[list[int], list[int]]:
    """Return a sample of features and the rest, each in random order.

    Features that fired are cut by density into strata of equal size, and each gives as many; of those that never
    fired there are at most ``never``.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(np.array(counts), kind="stable")
    dead = rng.permutation([feature for feature in order if not counts[feature]])[:never].tolist()
    alive = [feature for feature in order.tolist() if counts[feature]]
    strata = [rng.permutation(part).tolist() for part in np.array_split(alive, STRATA)]
    turns = [stratum[turn] for turn in range(max(map(len, strata))) for stratum in strata if turn < len(stratum)]
    chosen = turns[: number - len(dead)]
    # Those that never fired stand evenly among the others, so that a shorter list has its share of them.
    for place, feature in enumerate(dead):
        chosen.insert(round((place + 0.5) * number / len(dead)), feature)
    return chosen, turns[number - len(dead) :]


def subject(options: argparse.Namespace) -> tuple[Site, Corpus]:
    """Load what is compared on."""
    prepare(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    model = load_model(options.model or str(default_model_folder()), device="cpu", dtype="float32")
    corpus = Corpus(source=options.corpus) if options.corpus else Corpus(source=default_corpus())
    return attach(
        load_sae(options.sae or default_sae_path()), model, options.hook, options.bos, documents=corpus
    ), corpus


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Read the corpus, choose the features, and say what all cells have in common."""
    site, corpus = subject(options)
    everything = RealSettings(windowing=Windowing(max_tokens=options.max_tokens), dictionary_tokens=1 << 60)
    collected = _read(site, corpus, everything)
    counts, maxima, _ = collected.dictionary.finish()
    explained = {bos: _explained(site, corpus, prepend_bos=bos) for bos in (True, False)}
    chosen, rest = draw(counts.tolist(), options.features, options.never_active, options.feature_seed)
    if options.tune:
        chosen = rest[-options.features :]  # drawn last, so that a benchmark of more features has none of them
    selection = parse_features(",".join(map(str, chosen)))
    reading = RealSettings(windowing=everything.windowing, max_examples=_REAL_SEEDS)
    real = analyze(site, selection, corpus, reading).by_feature()
    seeds = {}
    for feature in chosen:
        windows = [example.token_ids[: example.peak_position + 1] for example in real[feature].examples]
        seeds[feature] = [window[-options.seq_len :] for window in windows]
    vocabulary = Vocabulary(site.model.tokens, site.model.d_vocab)
    dead = int((counts == 0).sum())
    words = (
        f"{site.hook} of {Path(site.model.name).name}, SAE of {site.sae.dict_size:,} features ({site.sae.rule_name}), "
        f"BOS {site.bos}. Explained variance on {collected.fit.token_count:,} tokens {collected.fit.finish()[0]:.3f} "
        f"(first 50,000: {explained[True]:.3f} with BOS, {explained[False]:.3f} without). "
        f"Dataset maxima over {collected.token_count:,} tokens, on which {dead} features were never active; "
        f"{len(chosen)} features, {sum(1 for f in chosen if not counts[f])} of these among them, "
        f"drawn from {STRATA} strata of density with seed {options.feature_seed}: "
        f"{', '.join(map(str, sorted(chosen)))}. Sequences of {options.seq_len} of {len(vocabulary):,} allowed tokens "
        f"(of {site.model.d_vocab:,}); one thread, {options.processes} processes."
    )
    features = [
        {"feature": f, "density": counts[f] / collected.token_count, "maximum": float(maxima[f]), "real": seeds[f]}
        for f in chosen
    ]
    return {"subject": _identity(options, site), "words": words, "features": features}


def _explained(site: Site, corpus: Corpus, *, prepend_bos: bool) -> float:
    settings = RealSettings(windowing=Windowing(max_tokens=50_000), allow_poor_fit=True)
    return _read(replace(site, prepend_bos=prepend_bos), corpus, settings).fit.finish()[0]


def _read(site: Site, corpus: Corpus, settings: RealSettings) -> Collected:
    planned = plan(site, parse_features("0"), settings)
    return collect(planned, planned.stream(corpus))


def _identity(options: argparse.Namespace, site: Site) -> dict[str, Any]:
    """Return what must be the same for cells to belong into one file."""
    return {
        "model": site.model.fingerprint,
        "sae": site.sae.origin.sha256,
        "hook": site.hook,
        "bos": site.prepend_bos,
        "seq_len": options.seq_len,
        "feature_seed": options.feature_seed,
        "features": options.features,
        "max_tokens": options.max_tokens,
        "tune": options.tune,
    }


# --- jobs ----------------------------------------------------------------------------------------------------------


def jobs(options: argparse.Namespace, features: Sequence[int]) -> list[Job]:
    """Return all runs, the longest first."""
    long = tuple(features[: options.long_features])
    rivals = tuning_grid() if options.tune else OPPONENTS
    found = []
    for budget in options.budgets:
        for seed in range(options.seeds):
            found.append(Job(method=OURS, features=tuple(features), seed=seed, budgets=(budget,)))
        found.append(Job(method=FROM_TEXT, features=tuple(features), seed=0, budgets=(budget,)))
        found += [Job(method=ALONE, features=(feature,), seed=0, budgets=(budget,)) for feature in long]
    if options.long_budget:
        found.append(Job(method=OURS, features=long, seed=0, budgets=(options.long_budget,)))
    for feature in features:
        found.append(Job(method=SWEEP, features=(feature,), seed=0, budgets=(0,)))
        for method in (*rivals, *(name for name in FLOORS if name != SWEEP)):
            is_aside = method.endswith(BEGUN) or method == UNIFORM  # said once, and not at length
            for seed in range(1 if is_aside else options.seeds):
                is_long = options.long_budget and seed == 0 and feature in long and not is_aside
                budgets = (*options.budgets, *([options.long_budget] if is_long else []))
                found.append(Job(method=method, features=(feature,), seed=seed, budgets=budgets))
    wanted = options.methods or (rivals.keys() if options.tune else {job.method for job in found})
    return sorted((job for job in found if job.method in wanted), key=lambda job: -max(job.budgets) * len(job.features))


class Bench:
    """What a process needs to do jobs."""

    def __init__(self, options: argparse.Namespace, header: Mapping[str, Any]) -> None:
        """Load; what is loaded is then left alone by the garbage collector, which nanogcg calls at every step."""
        self._options = options
        self._site, _ = subject(options)
        self._vocabulary = Vocabulary(self._site.model.tokens, self._site.model.d_vocab)
        self._judge = Judge(self._site, self._vocabulary, options.scan)
        self._known = {item["feature"]: item for item in header["features"]}
        fired = [item["maximum"] for item in header["features"] if item["maximum"] > 0]
        self._usual = float(np.median(fired))
        gc.freeze()

    def do(self, job: Job) -> list[dict[str, Any]]:
        """Return the rows of a job."""
        if job.method in (OURS, FROM_TEXT, ALONE):
            return self._ours(job)
        methods: Mapping[str, Method] = {**FLOORS, **OPPONENTS, **(tuning_grid() if self._options.tune else {})}
        [feature] = job.features
        run = Run(self._site, self._vocabulary, feature, max(job.budgets) or 1 << 60)
        given = Circumstances(
            seed=job.seed,
            seq_len=self._options.seq_len,
            scale=self._known[feature]["maximum"] or self._usual,
            windows=self._known[feature]["real"],
            dreamy=self._options.dreamy,
            nanogcg=self._options.nanogcg,
        )
        with run.meter:
            methods[job.method](run, given)
        rows = []
        for budget in job.budgets:
            trace = run.history.until(budget or 1 << 60)
            spent = {"tokens": trace.tokens[-1], "seconds": trace.seconds[-1], "flops": trace.flops[-1]}
            rows.append(_row(job, feature, budget, spent) | self._judge.verdict(feature, trace))
        return rows

    def _ours(self, job: Job) -> list[dict[str, Any]]:
        """Run our search over all features together; what it spends and takes is divided among them."""
        [budget] = job.budgets
        seeds = {f: self._known[f]["real"] for f in job.features} if job.method == FROM_TEXT else None
        evaluator = Evaluator(self._site, job.features)
        settings = SearchSettings(budget=budget, seed=job.seed, seq_len=self._options.seq_len)
        with Meter(self._site) as meter:
            found = Search(evaluator, self._vocabulary, settings, seeds).run()
            seconds = meter.seconds
        share = 1 / len(job.features)
        spent = {
            "tokens": evaluator.token_evaluations * share,
            "seconds": seconds * share,
            "flops": meter.flops * share,
        }
        tokens, passed = np.array(meter.stamps).T * share
        rows = []
        for feature in job.features:
            ids = np.array([each.ids for each in found[feature].found])
            values = np.array([each.value for each in found[feature].found])
            nothing = np.zeros(len(ids))
            trace = Trace(ids=ids, values=values, tokens=nothing, seconds=nothing, flops=nothing)
            verdict = self._judge.verdict(feature, trace, curve=False) if len(ids) else _NOTHING
            curve = [(at, float(np.interp(at, tokens, passed)), best) for at, best in found[feature].convergence]
            extra = {"curve": curve, "counted": meter.tokens * share, "together": len(job.features)}
            rows.append(_row(job, feature, budget, spent) | verdict | extra)
        return rows


_NOTHING: dict[str, Any] = {"raw": {"value": 0.0, "valid": False}, "best": None, "fluent": {}}


def _row(job: Job, feature: int, budget: int, spent: Mapping[str, float]) -> dict[str, Any]:
    numbers = {name: round(float(value), 4) for name, value in spent.items()}
    return {"method": job.method, "feature": feature, "seed": job.seed, "budget": budget, **numbers}


# --- files and processes -------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the header and the finished cells of a results file; a line that was cut short is as if not there."""
    lines = []
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
    return (lines[0], lines[1:]) if lines else (None, [])


def unfinished(wanted: Iterable[Job], rows: Iterable[Mapping[str, Any]]) -> list[Job]:
    """Return the jobs that some cell is missing of."""
    done = {(row["method"], row["feature"], row["seed"], row["budget"]) for row in rows}
    return [job for job in wanted if not done.issuperset(job.cells())]


def append(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write lines at the end of a file, beginning a new one if the last was cut short."""
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * torn + "".join(json.dumps(item) + "\n" for item in items))


_bench: Bench | None = None


def _begin(options: argparse.Namespace, header: Mapping[str, Any]) -> None:
    global _bench  # noqa: PLW0603 - a process has one
    _bench = Bench(options, header)


def _do(job: Job) -> list[dict[str, Any]]:
    assert _bench is not None
    return _bench.do(job)


def results(
    options: argparse.Namespace, header: Mapping[str, Any], waiting: Sequence[Job]
) -> Iterator[list[dict[str, Any]]]:
    """Do jobs in fresh processes of one thread each, and yield their rows as they come."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the libraries of the processes to come
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, _begin, (options, header)) as pool:
        try:
            for future in as_completed([pool.submit(_do, job) for job in waiting]):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all others would be done first, and their rows lost
            raise


def main() -> None:
    """Do what is not done yet, and print the table."""
    options = _options()
    header, rows = read(options.results)
    if not options.report:
        if header is None:
            header = describe(options)
            append(options.results, [header])
        elif header["subject"] != (found := _identity(options, subject(options)[0])):
            raise SystemExit(f"{options.results} holds cells of something else: {header['subject']}, not {found}.")
        print(header["words"], flush=True)
        wanted = jobs(options, [item["feature"] for item in header["features"]])
        waiting = unfinished(wanted, rows)
        begin = time.perf_counter()
        for number, found in enumerate(results(options, header, waiting), 1):
            append(options.results, found)
            rows += found
            if number % 20 == 0 or number == len(waiting):
                print(f"{number} of {len(waiting)} runs, {time.perf_counter() - begin:.0f} s", flush=True)
    if header is None:
        raise SystemExit(f"{options.results} holds nothing yet: leave out --report.")
    order = [
        SWEEP,
        "uniform random",
        "random mutation",
        *(tuning_grid() if options.tune else OPPONENTS),
        OURS,
        FROM_TEXT,
        ALONE,
    ]
    text = report(header | {"methods": order}, list({_key(row): row for row in rows}.values()))
    print(text)
    if options.write:
        page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
        PAGE.write_text(
            put_between(page, f"synthetic {options.write}", f"## Synthetic maximizers: {options.write}\n\n{text}")
        )


def _key(row: Mapping[str, Any]) -> tuple[str, int, int, int]:
    return row["method"], row["feature"], row["seed"], row["budget"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="file of finished cells, made or gone on with")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--write", metavar="NAME", help=f"put the table into {PAGE.name}, as the section of that name")
    parser.add_argument("--model")
    parser.add_argument("--sae")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--hook")
    parser.add_argument("--bos", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--dreamy", type=Path, help="checkout of Confirm-Solutions/dreamy at 3798e46")
    parser.add_argument("--nanogcg", type=Path, help="wheel or folder of nanogcg 0.3.0")
    parser.add_argument("--max-tokens", type=int, help="of the corpus (default: all)")
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--never-active", type=int, default=5, help="at most so many of them never fired in the corpus")
    parser.add_argument("--feature-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--long-budget", type=int, default=1_000_000, help="for few features and one seed; 0: none")
    parser.add_argument("--long-features", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=12)
    parser.add_argument("--scan", type=int, default=1000, help="best sequences of a run that are looked at for fluency")
    parser.add_argument("--methods", nargs="+", help="run these only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tune", action="store_true", help="compare the opponents' settings on other features")
    return parser.parse_args()


if __name__ == "__main__":
    main()
