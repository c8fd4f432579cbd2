"""Run experiments: `python -m experiments [NAME | all | show FILE] [options]`."""

import os
import sys

from experiments.runner import command_line

if __name__ == "__main__":
    try:
        status = command_line.main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + 13
    sys.exit(status)
