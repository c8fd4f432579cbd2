"""How a run is stopped, and how it stops by itself."""

import signal


class StoppedError(Exception):
    """A run cannot go on. The message says why and what to do. What was saved stays."""


class RefusedError(Exception):
    """A worker cannot take part. What it was given goes to another one."""

    def __init__(self, said: str, place: str = ""):
        """Say why, and which worker it is."""
        super().__init__(said, place)
        self.said, self.place = said, place

    def __str__(self) -> str:
        """Say why."""
        return self.said


def stop_in_order() -> None:
    """Take the end of the session and a wish to terminate as Ctrl-C."""
    # Also where a shell lets its background processes ignore Ctrl-C: experiments would inherit
    # that, and could not be told to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as by nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
