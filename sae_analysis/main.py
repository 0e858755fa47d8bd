"""The command line: arguments in, library called, results written, one line per error."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from sae_analysis.errors import SAEAnalysisError
from sae_analysis.feature_selection import GRAMMAR

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141

_MOST_DIGITS = 12
"""Longest number that is taken for one; what is longer is a slip of the hand and would not fit into memory."""

_LONGEST_FILE_NAME = 255
"""Bytes of a part of a path that file systems accept."""

_DEMO = "demo"
"""Name by which ``inspect`` takes the demo model."""

_DEMO_NAMES = {
    "model": "SmolLM2-135M-Instruct (embedded default)",
    "sae": "demo/sae (embedded default)",
    "corpus": "State of the Union addresses the SAE was not trained on (embedded default)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0, 2 for what the user can mend, 130 for Ctrl-C, 141 where nobody reads the output any more.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        code = options.run(options)
        sys.stdout.flush()  # a reader that has gone away is noticed here, not while Python ends
        return code
    except SAEAnalysisError as error:
        _print_error(str(error))
        return EXIT_USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is written, nor complained of
        return EXIT_NO_READER
    except KeyboardInterrupt:
        print("Interrupted; what was written before is whole.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _print_error(message: str) -> None:
    """Print one line, whatever a library put into its message."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr)


# --- arguments -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage and exit."""
        _print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(EXIT_USER_ERROR)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to an option's help where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sae-analysis", description="What SAE features do on real text, and what they could do.")
    modes = parser.add_subparsers(required=True, metavar="MODE")
    real = modes.add_parser(
        "real",
        help="what each feature does on real text",
        description="Run text through a model and an SAE; write pictures and JSON of what each feature does.",
        formatter_class=_HelpFormatter,
    )
    real.set_defaults(run=_run_real)
    _add_subject_options(real)
    _add_text_options(real)
    _add_output_options(real)
    inspect = modes.add_parser(
        "inspect",
        help="what an SAE checkpoint is, and where in a model it belongs",
        description="Recognise an SAE checkpoint and say what it is; with --model, try it at every hook of its width.",
        formatter_class=_HelpFormatter,
    )
    inspect.set_defaults(run=_run_inspect)
    _add_inspect_options(inspect)
    return parser


def _add_subject_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is analysed")
    group.add_argument(
        "--model",
        type=_name,
        help="Hugging Face name or folder, or TransformerLens name such as gelu-1l (default: the demo model)",
    )
    group.add_argument("--sae", type=_name, help="SAE checkpoint, file, folder or name (default: the demo SAE)")
    _add_place_options(group)
    group.add_argument("--features", default="random:10", metavar="SPEC", help=GRAMMAR)
    _add_machine_options(group)
    group.add_argument("--seed", type=_count, default=0, help="seed of random features and examples")


def _add_place_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hook",
        help="where the SAE reads, e.g. blocks.9.hook_resid_post; auto tries every hook of its width on a few hundred "
        "tokens (default: what the SAE's configuration says, else auto)",
    )
    group.add_argument("--hook-out", help="where a transcoder writes (default: like --hook)")
    group.add_argument(
        "--center-residual",
        choices=("auto", "on", "off"),
        default="auto",
        help="take the mean over its entries off each activation; auto asks the SAE's configuration, then the search",
    )
    group.add_argument(
        "--vsae-sign",
        choices=("auto", "relu", "signed"),
        default="auto",
        help="reading of VSAETopK files that leave open whether activations keep their sign; auto asks the data",
    )


