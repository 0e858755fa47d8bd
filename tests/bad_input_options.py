"""Options, features, names, hooks and devices that are none, and what a command says of each."""

import shlex

from sae_analysis.feature_selection import GRAMMAR

NUMBERS = {
    "real": {
        "expected a whole number from 1, got": (
            "seq-len batch-size max-tokens max-examples dictionary-tokens chunk-size num-workers"
        ),
        "expected a whole number from 1 to 1,024, got": "threads",
        "expected a whole number from 1 to 600, got": "dpi",
        "expected a number above 1, got": "norm-outliers",
    },
    "synthetic": {
        "expected a whole number from 1, got": "budget seq-len batch-size max-tokens max-examples",
        "expected a whole number from 1 to 600, got": "dpi",
        "expected a number above 0, at most 1,000,000, got": "learning-rate",
    },
    "compare": {"expected a whole number from 1, got": "budget seq-len batch-size max-tokens max-examples"},
    "redraw": {
        "expected a whole number from 1 to 1,024, got": "threads",
        "expected a whole number from 1 to 600, got": "dpi",
    },
    "inspect": {"expected a whole number from 1 to 1,024, got": "threads"},
}
"""Options that take a number which zero is not, by mode and by what is said of another."""

COUNTS = {"real": "seed firings", "synthetic": "seed firings n-steps", "compare": "seed firings n-steps"}
"""Options that take a whole number from 0."""

NO_NUMBERS = ("0", "-1", "nan", "inf", "-inf", "many", "''", "1e999", "0x10", "1,5")
NO_COUNTS = ("-1", "2.5", "nan", "inf", "none", "''", "1_000", "9999999999999")

