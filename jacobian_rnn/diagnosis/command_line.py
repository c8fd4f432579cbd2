"""The entry of the command `jacobian-rnn`, which says what is missing where it cannot run."""

import importlib.util
import sys
from collections.abc import Sequence

NEEDED = ("tyro", "rich", "jinja2", "matplotlib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"jacobian-rnn: {', '.join(missing)} not installed: pip install 'jacobian_rnn[report]'",
            file=sys.stderr,
        )
        return 1
    from jacobian_rnn.diagnosis import commands

    return commands.run(arguments)
