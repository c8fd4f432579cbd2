"""What `diagnose` found: one entry for each recurrent layer."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacobian_rnn.diagnosis.advice import Advice
from jacobian_rnn.diagnosis.credit_by_lag import CreditByLag
from jacobian_rnn.diagnosis.saturation import Saturation
from jacobian_rnn.regimes.prediction import RegimePrediction
from jacobian_rnn.regimes.thresholds import Regime

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

# From the best to the worst, as `Diagnosis.verdict` counts.
VERDICTS = ("stable", "vanishing", "exploding", "undetermined")


class LayerDiagnosis(NamedTuple):
    """What was found of one recurrent layer, or of one direction of it.

    Attributes:
        name: where it is in the model.
        kind: its cell and size.
        dtype: in which it was measured.
        num_sequences: number of sequences that it received.
        num_steps: of the shortest and of the longest of them.
        prediction: the regime, the growth over the horizon and the largest exponent.
        growth: nats, `(lags,)`: median over sequences of the growth of a gradient at every lag up
            to the shortest sequence, `[lag − 1]`; NaN where its digits are lost in all.
        memory: steps: the longest lag up to which the growth stays above the lower threshold. It is
            that of the shortest sequence where the growth never falls below.
        memory_ends: whether the growth falls below within the sequences.
        saturation: of each gate and kind of unit.
        digits: decimal digits of the dtype.
        digits_lost: of them, in the growth over the horizon, the median over sequences.
        credit: shares of the lags in ∂loss/∂θ; None without a loss, or where they are not known.
        advice: changes that make the layer stable, best first.
        searched: the changes that were searched, of "forget_bias" and "gain"; none for a layer that
            is stable or undetermined, or whose weights are not known.
        notes: what else a reader has to know, sentences.
        network: for a layer of a file, the code that loads the `network` which the advice changes.
    """

    name: str
    kind: str
    dtype: str
    num_sequences: int
    num_steps: tuple[int, int]
    prediction: RegimePrediction
    growth: Float[np.ndarray, " lags"]
    memory: int
    memory_ends: bool
    saturation: tuple[Saturation, ...]
    digits: float
    digits_lost: float
    credit: CreditByLag | None
    advice: tuple[Advice, ...]
    searched: tuple[str, ...]
    notes: tuple[str, ...]
    network: str

    @property
    def verdict(self) -> str:
        """One of "stable", "vanishing", "exploding" and "undetermined"."""
        if bool(self.prediction.undetermined):
            return "undetermined"
        return Regime(int(self.prediction.regime)).name.lower()


class Diagnosis(NamedTuple):
    """What `diagnose` found; `print` it for a page.

    Attributes:
        layers: one entry for each recurrent layer, in the order in which they were called.
    """

    layers: tuple[LayerDiagnosis, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of a layer, in the order of `VERDICTS`."""
        return max((layer.verdict for layer in self.layers), key=VERDICTS.index)

    def __str__(self) -> str:
        """Say it on a page of 80 columns."""
        from jacobian_rnn.diagnosis.page import write_page

        return write_page(self)

    def to_dataset(self) -> "xarray.Dataset":
        """Return the numbers as a labelled dataset, one entry of `layer` for each layer.

        Sequences and lags that a layer does not have are NaN.

        Raises:
            ImportError: the extra `report` is not installed.
        """
        from jacobian_rnn.diagnosis.datasets import dataset_of

        return dataset_of(self)

    def figure(self) -> "Figure":
        """Draw the growth by lag of each layer.

        Raises:
            ImportError: the extra `report` is not installed.
        """
        try:
            from matplotlib.figure import Figure as NewFigure
        except ImportError as error:
            msg = "figure: pip install 'jacobian_rnn[report]' (matplotlib)"
            raise ImportError(msg) from error
        from jacobian_rnn.plotting.layers import growth_by_lag

        figure = NewFigure(figsize=(7.2, 3.8), layout="constrained")
        axes: Any = figure.subplots()
        growth_by_lag(axes, self)
        if len(self.layers) > 1:
            axes.legend(fontsize="small", loc="best")
        return figure
