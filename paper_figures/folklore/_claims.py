"""What others found of vanishing and exploding gradients, and what was found here, by numbers."""

import numpy as np
import xarray as xr

from experiments.folklore._verdicts import FAITHFUL, LARGE, NO_SLOPE, REACHED, SEVERAL
from paper_figures import style
from paper_figures.claims import Claim

CHECK = "the backward profile and the exact product agree, network by network"
CLIPPED = (
    "These networks explode before training: they are chaotic, so that the noise after the symbol "
    "drowns it, and clipping shortens updates without turning them"
)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """List what others found and was reproduced here, and what was found here."""
    pascanu, bengio = "Pascanu, Mikolov and Bengio (2013)", "Bengio, Simard and Frasconi (1994)"

    def claim(
        finding, statement, quantity, relation, expected, tolerance=0.0, source=None, reason=""
    ):
        found = dataset.sel(finding=finding)
        return Claim(
            statement=statement,
            source=source or "this package",
            quantity=style.caption(dataset, quantity),
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            measured=float(found["finding_value"]),
            uncertainty=float(found["finding_error"]),
            kind="reproduction" if source else "finding",
            reason=reason,
        )

    adam = "adam" in dataset["optimizer"]
    small = int(dataset["finding_value"].sel(finding="small norm"))
    return [
        claim("slope over λ₁", "gradients grow or shrink exponentially with depth, at the rate λ₁",
              "slope of the log gradient norm with depth, as a multiple of λ₁",
              "within", 1.0, 0.05, "Oseledets (1968)"),
        claim("profile within three errors", CHECK,
              f"fraction of networks within {SEVERAL} sampling errors over {{horizon}} steps",
              "at least", 0.97),
        claim("profile minus exact", CHECK,
              "profile minus exact log growth over {horizon} steps, mean over networks, nats",
              "within", 0.0, 0.1),
        claim("W alone minus λ₁", "W alone misjudges the rate of gradients: units saturate",
              "log spectral radius of W minus λ₁ where they differ most, nats per step",
              "at least", 0.5),
        *(claim(f"right, {rule}", "no size of W decides whether gradients explode or vanish",
                f"fraction of random networks that explode if the {rule} exceeds 1, and vanish if "
                "not",
                "at most", REACHED) for rule in dataset["rule"].to_numpy()),
        claim("small norm that vanishes", "where the norm of W is below 1, gradients vanish",
              f"fraction of {small} such SimpleCells with λ₁ < 0", "at least", 1.0, source=pascanu),
        claim("nilpotent rate", "a W of spectral radius 0 can make gradients grow: here double",
              "growth of the gradient, nats per step",
              "within", float(np.log(2)), 1e-9, pascanu),
        claim("saturated exponent", "gradients vanish for large weights where units saturate",
              "λ₁ of networks of gain 4 under large constant input, nats per step",
              "at most", 0.0, source=pascanu),
        claim("log10 error, best step", "a gradient is what a small enough change of input makes",
              "decimal exponent of the relative error at the best step size, worst lag",
              "at most", -3.0, source="definition of a derivative"),
        claim("log10 error, coarse, chaotic", "far back in a chaotic network it is not what a "
              "change of 0.01 makes", "decimal exponent of the relative error at gain "
              "{difference_gains[1]:g} and the longest lag", "at least", float(np.log10(FAITHFUL))),
        claim("skill far, zero slope, sgd", "gradient descent learns not what no gradient reaches",
              "skill at recall over {delay} steps where gradients vanish",
              "at most", 0.1, source=bengio),
        claim("skill near, zero slope, sgd", "the same networks do not stop learning what is near",
              "skill at recall over {short_delay} steps", "at least", 0.5),
        *(claim("learned far, zero slope, adam", "Adam teaches few of them over a vanishing "
                "gradient", "fraction that learned recall over {delay} steps", "at most", 0.5)
          for _ in range(adam)),
        claim("log10 update ratio", "exploding gradients make very large updates",
              "decimal exponent of the largest update where gradients explode over that where not",
              "at least", float(np.log10(LARGE)), source=bengio),
        claim("diverged, no clipping", "and yet a bounded network rarely diverges: it is stuck",
              "fraction of exploding networks that diverge without clipping", "at most", 0.5),
        claim("most rescued", "clipping the norm of the gradient rescues networks that explode",
              "fraction learned with clipping minus without, at the gain where it helps most",
              "at least", 0.5, source=pascanu, reason=CLIPPED),
        claim("learned, clipped", "clipping does not rescue those that explode most",
              "fraction learned with clipping at the largest gain", "at most", 0.5),
        claim("log growth, LSTM", "gradients of default LSTMs vanish",
              "log growth over {horizon} steps, nats", "at most", NO_SLOPE),
        claim("LSTM minus SimpleCell", "and they do so faster than in default SimpleCells",
              "λ₁ of LSTMs minus that of SimpleCells, nats per step", "at most", 0.0),
        claim("log growth, LSTM, chrono biases", "LSTMs with chrono biases keep their gradients",
              "log growth over {horizon} steps, nats",
              "at least", NO_SLOPE, source="Tallec and Ollivier (2018)"),
        claim("exponent, LSTM, large gain", "gradients of LSTMs can explode",
              "λ₁ of LSTMs with gain {large_gain:g}, nats per step",
              "at least", 0.0, source=pascanu),
    ]  # fmt: skip
