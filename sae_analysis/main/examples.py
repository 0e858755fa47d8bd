"""What stands at the end of each mode's help: commands as somebody would type them."""

EXAMPLES = {
    "real": (
        "real --features 0,5,10-20",
        "real --model gelu-1l --sae path/to/sae.pt --corpus my_data.txt --features top:20 --output results/first",
    ),
    "synthetic": (
        "synthetic --features 0,5 --corpus demo",
        "synthetic --model gelu-1l --sae path/to/sae.pt --features random:20 --budget 100000",
    ),
    "compare": (
        "compare --features 0-10 --output results/first",
        "compare --real results/real.json --synthetic results/synthetic.json",
    ),
    "merge": ("merge part1 part2 part3 --output results/whole",),
    "redraw": ("redraw results/real.json --features 0,5 --theme dark --format svg --output slides",),
    "export": ("export results/real.json --to neuronpedia",),
    "inspect": ("inspect path/to/sae.pt", "inspect demo --model demo"),
}
"""By mode."""


def examples_of(mode: str, prog: str) -> str:
    """Return the examples of a mode, a line each."""
    title = "example:" if len(EXAMPLES[mode]) == 1 else "examples:"
    return "\n".join((title, *(f"  {prog} {example}" for example in EXAMPLES[mode])))
