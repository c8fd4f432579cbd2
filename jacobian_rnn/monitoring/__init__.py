"""What gradients do during training, in your own loop: flat dicts of floats for any logger.

`record_gradients` stands first in a chain of optax. It clips, and its state holds the norm of the
gradient before clipping, how often clipping engaged and how often the gradient was not finite;
`gradient_metrics` reads them out of any optimiser's state. `watch` measures a network now and then
on a few sequences: the growth of gradients over a horizon, its peak, the largest exponent, and how
much of the gradient comes from the lags that count.
"""

from jacobian_rnn.monitoring.gradient_records import (
    GradientRecord,
    gradient_metrics,
    record_gradients,
)
from jacobian_rnn.monitoring.watching import watch

__all__ = ["GradientRecord", "gradient_metrics", "record_gradients", "watch"]
