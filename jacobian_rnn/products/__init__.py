"""Products of step Jacobians, with every singular value in logs."""

from jacobian_rnn.products.blocks import BlockProduct
from jacobian_rnn.products.bordered import BorderedProduct
from jacobian_rnn.products.by_lag import log_singular_values_by_lag
from jacobian_rnn.products.credit import InputJacobians, input_jacobians
from jacobian_rnn.products.leading import (
    LeadingSingularValues,
    leading_singular_values,
    leading_singular_values_by_lag,
)
from jacobian_rnn.products.multiply import jacobian_product, product_of
from jacobian_rnn.products.product import JacobianProduct

__all__ = [
    "BlockProduct",
    "BorderedProduct",
    "InputJacobians",
    "JacobianProduct",
    "LeadingSingularValues",
    "input_jacobians",
    "jacobian_product",
    "leading_singular_values",
    "leading_singular_values_by_lag",
    "log_singular_values_by_lag",
    "product_of",
]
