"""The Jacobian that all rows of a matrix memory share."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowBlocks:
    """The Jacobian of a matrix state in which each row sees itself alone, and all rows alike.

    The state has R rows of c entries and is ravelled row by row, as S of S' = S M + …. Its Jacobian
    has the block B = Mᵀ on its diagonal, once for each row. A recurrence declares it as its
    `unit_jacobians`. Then products and spectra factor one c × c matrix a step in place of R.

    Attributes:
        block: B, `(c, c)`. `[a, b]` is the derivative of entry a of a new row with respect to entry
            b of the old row.
        num_rows: number of rows R. Static.
    """

    block: Any
    num_rows: int = dataclasses.field(metadata={"static": True})
