"""What the measurements come to for each statement: numbers with errors, and a verdict."""

import numpy as np
import xarray as xr

import jacobian_rnn as jrnn

SMALL_STEP = 0.01  # what one might call a little, next to inputs of order one
FAITHFUL = 0.1  # relative error up to which a finite difference counts as the gradient's
REACHED = 0.9  # a rule that decides is right as often
LARGE = 10  # times the updates of networks whose gradients survive
LEARNED = 0.5  # skill; as `jrnn.observe_regime` has it
Finding = tuple[float, float]  # value, standard error; NaN where it has none


def findings(dataset: xr.Dataset) -> dict[str, Finding]:
    """Reduce the measurements of all statements to numbers, each with its standard error."""
    parts = (_depth, _factor, _rules, _differences, _slope, _updates, _memory)
    return {name: found for part in parts for name, found in part(dataset).items()}


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    """Say in one line what the numbers make of each statement."""
    value = {name: number for name, (number, _) in found.items()}
    error = {name: number for name, (_, number) in found.items()}
    rules = [name for name in value if name.startswith("rule right, ")]
    best = max(rules, key=value.__getitem__)
    best_name = best.removeprefix("rule right, ")
    right = f"{value[best]:.0%}"
    return {
        "a": (
            f"{_true(abs(value['slope ratio'] - 1) <= 0.05 + 2 * error['slope ratio'])}: the "
            f"slope is λ₁ × {value['slope ratio']:.3f} ± {error['slope ratio']:.3f}"
        ),
        "b": (
            f"False: W alone is off by up to {value['factor excess']:.2f} nats per step"
            if value["factor excess"] > 0.05
            else f"True: W alone is right to {value['factor excess']:.2f} nats per step"
        ),
        "c": (
            f"{best_name.capitalize()} decides, {right} right"
            if value[best] >= REACHED
            else f"None decides: {best_name} is best, {right} right"
        ),
        "d": (
            f"False: the error is {value['best error']:.0e} at best"
            if value["best error"] > FAITHFUL
            else f"True, if “a little” is below {value['reach, stable']:.1g}, in a chaotic network "
            f"below {value['reach, chaotic']:.0e}"
            if value["reach, chaotic"] < SMALL_STEP
            else f"True for changes of up to {value['reach, chaotic']:.1g}"
        ),
        "e": _of_slope(value),
        "f": _of_updates(value),
        "g": _of_memory(value),
    }


def _of_slope(value):
    if not value["zero slope networks"]:
        return "Not measured: no network was without slope"
    far, near = (value[f"skill {lag}, zero slope, gradient descent"] for lag in ("far", "near"))
    word = "False" if far > LEARNED else "Half true" if near > LEARNED else "True"
    adam = value.get("learned far, zero slope, Adam")
    besides = "" if adam is None else f"; Adam escapes in {adam:.0%}"
    return f"{word}: skill far back {far:.2f}, near {near:.2f}{besides}"


def _of_updates(value):
    large, diverged = value["update ratio"] > LARGE, value["diverged, no clipping"]
    unstable = diverged >= 0.5
    word = "True" if large and unstable else "Half true" if large or unstable else "False"
    return (
        f"{word}: updates × {_round(value['update ratio'])}; diverged {diverged:.0%}, "
        f"stuck {value['stuck, no clipping']:.0%}"
    )


def _of_memory(value):
    lost = value["log growth, LSTM"] < jrnn.THRESHOLDS.vanishing
    kept = value["log growth, LSTM, chrono biases"] >= jrnn.THRESHOLDS.vanishing
    grows = value["exponent, LSTM, large gain"] > 0
    if lost and kept:
        vanishing = "they vanish unless biased to remember"
    else:
        vanishing = "they vanish" if lost else "they do not vanish"
    exploding = "can explode" if grows else "did not explode"
    word = {(True, True): "Half true", (False, True): "True"}.get((lost, grows), "False")
    return f"{word}: {vanishing}, and {exploding}"


def _true(holds):
    return "True" if holds else "False"


def _round(number):
    """Write a factor to two digits."""
    return f"{float(f'{number:.1e}'):,.4g}"


def _depth(dataset):
    slope, exponent = dataset["depth_slope"], dataset["depth_exponent"]
    points = ("gain", "chain")
    # Least squares through the origin, for each set of networks at all points.
    ratio = (slope * exponent).sum(points) / (exponent**2).sum(points)
    difference = (slope - exponent).mean("network")
    error = standard_error(slope - exponent)
    worst = int(np.abs(difference / error).to_numpy().argmax())
    return {
        "slope ratio": _mean(ratio),
        "slope error": (
            float(difference.to_numpy().flat[worst]),
            float(error.to_numpy().flat[worst]),
        ),
    }


def _factor(dataset):
    alone, exponent = dataset["factor_alone"], dataset["factor_exponent"]
    excess = (alone - exponent).mean("network")
    gain = excess["gain"][int(np.abs(excess.to_numpy()).argmax())]
    wrong = (alone > 0) != (exponent > 0)
    return {
        "factor excess": _mean((alone - exponent).sel(gain=gain)),
        "factor wrong sign": _share(wrong),
    }


