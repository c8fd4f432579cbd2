"""What single tangents and cotangents do."""

from jacobian_rnn.growth.finite_times import FiniteTimeGrowth, finite_time_growth
from jacobian_rnn.growth.largest import largest_exponent
from jacobian_rnn.growth.layers import LayerProfile, layer_profile, log_num_paths
from jacobian_rnn.growth.profile import BackwardProfile, backward_profile

__all__ = [
    "BackwardProfile",
    "FiniteTimeGrowth",
    "LayerProfile",
    "backward_profile",
    "finite_time_growth",
    "largest_exponent",
    "layer_profile",
    "log_num_paths",
]