ROWS = [
    # What to do.
    ("", "the following arguments are required: MODE"),
    ("bogus", "argument MODE: invalid choice: 'bogus'"),
    ("real --no-such-option", "unrecognized arguments: --no-such-option"),
    ("real results.json", "unrecognized arguments: results.json"),
    ("real --corpus", "argument --corpus: expected one argument"),
    ("redraw --theme dark", "the following arguments are required: FILE"),
    ("export {real}", "the following arguments are required: --to"),
    ("export --to parquet", "the following arguments are required: FILE"),
    # Choices.
    ("real --text-unit line", "argument --text-unit: invalid choice: 'line' (choose from"),
    ("real --bos maybe", "argument --bos: invalid choice: 'maybe'"),
    *((f"{mode} --encoder sparse", "argument --encoder: invalid choice: 'sparse'") for mode in ("real", "synthetic", "compare")),
    ("real --theme pink", "argument --theme: invalid choice: 'pink'"),
    ("real --format gif", "argument --format: invalid choice: 'gif'"),
    ("real --center-residual yes", "argument --center-residual: invalid choice: 'yes'"),
    ("real --vsae-sign plus", "argument --vsae-sign: invalid choice: 'plus'"),
    ("synthetic --bos ''", "argument --bos: invalid choice: ''"),
    ("synthetic --corpus {corpus} --real {real}", "argument --real: not allowed with argument --corpus"),
    ("redraw {real} --theme pink", "argument --theme: invalid choice: 'pink'"),
    ("redraw {real} --format jpeg", "argument --format: invalid choice: 'jpeg'"),
    ("export {real} --to html", "argument --to: invalid choice: 'html'"),
    ("inspect --text-unit line", "argument --text-unit: invalid choice: 'line'"),
    # Numbers that are none.
    *(
        (f"{mode} --{option}={value}", f"argument --{option}: {says} '{value.strip(chr(39))}'")
        for mode, kinds in NUMBERS.items()
        for says, options in kinds.items()
        for option in options.split()
        for value in NO_NUMBERS
    ),
    *(
        (f"{mode} --{option}={value}", f"argument --{option}: expected a whole number from 0, got '{value.strip(chr(39))}'")
        for mode, options in COUNTS.items()
        for option in options.split()
        for value in NO_COUNTS
    ),
    ("real --seq-len 2.5", "argument --seq-len: expected a whole number from 1, got '2.5'"),
    ("real --max-examples 9999999999999", "argument --max-examples: expected a whole number from 1, got '9999999999999'"),
    (f"real --seed {'9' * 5000}", "argument --seed: expected a whole number from 0, got '9999"),
    ("real --norm-outliers 1", "argument --norm-outliers: expected a number above 1, got '1'"),
    ("real --threads 1025", "argument --threads: expected a whole number from 1 to 1,024, got '1025'"),
    ("real --dpi 601", "argument --dpi: expected a whole number from 1 to 600, got '601'"),
    ("redraw {real} --dpi 100000", "argument --dpi: expected a whole number from 1 to 600, got '100000'"),
    ("synthetic --fluency 1.1", "argument --fluency: expected a number from 0 to 1, got '1.1'"),
    ("synthetic --fluency -0.1", "argument --fluency: expected a number from 0 to 1, got '-0.1'"),
    ("synthetic --fluency nan", "argument --fluency: expected a number from 0 to 1, got 'nan'"),
    ("compare --fluency most", "argument --fluency: expected a number from 0 to 1, got 'most'"),
    ("synthetic --learning-rate 1e300", "argument --learning-rate: expected a number above 0, at most 1,000,000, got '1e300'"),
    ("real --seq-len 129", "--seq-len 129 is more than {model} was made for: give at most 128."),
    ("real --seq-len 1 --bos always", "--seq-len 1 leaves no token beside BOS: give at least 2."),
    ("real --max-tokens 15", "The corpus has 15 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("synthetic --seq-len 129", "--seq-len 129 is more than {model} was made for: give at most 128."),
    ("synthetic --seq-len 128 --bos always", "--seq-len 128 is more than {model} was made for beside BOS: give at most 127."),
    # Features.
    *(
        (f"{mode} --features {shlex.quote(text)}", f"features '{text.strip()}' cannot be read at '{part}': expected {GRAMMAR}.")
        for mode in ("real", "synthetic", "compare")
        for text, part in {"0-5;7": "0-5;7", "": "", "1,": "", "all,1": "all", "0--1": "0--1", "1e3": "1e3"}.items()
    ),
    ("real --features=-1", "features '-1' cannot be read at '-1'"),
    ("real --features '0 1'", "features '0 1' cannot be read at '0 1'"),
    ("real --features ٣", "features '٣' cannot be read at '٣'"),
    ("real --features random:", "features 'random:' cannot be read at 'random:'"),
    ("real --features random:ten", "features 'random:ten' cannot be read"),
    ("real --features top:5:min", "features 'top:5:min' cannot be read"),
    ("real --features top:0", "features 'top:0' asks for nothing that exists"),
    ("real --features random:5:max", "features 'random:5:max' asks for nothing that exists"),
    ("real --features 9-3", "features '9-3' has the empty range 9-3: write 3-9."),
    ("real --features 9999999999", "features '9999999999' cannot be read"),
    (f"real --features {'x' * 9000}", f"features '{'x' * 100}…' cannot be read"),
    ("real --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("real --features 0-999999999", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("real --features random:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    ("real --features top:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    ("synthetic --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("synthetic --features random:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    (
        "synthetic --features dead:3",
        "features top:N, top:N:max and dead:N ask what features do on text, and no text was read: give a --corpus to "
        "scan, or a --real result of all features.",
    ),
    ("synthetic --features top:3 --real {real}", "the real result describes 2 of 48 features: give a --corpus to scan, or"),
    ("compare --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    (
        "compare --features 7 --real {real}",
        "The real result describes 2 features (0 to 1), and --features asks for feature 7: they have none in "
        "common. Give a result of these features, or leave --features out.",
    ),
    (
        "compare --real {real} --synthetic {synthetic} --features 0,7",
        "Feature 7 is not in result {real}, which describes 2 features (0 to 1): give some of these.",
    ),
    (
        "compare --real {real} --synthetic {synthetic} --features top:1",
        "features top:1 cannot be compared: give numbers, such as 0,5,10-20.",
    ),
    ("redraw {no_features} --features 0", "Feature 0 is not in result {no_features}, which describes none: leave out --features."),
    # Options that nothing would take.
    *(
        (
            f"compare --real {{real}} --synthetic {{synthetic}} {option}",
            f"{option.partition(' ')[0]} changes nothing where --real and --synthetic are given, for nothing is run: leave it "
            "out, or one of these.",
        )
        for option in (
            "--budget 7", "--corpus {corpus}", "--max-tokens 5", "--model {model}", "--seed 1", "--allow-poor-fit",
            "--storage {tmp}", "--engine ray", "--max-examples 2", "--firings 0",
        )
    ),
    *(
        (
            f"compare --real {{real}} {option}",
            f"{option.partition(' ')[0]} changes nothing where --real is given, for no text is read: leave out one of the two.",
        )
        for option in ("--corpus {corpus}", "--text-unit blank-line", "--encoder dense", "--checkpoint-every 1")
    ),
    (
        "compare --synthetic {synthetic} --budget 7",
        "--budget changes nothing where --synthetic is given, for nothing is searched: leave out one of the two.",
    ),
    *(
        (f"synthetic {option}", f"{says} changes nothing without --corpus, for no text is read: leave it out, or give --corpus.")
        for option, says in (
            ("--storage {tmp}", "--storage"), ("--chunk-size 9", "--chunk-size"), ("--real {real} --max-tokens 5", "--max-tokens"),
        )
    ),
    ("compare --features 7 --synthetic {synthetic}", "The synthetic result describes 2 features (0 to 1), and --features asks"),
    # Names that name nothing.
    *(
        (f"real --{option} ''", f"argument --{option}: expected a path or a name, got nothing")
        for option in ("model", "sae", "corpus", "hook", "hook-out", "text-field", "device", "dtype")
    ),
    ("synthetic --real ''", "argument --real: expected a path or a name, got nothing"),
    ("compare --synthetic ''", "argument --synthetic: expected a path or a name, got nothing"),
    ("inspect --sae ''", "argument --sae: expected a path or a name, got nothing"),
    (f"real --model {'x' * 256}", "argument --model: expected a path or a name, got 256 characters of something else"),
    (f"real --corpus {'/'.join(['d' * 200] * 30)}.txt", "argument --corpus: expected a path or a name, got 6033 characters"),
    # Hooks.
    ("real --hook blocks.1.hook_resid_pst", "Hook 'blocks.1.hook_resid_pst' does not exist in {model}: did you mean blocks.1.hook_resid_post?"),
    ("real --hook 1", "Hook '1' does not exist in {model}: did you mean blocks.1.hook_resid_post?"),
    ("real --hook blocks.99.hook_resid_post", "Hook 'blocks.99.hook_resid_post' does not exist in {model}, which has layers 0 to 2: did"),
    ("real --hook ../../etc", "Hook '../../etc' does not exist in {model}. Nearest: "),
    (
        "real --hook blocks.1.mlp.hook_post",
        "The SAE reads 16-wide activations, but hook blocks.1.mlp.hook_post of {model} gives 40. Hooks that fit: "
        "blocks.0.hook_resid_pre, blocks.0.attn.hook_z, blocks.0.hook_attn_out, blocks.0.hook_resid_mid, "
        "blocks.0.mlp.hook_in, blocks.0.hook_mlp_out and 13 more.",
    ),
    ("real --hook-out blocks.1.hook_mlp_out", "--hook-out is where a transcoder writes, and this SAE writes where it reads: drop the option."),
    ("synthetic --hook nowhere", "Hook 'nowhere' does not exist in {model}. Nearest: "),
    # Machine.
    ("real --device gpu", "device gpu cannot be used: Expected one of cpu, cuda"),
    ("real --device meta", "device meta cannot be used: it computes nothing. Try device cpu."),
    ("real --device hpu", "device hpu cannot be used: "),
    ("real --device 'cpu cuda'", "device cpu cuda cannot be used: "),
    ("synthetic --device tpu", "device tpu cannot be used: "),
    ("inspect --model {model} --device gpu", "device gpu cannot be used: "),
    ("real --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
    ("real --dtype Float32", "dtype Float32 is not one of auto, float32, bfloat16, float16."),
    ("synthetic --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
    ("inspect --model {model} --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
]  # fmt: skip