def _rules(dataset):
    sizes, grows = dataset["rule_size"], dataset["rule_exponent"] > 0
    right = (sizes > 1) == grows
    # The norm bounds the gradient of a plain tanh network; a gate may keep the state besides.
    plain = dataset["kind"].str.startswith("SimpleCell")
    small = (sizes.sel(rule="norm") < 1) & plain
    most = np.maximum(grows.mean("rule_network"), 1 - grows.mean("rule_network"))
    num_small = int(small.sum())
    return {
        **{
            f"rule right, {name}": _share(right.sel(rule=name)) for name in right["rule"].to_numpy()
        },
        "majority right": (float(most.mean()), np.nan),
        "small norm": (float(num_small), np.nan),
        "small norm that vanishes": (
            float((small & ~grows).sum() / num_small) if num_small else np.nan,
            np.nan,
        ),
        "nilpotent rate": (float(dataset["nilpotent_rate"]), np.nan),
        "saturated exponent": _mean(dataset["saturated_exponent"]),
    }


def _differences(dataset):
    error = dataset["difference_error"].median("network")
    stable, chaotic = error.isel(difference_gain=0), error.isel(difference_gain=-1)
    coarse = chaotic.isel(lag=-1).sel(step_size=SMALL_STEP, method="nearest")
    reaches = {
        "reach, stable": reach_of(stable.isel(lag=-1)),
        "reach, chaotic": reach_of(chaotic.isel(lag=-1)),
    }
    return {
        "best error": (float(error.min("step_size").max()), np.nan),
        "coarse error": (float(coarse), np.nan),
        **{name: (reach, np.nan) for name, reach in reaches.items()},
    }


def reach_of(error: xr.DataArray) -> float:
    """Return the largest step size up to which, from the best one on, the gradient is faithful."""
    steps, errors = error["step_size"].to_numpy(), error.to_numpy()
    best = int(errors.argmin())
    if errors[best] > FAITHFUL:
        return np.nan
    after = np.flatnonzero(errors[best:] > FAITHFUL)
    if not after.size:
        return float(steps[-1])
    crossing = best + int(after[0])
    ends = slice(crossing - 1, crossing + 1)
    return float(np.exp(np.interp(np.log(FAITHFUL), np.log(errors[ends]), np.log(steps[ends]))))


def _slope(dataset):
    # The gain at the far lag says which networks have no slope; it selects at both lags.
    gain, skill = dataset["slope_log_growth"].isel(recall_lag=-1), dataset["slope_skill"]
    without = gain < jrnn.THRESHOLDS.vanishing
    found = {"zero slope networks": (float(without.isel(optimizer=0).sum()), np.nan)}
    for optimizer in dataset["optimizer"].to_numpy():
        group = without.sel(optimizer=optimizer)
        for lag, place in (("near", 0), ("far", -1)):
            of_lag = skill.sel(optimizer=optimizer).isel(recall_lag=place)
            found[f"skill {lag}, zero slope, {optimizer}"] = _mean_over_seeds(of_lag.where(group))
        some = of_lag.where(~group)  # far
        found[f"skill far, some slope, {optimizer}"] = _mean_over_seeds(some)
        learned = of_lag.to_numpy()[group.to_numpy()] >= LEARNED
        found[f"learned far, zero slope, {optimizer}"] = _share(learned)
    return found


def _updates(dataset):
    plain = dataset["update_norm"].sel(clip="no clipping")
    largest = plain.max("update", skipna=False)
    largest = largest.where(np.isfinite(largest), np.inf)
    ratio = np.log(largest.isel(update_gain=-1)) - np.log(largest.isel(update_gain=0))
    log_ratio = float(ratio.mean("seed"))
    outcome = dataset["update_outcome"].isel(update_gain=-1)
    found = {
        "update ratio": (
            np.exp(log_ratio),
            np.exp(log_ratio) * float(standard_error(ratio, "seed")),
        ),
    }
    for clip, words in (("no clipping", "no clipping"), ("clipped at norm 1", "clipped")):
        for one in jrnn.Outcome:
            share = outcome.sel(clip=clip) == int(one)
            found[f"{one.name.lower()}, {words}"] = _share(share)
    # Where gradients explode at all, at which gain does clipping help most?
    explodes = dataset["update_log_growth"].mean(("clip", "seed")) > 0
    learned = (dataset["update_outcome"] == int(jrnn.Outcome.LEARNED)).where(explodes)
    rescued = (learned.sel(clip="clipped at norm 1") - learned.sel(clip="no clipping")).mean("seed")
    found["most rescued"] = (float(rescued.max()), np.nan)
    return found


def _memory(dataset):
    gain, exponent = dataset["memory_log_gradient"].isel(memory_lag=-1), dataset["memory_exponent"]
    found = {}
    for kind in gain["initialisation"].to_numpy():
        found[f"log growth, {kind}"] = _mean(gain.sel(initialisation=kind))
        found[f"exponent, {kind}"] = _mean(exponent.sel(initialisation=kind))
    # Networks drawn apart, under the same inputs.
    excess = exponent.sel(initialisation="LSTM") - exponent.sel(initialisation="SimpleCell")
    found["LSTM minus SimpleCell"] = _mean(excess)
    return found


def standard_error(values: xr.DataArray, dim: str = "network") -> xr.DataArray:
    """Return the standard error of the mean along a dimension."""
    return values.std(dim, ddof=1) / np.sqrt(values.sizes[dim])


def _mean(values, dim="network"):
    return float(values.mean(dim)), float(standard_error(values, dim))


def _share(true):
    """Return the fraction of cases, with its binomial error."""
    if not true.size:
        return np.nan, np.nan
    fraction = float(true.mean())
    return fraction, float(np.sqrt(fraction * (1 - fraction) / true.size))


def _mean_over_seeds(values):
    """Average over a group; seeds are independent, networks of one seed share their data."""
    of_seeds = values.mean([name for name in values.dims if name != "seed"]).dropna("seed")
    return _mean(of_seeds, "seed") if of_seeds.size > 1 else (float(values.mean()), np.nan)
