"""``python -m sae_analysis.main real …``."""

from sae_analysis.main import main

if __name__ == "__main__":
    raise SystemExit(main())
