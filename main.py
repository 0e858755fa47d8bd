"""Run the command line from a checkout: ``python main.py real …``."""

import sys

try:
    from sae_analysis.main import main
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sae_analysis"):
        raise
    print(  # noqa: T201 - all else that prints needs what is missing
        f"error: {error.name} is not installed for {sys.executable}: run make setup, then "
        "'source .venv/bin/activate', or pip install -e .",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

if __name__ == "__main__":
    raise SystemExit(main())
