"""Where networks begin: initialisers, the search for a wanted growth rate, and treatments."""

from jacobian_rnn.initialization import initializers, treatments
from jacobian_rnn.initialization.rate_search import RateSearch, at_rate, draw

__all__ = ["RateSearch", "at_rate", "draw", "initializers", "treatments"]
