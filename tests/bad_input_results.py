"""Bad results, and places that cannot be written to, and what a command says of each."""

import json
import os

from file_makers import file, into

# Results.


def result_of(change, name="real"):
    """A maker of a result of the earlier run that was changed: ``change`` gets its content."""

    def make(folder, there):
        content = json.loads(there[name].read_bytes())
        change(content)
        (folder / f"{name}.json").write_text(json.dumps(content))
        return folder / f"{name}.json"

    return make


def feature_of(change, name="real"):
    return result_of(lambda content: change(content["features"][0]), name)


def example_of(change, name="real"):
    return result_of(lambda content: change(content["features"][0]["examples"][0]), name)


def run_of(name="real", **changes):
    return result_of(lambda content: content["provenance"].update(changes), name)


FILES = {
    "empty_result": file("real.json", ""),
    "no_result": file("real.json", "{}"),
    "list_as_result": file("real.json", "[1, 2]"),
    "null_as_result": file("real.json", "null"),
    "binary_result": file("real.json", b"\xff\xfe\x00"),
    "deep_result": file("real.json", "[" * 100_000),
    "page_as_result": file("real.json", "<!DOCTYPE html>"),
    "future_result": result_of(lambda content: content.update(schema_version=2)),
    "result_of_words": result_of(lambda content: content.update(schema_version="one")),
    "without_provenance": result_of(lambda content: content.pop("provenance")),
    "without_features": result_of(lambda content: content.pop("features")),
    "features_of_words": result_of(lambda content: content.update(features="0-9")),
    "features_of_numbers": result_of(lambda content: content.update(features=[1, 2])),
    "no_features": result_of(lambda content: content.update(features=[])),
    "unknown_field": result_of(lambda content: content.update(extra=1)),
    "model_is_a_number": run_of(model=3),
    "options_of_lists": run_of(options={"k": [1]}),
    "density_of_words": feature_of(lambda one: one.update(density="often")),
    "density_of_nothing": feature_of(lambda one: one.update(density=None)),
    "nan_density": feature_of(lambda one: one.update(density=float("nan"))),
    "infinite_maximum": feature_of(lambda one: one.update(max_activation=float("inf"))),
    "true_count": feature_of(lambda one: one.update(active_count=True)),
    "half_count": feature_of(lambda one: one.update(active_count=0.5)),
    "endless_count": feature_of(lambda one: one.update(active_count=10**30)),
    "without_histogram": feature_of(lambda one: one.pop("histogram")),
    "edges_too_few": feature_of(lambda one: one["histogram"]["edges"].pop()),
    "edges_turned": feature_of(lambda one: one["histogram"]["edges"].reverse()),
    "counts_below_nothing": feature_of(
        lambda one: one["histogram"].update(counts=[-1] * len(one["histogram"]["counts"]))
    ),
    "triple": feature_of(lambda one: one["top_boosted_tokens"].insert(0, [" the", 1.0, 2])),
    "tokens_turned": feature_of(lambda one: one["top_boosted_tokens"].insert(0, [1.0, " the"])),
    "peak_outside": example_of(lambda one: one.update(peak_position=10**6)),
    "peak_below_nothing": example_of(lambda one: one.update(peak_position=-1)),
    "activations_too_few": example_of(lambda one: one["activations"].pop()),
    "tokens_of_numbers": example_of(lambda one: one.update(tokens=[1] * len(one["tokens"]))),
    "text_as_tokens": example_of(lambda one: one.update(tokens=one["text"])),
    "other_model": run_of(model="gpt2", model_sha256="0" * 64),
    "other_sae": run_of(sae_sha256="0" * 64),
    "other_hook": run_of(hook="blocks.0.hook_resid_post"),
    "other_features": result_of(
        lambda content: content.update(
            features=[one | {"feature_idx": 40 + at} for at, one in enumerate(content["features"])]
        ),
        "synthetic",
    ),
    "search_of_another": run_of("synthetic", sae_sha256="0" * 64),
    "unknown_analysis": run_of(analysis="dream"),
    "asked_by_hand": run_of(asked={"mode": "dreaming"}),
    "asked_by_nobody": run_of(asked={}),
    "asked_of_lists": run_of(asked={"mode": "real", "features": [[1]]}),
    "asked_too_much": run_of(asked={"mode": "real", "wings": 2}),
    "asked_for_nonsense": run_of(asked={"mode": "real", "seq_len": "many"}),
    "verdict_of_numbers": result_of(lambda content: content["features"][0].update(verdict=3), "comparison"),
    "likeness_of_nothing": result_of(lambda content: content["features"][0].update(likeness=None), "comparison"),
    "reasons_of_words": result_of(lambda content: content["features"][0].update(reasons="because"), "comparison"),
    "comparison_alone": result_of(dict, "comparison"),
}
maker = into(FILES)


