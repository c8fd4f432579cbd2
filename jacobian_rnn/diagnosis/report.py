"""A diagnosis as one HTML file that needs no other."""

import base64
import importlib.metadata
import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from jacobian_rnn.diagnosis import words

if TYPE_CHECKING:
    from jacobian_rnn.diagnosis.result import Diagnosis


def html_report(diagnosis: "Diagnosis", source: str = "") -> str:
    """Return a page with pictures, to be read on a screen of any width.

    Args:
        diagnosis: what `diagnose` returned.
        source: where the weights and inputs come from, a sentence.

    Raises:
        ImportError: the extra `report` is not installed.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from jacobian_rnn import diagnose
        >>> layer = nnx.RNN(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0)))
        >>> batch = jax.random.normal(jax.random.key(0), (4, 60, 3))
        >>> "gradients survive" in html_report(diagnose(layer, batch, horizon=5))
        True
    """
    try:
        import jinja2
    except ImportError as error:
        msg = "html_report: pip install 'jacobian_rnn[report]' (Jinja2)"
        raise ImportError(msg) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jacobian_rnn.diagnosis", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Pictures are above this folder, and load matplotlib.
    from jacobian_rnn.plotting.layers import credit_by_lag, growth_by_lag

    headline, layers = words.headline(diagnosis), diagnosis.layers
    return environment.get_template("report.html.jinja").render(
        title=f"{headline} | jacobian_rnn",
        headline=headline[0].upper() + headline[1:],
        source=source,
        picture=_picture(partial(growth_by_lag, diagnosis=diagnosis), legend=len(layers) > 1),
        layers=[
            {
                "name": layer.name,
                "kind": layer.kind,
                "regime": layer.verdict,
                "verdict": words.verdict(layer).lower(),
                "growth": words.growth_at_lags(layer),
                "shares": words.shares_at_lags(layer),
                "statements": list(words.statements(layer)),
                "advice": [(words.in_words(advice), advice.code) for advice in layer.advice],
                "network": layer.network,
                "changed": words.changed(layer),
                "picture": ""
                if layer.credit is None
                else _picture(partial(credit_by_lag, credit=layer.credit)),
            }
            for layer in layers
        ],
        foot=words.FOOT,
        version=importlib.metadata.version("jacobian_rnn"),
        jax_version=jax.__version__,
    )


def _picture(draw: Callable[..., Any], *, legend: bool = False) -> str:
    """Draw on one Axes, legible on a phone, and return it as SVG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = draw(figure.subplots())
    if legend:
        axes.legend(fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return base64.b64encode(file.getvalue()).decode()
