"""What the measurements come to for each statement: numbers with errors, and a verdict."""

import numpy as np
import xarray as xr

import jacobian_rnn as jrnn

SMALL_STEP = 0.01  # what one might call a little, next to inputs of order one
FAITHFUL = 0.1  # relative error up to which a finite difference counts as the gradient's
REACHED = 0.9  # a rule that decides is right as often
LARGE = 10  # times the updates of networks whose gradients survive
LEARNED = 0.5  # skill; as `jrnn.observe_regime` has it
NO_SLOPE = -17.1  # nats: 4e-8 of a gradient, less than float32 tells from nothing beside 1
SEVERAL = 3  # sampling errors within which the backward profile is to be right
Finding = tuple[float, float]  # value, standard error; NaN where it has none


def findings(dataset: xr.Dataset) -> dict[str, Finding]:
    """Reduce the measurements of all statements to numbers, each with its standard error."""
    parts = (_depth, _profile, _rules, _differences, _recall, _updates, _memory)
    return {name: found for part in parts for name, found in part(dataset).items()}


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    """Say in one line what the numbers make of each statement."""
    value = {name: number for name, (number, _) in found.items()}
    slope, slope_error = found["slope over λ₁"]
    excess, excess_error = found["W alone minus λ₁"]
    best = max((name for name in value if name.startswith("right, ")), key=value.__getitem__)
    rule, right = best.removeprefix("right, "), f"{value[best]:.0%}"
    chaotic = value["reach, chaotic"]
    return {
        "a": (
            f"{_true(abs(slope - 1) <= 0.05 + 2 * slope_error)}: the slope is λ₁ × "
            f"{slope:.3f} ± {slope_error:.3f}"
        ),
        "b": (
            f"{_true(abs(excess) <= 0.05)}: W alone is off by up to {excess:.2f} ± "
            f"{excess_error:.2f} nats per step"
        ),
        "c": (
            f"{rule.capitalize()} decides, {right} right"
            if value[best] >= REACHED
            else f"None decides: {rule} is best, {right} right"
        ),
        "d": (
            f"False: the error is 10^{value['log10 error, best step']:.1f} at best"
            if value["log10 error, best step"] > np.log10(FAITHFUL)
            else f"True, if “a little” is below {value['reach, stable']:.1g}, in a chaotic network "
            f"below {chaotic:.0e}"
            if chaotic < SMALL_STEP
            else f"True for changes of up to {chaotic:.1g}"
        ),
        "e": _of_recall(value),
        "f": _of_updates(value),
        "g": _of_memory(value),
    }


def _of_recall(value):
    if not value["zero slope networks"]:
        return "Not measured: no network was without slope"
    # Rounded first: no skill is 0.00, not −0.00.
    far, near = (round(value[f"skill {lag}, zero slope, sgd"], 2) + 0 for lag in ("far", "near"))
    word = "False" if far > LEARNED else "Half true" if near > LEARNED else "True"
    adam = value.get("learned far, zero slope, adam")
    besides = "" if adam is None else f"; Adam escapes in {adam:.0%}"
    return f"{word}: skill far back {far:.2f}, near {near:.2f}{besides}"


def _of_updates(value):
    ratio, diverged = 10 ** value["log10 update ratio"], value["diverged, no clipping"]
    word = ("False", "Half true", "True")[[ratio > LARGE, diverged >= 0.5].count(True)]
    return (
        f"{word}: updates × {float(f'{ratio:.1e}'):,.4g}; diverged {diverged:.0%}, "
        f"stuck {value['stuck, no clipping']:.0%}"
    )


def _of_memory(value):
    lost = value["log growth, LSTM"] < NO_SLOPE
    kept = value["log growth, LSTM, chrono biases"] >= NO_SLOPE
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


def _depth(dataset):
    slope, exponent = dataset["chain_slope"], dataset["chain_exponent"]
    points = ("gain", "chain")
    # Least squares through the origin, for each set of networks at all points.
    ratio = (slope * exponent).sum(points) / (exponent**2).sum(points)
    excess = dataset["weight_rate"] - exponent.sel(chain="recurrent")
    worst = int(np.abs(excess.mean("network")).argmax("gain"))
    return {"slope over λ₁": _mean(ratio), "W alone minus λ₁": _mean(excess.isel(gain=worst))}