@maker
def cut_result(folder, there):
    (folder / "real.json").write_bytes(there["real"].read_bytes()[:-100])
    return folder / "real.json"


@maker
def tokens_of_another_vocabulary(folder, there):
    def change(content):
        for feature in content["features"]:
            for example in feature["examples"]:
                example["token_ids"] = [10**6] * len(example["tokens"])

    return result_of(change)(folder, there)


@maker
def result_pipe(folder, there):
    os.mkfifo(folder / "real.json")
    return folder / "real.json"


@maker
def comparison_of_strangers(folder, there):
    """A comparison beside results of other features."""
    for name in ("comparison", "real"):
        (folder / f"{name}.json").write_bytes(there[name].read_bytes())
    FILES["other_features"](folder, there)
    return folder / "comparison.json"


@maker
def comparison_beside_damage(folder, there):
    (folder / "comparison.json").write_bytes(there["comparison"].read_bytes())
    (folder / "real.json").write_text("{")
    return folder / "comparison.json"


# Outputs.
FILES |= {"mine": file("mine", "mine")}


@maker
def output_pipe(folder, there):
    os.mkfifo(folder / "out")
    return folder / "out"


ROWS = [
    # Results.
    ("redraw {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {tmp}", "Result {tmp} cannot be read: Is a directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {result_pipe}", "Result {result_pipe} is no regular file: give a real.json, synthetic.json or comparison.json."),
    ("real --config {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a result of real."),
    ("real --config {tmp}", "Result {tmp} cannot be read: Is a directory. Give a result of real."),
    ("real --config", "argument --config: expected one argument"),
    ("compare --config {cut_result}", "is not JSON: it is damaged or cut short. Run the analysis again."),
    ("synthetic --config {asked_by_hand}", "was made by dreaming, and synthetic cannot repeat it"),
    ("real --config {asked_by_nobody}", "was made from Python, or by an earlier version, and real cannot repeat it"),
    ("real --config {asked_of_lists}", "provenance.asked"),
    ("real --config {asked_too_much}", "unrecognized arguments: --wings=2"),
    ("real --config {asked_for_nonsense}", "argument --seq-len: expected a whole number from 1, got 'many'"),
    ("real --verbose --quiet", "argument --quiet: not allowed with argument --verbose"),
    ("--print-completion fish", "argument --print-completion: invalid choice: 'fish'"),
    *(
        (f"redraw {{{name}}}", f"Result {{{name}}} is not JSON: it is damaged or cut short. Run the analysis again.")
        for name in ("empty_result", "cut_result", "binary_result", "deep_result", "page_as_result", "nan_density", "infinite_maximum")
    ),
    ("redraw {no_result}", "Result {no_result} has schema version None: this version reads 1. Run the analysis again."),
    ("redraw {list_as_result}", "has schema version None"),
    ("redraw {null_as_result}", "has schema version None"),
    ("redraw {future_result}", "Result {future_result} has schema version 2: this version reads 1."),
    ("redraw {result_of_words}", "has schema version 'one': this version reads 1."),
    *(
        (f"redraw {{{name}}}", f"Result {{{name}}} lacks what it should hold ({says}")
        for name, says in {
            "without_provenance": "provenance is missing)",
            "without_features": "features is missing)",
            "features_of_words": "features is '0-9': expected a list)",
            "features_of_numbers": "features[0] is 1: expected an object)",
            "unknown_field": "it has the unknown field 'extra')",
            "model_is_a_number": "provenance.model is 3: expected text)",
            "options_of_lists": "provenance.options.k is [1]: expected a number, text, true or false)",
            "density_of_words": "features[0].density is 'often': expected a number)",
            "density_of_nothing": "features[0].density is None: expected a number)",
            "true_count": "features[0].active_count is True: expected a whole number)",
            "half_count": "features[0].active_count is 0.5: expected a whole number)",
            "endless_count": "features[0].active_count is 1",
            "without_histogram": "features[0].histogram is missing)",
            "edges_too_few": "features[0].histogram does not fit together: ",
            "edges_turned": "features[0].histogram does not fit together: edges ascend",
            "counts_below_nothing": "features[0].histogram does not fit together: edges ascend and counts are not below zero)",
            "triple": "features[0].top_boosted_tokens[0] is [' the', 1.0, 2]: expected a list of 2)",
            "tokens_turned": "features[0].top_boosted_tokens[0] is 1.0: expected text)",
            "peak_outside": "features[0].examples[0] does not fit together: ",
            "peak_below_nothing": "features[0].examples[0] does not fit together: ",
            "activations_too_few": "features[0].examples[0] does not fit together: ",
            "tokens_of_numbers": "features[0].examples[0].tokens[0] is 1: expected text)",
            "text_as_tokens": "features[0].examples[0].tokens is '",
            "verdict_of_numbers": "features[0].verdict is 3: expected text)",
            "likeness_of_nothing": "features[0].likeness is None: expected an object)",
            "reasons_of_words": "features[0].reasons is 'because': expected a list)",
        }.items()
    ),
    ("redraw {unknown_analysis}", "(provenance does not fit together: an analysis of the kind 'dream')"),
    ("redraw {real} --features 0,5", "Feature 5 is not in result {real}, which describes 2 features (0 to 1): give some of these."),
    ("redraw {real} --features top:1", "features top:1 cannot be redrawn: give numbers, such as 0,5,10-20."),
    ("redraw {real} --features x", "features 'x' cannot be read at 'x'"),
    ("redraw {real} {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {comparison_alone}", "real.json cannot be read: No such file or directory. Give the real.json that comparison.json was made of beside it."),
    (
        "redraw {comparison_of_strangers}",
        "which the real.json and synthetic.json beside it do not both describe: put those beside it that it was made of.",
    ),
    ("redraw {comparison_beside_damage}", "real.json is not JSON: it is damaged or cut short. Run the analysis again."),
    ("export {tmp}/no.json --to parquet", "Result {tmp}/no.json cannot be read: No such file or directory."),
    ("export {cut_result} --to neuronpedia", "Result {cut_result} is not JSON: it is damaged or cut short."),
    ("export {density_of_words} --to circuit-tracer", "features[0].density is 'often': expected a number"),
    (
        "export {comparison} --to neuronpedia",
        "A comparison cannot be exported to neuronpedia: give a real.json or synthetic.json, or parquet.",
    ),
    ("export {real} --to parquet --sae-name ''", "argument --sae-name: expected a path or a name, got nothing"),
    ("export {real} --to parquet --model-name ' '", "argument --model-name: expected a path or a name, got nothing"),
    ("export '' --to parquet", "argument FILE: expected a path or a name, got nothing"),
    ("export {real} {synthetic} --to parquet", "unrecognized arguments: {synthetic}"),
    ("export {no_result} --to parquet", "Result {no_result} has schema version None: this version reads 1. Run the analysis again."),
    ("export {future_result} --to neuronpedia", "Result {future_result} has schema version 2: this version reads 1."),
    ("export {result_pipe} --to parquet", "Result {result_pipe} is no regular file: give a real.json, synthetic.json or comparison.json."),
    ("export {corpus} --to parquet", "Result {corpus} is not JSON: it is damaged or cut short. Run the analysis again."),
    ("export {sae} --to parquet", "Result {sae} cannot be read: Is a directory. Give a real.json, synthetic.json or comparison.json."),
    ("export {comparison} --to circuit-tracer", "A comparison cannot be exported to circuit-tracer: give"),
    ("synthetic --real {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json."),
    ("synthetic --real {cut_result}", "Result {cut_result} is not JSON: it is damaged or cut short. Run the analysis again."),
    ("synthetic --real {comparison}", "Result {comparison} is a comparison: give the real.json or synthetic.json that it was made of."),
    ("synthetic --real {synthetic}", "A result of 'synthetic' was given as real text to begin with: give a real.json, or drop --real."),
    ("synthetic --real {other_model}", "The real result is of another model: it was made with gpt2 (hash 000000000000), and the search is to run on {model} (hash "),
    ("synthetic --real {other_sae}", "The real result is of another SAE: it was made with "),
    (
        "synthetic --real {real} --hook blocks.0.hook_resid_post",
        "The real result is of another hook: it was made with blocks.1.hook_resid_post, and the search is to run on "
        "blocks.0.hook_resid_post. Give a real.json of the same model, SAE and hook, or drop --real.",
    ),
    (
        "synthetic --real {tokens_of_another_vocabulary}",
        "The real result has token 1000000, and {model} has tokens 0 to 319: it is damaged. Run the analysis again.",
    ),
    ("compare --real {comparison} --synthetic {synthetic}", "Result {comparison} is a comparison: give the real.json"),
    ("compare --real {synthetic} --synthetic {real}", "A result of 'synthetic' was given as the real one: give a real.json."),
    ("compare --real {real} --synthetic {real}", "A result of 'real' was given as the synthetic one: give a synthetic.json."),
    ("compare --real {real} --synthetic {cut_result}", "Result {cut_result} is not JSON"),
    ("compare --real {real} --synthetic {synthetic} {tmp}/no.json", "Result {tmp}/no.json cannot be read"),
    ("compare --real {other_model} --synthetic {synthetic}", "The two results do not belong together: model is gpt2 (hash 000000000000) in the real one and {model} (hash "),
    ("compare --real {other_sae} --synthetic {synthetic}", "The two results do not belong together: sae is {sae} (hash 000000000000) in the real one and {sae} (hash "),
    ("compare --real {other_hook} --synthetic {synthetic}", "The two results do not belong together: hook is blocks.0.hook_resid_post in the real one"),
    ("compare --real {real} --synthetic {other_features}", "they have none in common. Give results of the same features."),
    ("compare --real {no_features} --synthetic {synthetic}", "The real result describes no features"),
    ("compare --real {other_model}", "The real result is of another model: it was made with gpt2"),
    ("compare --synthetic {search_of_another}", "The synthetic result is of another SAE: it was made with "),
    ("compare --synthetic {real}", "A result of 'real' was given as a search: give a synthetic.json, or drop --synthetic."),
    # Outputs.
    *(
        (f"{command} --output {{mine}}", "Output folder {mine} cannot be written to: File exists. Choose another folder.")
        for command in ("real", "synthetic", "compare", "redraw {real}", "export {real} --to parquet")
    ),
    ("real --output {mine}/below", "Output folder {mine}/below cannot be written to: Not a directory. Choose another folder."),
    ("real --output {output_pipe}", "Output folder {output_pipe} cannot be written to: File exists."),
    ("real --output /dev/null/out", "Output folder /dev/null/out cannot be written to: Not a directory."),
    ("real --output /proc/out", "Output folder /proc/out cannot be written to: "),
    (f"real --output {{tmp}}/{'x' * 300}", "cannot be written to: File name too long. Choose another folder."),
    ("export {real} --to parquet --output /sys/out", "Output folder /sys/out cannot be written to: "),
]  # fmt: skip
