"""Growth of single tangent vectors."""

from jacobian_rnn.growth.finite_times import FiniteTimeGrowth, finite_time_growth
from jacobian_rnn.growth.largest import largest_exponent

__all__ = ["FiniteTimeGrowth", "finite_time_growth", "largest_exponent"]