def profile_scores(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """Return what the backward profile is off the exact product, in sampling errors."""
    return (dataset[f"{name}_profile"] - dataset[f"{name}_exact"]) / dataset[
        f"{name}_profile_error"
    ]


def _profile(dataset):
    def every(values):
        rows = [values(name).to_numpy().reshape(-1, num_lags) for name in ("chain", "memory")]
        return np.concatenate(rows)

    num_lags = dataset.sizes["compared_lag"]
    scores = every(lambda name: profile_scores(dataset, name))
    off = every(lambda name: dataset[f"{name}_profile"] - dataset[f"{name}_exact"])
    return {
        "profile within three errors": _share(np.abs(scores[:, -1]) <= SEVERAL),
        "profile minus exact": (off[:, -1].mean(), off[:, -1].std(ddof=1) / len(off) ** 0.5),
        "largest |profile minus exact|": (np.abs(off).max(), np.nan),
        "largest profile score": (np.abs(scores).max(), np.nan),
    }


def _rules(dataset):
    sizes, grows = dataset["rule_size"], dataset["rule_exponent"] > 0
    right = (sizes > 1) == grows
    # The norm bounds the gradient of a plain tanh network; a gate may keep the state besides.
    plain = dataset["kind"].str.startswith("SimpleCell")
    small = (sizes.sel(rule="norm") < 1) & plain
    most = np.maximum(grows.mean("rule_network"), 1 - grows.mean("rule_network"))
    num_small = float(small.sum())
    vanishing = float((small & ~grows).sum()) / num_small if num_small else np.nan
    rate = dataset["counter_rate"]
    return {
        **{f"right, {rule}": _share(right.sel(rule=rule)) for rule in right["rule"].to_numpy()},
        "majority right": (float(most.mean()), np.nan),
        "small norm": (num_small, np.nan),
        "small norm that vanishes": (vanishing, np.nan),
        "nilpotent rate": (float(rate.sel(counterexample="nilpotent")[0]), np.nan),
        "saturated exponent": _mean(rate.sel(counterexample="saturated")),
    }


def _differences(dataset):
    error = dataset["difference_error"]
    stable, chaotic = error.isel(difference_gain=0, lag=-1), error.isel(difference_gain=-1, lag=-1)
    best = np.log10(error.min("step_size")).stack(point=("difference_gain", "lag"))
    worst = int(best.mean("network").argmax("point"))
    coarse = np.log10(chaotic.sel(step_size=SMALL_STEP, method="nearest"))
    return {
        "log10 error, best step": _mean(best.isel(point=worst)),
        "log10 error, coarse, chaotic": _mean(coarse),
        "reach, stable": (reach_of(stable.median("network")), np.nan),
        "reach, chaotic": (reach_of(chaotic.median("network")), np.nan),
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


def _recall(dataset):
    # The growth over the far lag says which networks have no slope; it selects at both lags.
    growth, skill = dataset["recall_log_growth"].isel(recall_lag=-1), dataset["recall_skill"]
    without = growth < NO_SLOPE
    found = {"zero slope networks": (float(without.isel(optimizer=0).sum()), np.nan)}
    for optimizer in dataset["optimizer"].to_numpy():
        near, far = (skill.sel(optimizer=optimizer).isel(recall_lag=place) for place in (0, -1))
        group = without.sel(optimizer=optimizer)
        found[f"skill near, zero slope, {optimizer}"] = _mean_over_seeds(near.where(group))
        found[f"skill far, zero slope, {optimizer}"] = _mean_over_seeds(far.where(group))
        learned = (far >= LEARNED).where(group)
        found[f"learned far, zero slope, {optimizer}"] = _mean_over_seeds(learned)
    return found


def _updates(dataset):
    largest = np.log10(dataset["update_largest"].sel(clip="no clipping"))
    ratio = largest.isel(update_gain=-1) - largest.isel(update_gain=0)
    found = {"log10 update ratio": _mean(ratio, "seed")}
    outcome = dataset["update_outcome"]
    for clip in outcome["clip"].to_numpy():
        for one in jrnn.Outcome:
            share = outcome.isel(update_gain=-1).sel(clip=clip) == int(one)
            found[f"{one.name.lower()}, {clip}"] = _share(share)
    # Where gradients explode at all, at which gain does clipping help most?
    explodes = dataset["update_log_growth"].mean(("clip", "seed")) > 0
    learned = (outcome == int(jrnn.Outcome.LEARNED)).isel(update_gain=explodes.to_numpy())
    rescued = [
        (clipped - plain, np.hypot(error, plain_error))
        for gain in learned["update_gain"].to_numpy()
        for (clipped, error), (plain, plain_error) in [
            [
                _share(learned.sel(update_gain=gain, clip=clip))
                for clip in ("clipped", "no clipping")
            ]
        ]
    ]
    return found | {"most rescued": max(rescued, default=(np.nan, np.nan))}


def _memory(dataset):
    growth, exponent = dataset["memory_log_gradient"].isel(depth=-1), dataset["memory_exponent"]
    found = {}
    for kind in growth["initialisation"].to_numpy():
        found[f"log growth, {kind}"] = _mean(growth.sel(initialisation=kind))
        found[f"exponent, {kind}"] = _mean(exponent.sel(initialisation=kind))
    # Networks drawn apart, under the same inputs.
    excess = exponent.sel(initialisation="LSTM") - exponent.sel(initialisation="SimpleCell")
    found["LSTM minus SimpleCell"] = _mean(excess)
    return found


def _mean(values, dim="network"):
    """Return the mean along a dimension, and its standard error."""
    return float(values.mean(dim)), float(values.std(dim, ddof=1)) / values.sizes[dim] ** 0.5


def _share(true):
    """Return the fraction of cases, with a binomial error that is no zero at 0 and 1."""
    count, successes = true.size, float(true.sum())
    # A. Agresti and B. A. Coull, Am. Stat. 52 (1998): two successes and two failures more.
    middle = (successes + 2) / (count + 4)
    return successes / count, (middle * (1 - middle) / (count + 4)) ** 0.5


def _mean_over_seeds(values):
    """Average over a group; seeds are independent, networks of one seed share their data."""
    of_seeds = values.mean([name for name in values.dims if name != "seed"]).dropna("seed")
    return _mean(of_seeds, "seed") if of_seeds.size > 1 else (float(values.mean()), np.nan)
