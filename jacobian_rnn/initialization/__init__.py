"""Where networks begin: initialisers, and the search for a wanted growth rate."""

from jacobian_rnn.initialization import initializers
from jacobian_rnn.initialization.rate_search import RateSearch, at_rate, draw

__all__ = ["RateSearch", "at_rate", "draw", "initializers"]
