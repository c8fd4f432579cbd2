"""Research scripts: `python -m experiments NAME [--options]` writes results/NAME/."""