def _add_machine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threads", type=_positive, help="processor threads (default: measured at the start, since more can be slower)"
    )
    group.add_argument("--device", default="auto", help="torch device; auto takes CUDA where it is there")
    group.add_argument(
        "--dtype",
        default="auto",
        help="number format of the model: float32, bfloat16, float16; auto is float32 on a CPU",
    )


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sae", type=_name, help="SAE checkpoint, file, folder or name (default: the demo SAE)")
    parser.add_argument(
        "--model", type=_name, help="also look for its place in this model: name, folder, or demo for the demo model"
    )
    parser.add_argument("--corpus", type=_name, help="text to try it on (default: six short texts of our own)")
    parser.add_argument("--text-unit", choices=("file", "blank-line"), default="file", help=argparse.SUPPRESS)
    parser.add_argument("--text-field", default="text", help="where JSON objects and parquet tables keep their text")
    _add_machine_options(parser.add_argument_group("machine"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--verbose", action="store_true", help="say more about what happens")


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text")
    group.add_argument(
        "--corpus",
        type=_name,
        help=".txt, .jsonl, .json, .parquet, a folder of these, or a data set's name (default: the demo corpus)",
    )
    group.add_argument(
        "--text-unit", choices=("file", "blank-line"), default="file", help="what one document of a .txt file is"
    )
    group.add_argument("--text-field", default="text", help="where JSON objects and parquet tables keep their text")
    group.add_argument("--seq-len", type=_positive, default=128, help="tokens in a context window, BOS included")
    group.add_argument("--max-tokens", type=_positive, help="stop after that many tokens (default: the whole corpus)")
    group.add_argument("--batch-size", type=_positive, default=16, help="windows in a batch")
    group.add_argument(
        "--dictionary-tokens",
        type=_positive,
        default=1_000_000,
        help="tokens on which all features are encoded, for the fit and the dictionary; after these only those asked "
        "for, where the SAE's rule allows it",
    )
    group.add_argument("--pack", action="store_true", help="let windows run on from one document into the next")
    group.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        default="auto",
        help="BOS in front of each window; auto asks the SAE's configuration, then the model",
    )
    group.add_argument(
        "--norm-outliers",
        type=_multiple,
        metavar="MULTIPLE",
        help="leave out tokens whose activation norm exceeds this multiple of their window's median",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--output", type=Path, default=Path("results"), help="folder for pictures and JSON")
    group.add_argument("--max-examples", type=_positive, default=20, help="strongest examples of a feature")
    group.add_argument("--no-figures", action="store_true", help="write JSON only")
    group.add_argument(
        "--allow-poor-fit", action="store_true", help="go on where the SAE explains less than the mean would"
    )
    group.add_argument("--verbose", action="store_true", help="say more about what happens")


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _name(text: str) -> str:
    if max(len(part.encode(errors="surrogateescape")) for part in text.split("/")) > _LONGEST_FILE_NAME:
        raise argparse.ArgumentTypeError(f"expected a path or a name, got {len(text)} characters of something else")
    return text


def _positive(text: str) -> int:
    if not _is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def _count(text: str) -> int:
    if not _is_whole(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got '{text}'")
    return int(text)


def _multiple(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 1 or value == float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 1, got '{text}'")
    return value


# --- real ----------------------------------------------------------------------------------------------------------


def _run_real(options: argparse.Namespace) -> int:
    """Analyse real text: everything a user can get wrong is checked before the long part begins."""
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.files import prepare_folder

    selection = parse_features(options.features)
    prepare_folder(options.output)

    from sae_analysis.artifacts import write_result
    from sae_analysis.corpus import Corpus, Windowing
    from sae_analysis.demo import default_corpus, default_model_folder, default_sae_path
    from sae_analysis.inspection import score_table
    from sae_analysis.language_model import load_model, use_threads
    from sae_analysis.real_activations import RealSettings, analyze
    from sae_analysis.reconstruction import attach
    from sae_analysis.sae_formats import load_sae

    use_threads(options.threads)
    sae = load_sae(options.sae or default_sae_path())
    corpus = Corpus(
        source=options.corpus or default_corpus(), text_unit=options.text_unit, text_field=options.text_field
    )
    next(iter(corpus), None)  # a corpus that is not there should say so before a model is loaded
    model = load_model(options.model or str(default_model_folder(_say)), dtype=options.dtype, device=options.device)
    settings = RealSettings(
        windowing=Windowing(
            seq_len=options.seq_len, batch_size=options.batch_size, pack=options.pack, max_tokens=options.max_tokens
        ),
        bos=options.bos,
        max_examples=options.max_examples,
        norm_outliers=options.norm_outliers,
        dictionary_tokens=options.dictionary_tokens,
        seed=options.seed,
        allow_poor_fit=options.allow_poor_fit,
    )
    names = {name: getattr(options, name) or default for name, default in _DEMO_NAMES.items()}
    with _hook_bar() as advance_hooks:
        site = attach(
            sae,
            model,
            options.hook,
            options.bos,
            hook_out=options.hook_out,
            centre=options.center_residual,
            sign=options.vsae_sign,
            documents=corpus,
            progress=advance_hooks,
        )
    if site.hook_search:
        for line in score_table(site.hook_search):
            _say(line)
    with _token_bar() as advance:
        result = analyze(site, selection, corpus, settings, names=names, progress=advance)
    json_path = options.output / "real.json"
    write_result(result, json_path)
    _print_header(result)
    written = [json_path]
    if not options.no_figures:
        from sae_analysis.visualizer import visualize_features

        with _page_bar() as advance_pages:
            written += visualize_features(result, options.output, "real", progress=advance_pages)
    print(f"Wrote {len(written)} files to {options.output}:")
    for path in written:
        print(f"  {path}")
    return 0


# --- inspect -------------------------------------------------------------------------------------------------------


def _run_inspect(options: argparse.Namespace) -> int:
    """Say what a checkpoint is, and where it belongs if a model is given."""
    from sae_analysis.corpus import Corpus
    from sae_analysis.demo import default_model_folder, default_sae_path
    from sae_analysis.inspection import describe, inspect_sae
    from sae_analysis.language_model import load_model, use_threads
    from sae_analysis.sae_formats import load_sae

    use_threads(options.threads)
    sae = load_sae(options.sae or default_sae_path())
    name = options.sae or _DEMO_NAMES["sae"]
    corpus = model = None
    if options.corpus:
        corpus = Corpus(source=options.corpus, text_unit=options.text_unit, text_field=options.text_field)
        next(iter(corpus), None)
    if options.model:
        source = str(default_model_folder(_say)) if options.model == _DEMO else options.model
        model = load_model(source, dtype=options.dtype, device=options.device)
    with _hook_bar() as advance:
        found = inspect_sae(sae, name, model, corpus, advance)
    if options.json:
        print(json.dumps(asdict(found), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        for line in describe(found):
            print(line)
    return 0


# --- both ----------------------------------------------------------------------------------------------------------


def _say(message: str) -> None:
    print(message, file=sys.stderr)


@contextmanager
def _token_bar() -> Iterator[Callable[[int, int | None], None]]:
    from tqdm import tqdm

    with tqdm(unit="tok", unit_scale=True, desc="reading", disable=None) as bar:

        def advance(tokens: int, expected: int | None) -> None:
            bar.total = expected
            bar.update(tokens)

        yield advance


@contextmanager
def _hook_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a bar that appears only if hooks are tried."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def advance(tried: int, total: int) -> None:
        if not bars or bars[-1].n == bars[-1].total:  # of each batch of text once more
            bars.append(tqdm(total=total, unit="hook", desc="trying", disable=None, leave=False))
        bars[-1].update(tried)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def _page_bar() -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(unit="page", desc="drawing", disable=None) as bar:

        def advance(drawn: int, total: int) -> None:
            bar.total = total
            bar.update(drawn - bar.n)

        yield advance


def _print_header(result) -> None:  # noqa: ANN001 - AnalysisResult; records are imported late
    fit, run, dictionary = result.fit, result.provenance, result.dictionary
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in fit.excluded.items()) or "none"
    rows = {
        "SAE": f"{run.sae}: {run.sae_format}, {run.activation_rule}, {dictionary.d_sae:,} features",
        "Model": f"{run.model}, {run.dtype} on {run.device}",
        "Hook": f"{run.place} ({run.hook_reason})",
        "Corpus": f"{run.corpus}: {fit.document_count:,} documents, {fit.window_count:,} windows"
        + (" (stopped by --max-tokens)" if fit.truncated else ""),
        "Tokens": f"{fit.token_count:,} counted; not counted: {excluded}",
        "BOS": run.bos,
        "Fit": f"explained variance {fit.explained_variance:.3f}, cosine {fit.cosine:.3f}, L0 {fit.l0:.1f}",
        "Features": f"{dictionary.dead_count:,} of {dictionary.d_sae:,} never fired; "
        f"{dictionary.dense_count:,} fired on more than a tenth of the tokens",
    }
    for name, text in rows.items():
        print(f"{name + ':':<10}{text}")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # import the package, not its folder
    raise SystemExit(main())
