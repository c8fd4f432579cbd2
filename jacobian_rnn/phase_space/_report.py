"""Fixed points in words."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jacobian_rnn.phase_space.search import FixedPoints

MOST_LINES = 12


def report(searched: "FixedPoints", distinct: "FixedPoints") -> list[str]:
    """Describe a search in lines: distinct points, tolerances, and starts that found none."""
    kinds = [(np.asarray(distinct.is_fixed), "fixed"), (np.asarray(distinct.is_slow), "slow")]
    found = " and ".join(_count(int(these.sum()), f"{kind} point") for these, kind in kinds)
    lines = [
        f"{found} from {_count(len(searched.speeds), 'start')}",
        "  speed: ‖F(h) − h‖ over the size of the state, the larger of ‖h‖ and the starts' median",
        f"  fixed: of at most {float(searched.fixed_speed):.1e}, or what rounding allows; slow: of "
        f"at most {float(searched.slow_speed):.1e}; the same: within "
        f"{float(searched.same_within):.1e} sizes",
    ]
    for i in range(min(len(distinct.speeds), MOST_LINES)):
        kind = "fixed" if distinct.is_fixed[i] else "slow"
        period = int(distinct.periods[i])
        cycle = "" if period == 1 else f", a cycle of {period} steps"
        degenerate = ", degenerate: 1 − J is singular" if distinct.is_degenerate[i] else ""
        lines.append(
            f"  {kind:<5}  speed {float(distinct.relative_speeds[i]):.1e}, size "
            f"{float(distinct.sizes[i]):.3g}, from "
            f"{_count(int(distinct.num_starts[i]), 'start')}{cycle}{degenerate}"
        )
    if len(distinct.speeds) > MOST_LINES:
        lines.append(f"  … and {len(distinct.speeds) - MOST_LINES} more")
    neither = ~np.asarray(searched.is_fixed | searched.is_slow)
    if neither.any():
        stopped = int(np.sum(neither & ~np.asarray(searched.converged)))
        lines.append(
            f"  {_count(int(neither.sum()), 'start')} found neither"
            + (f", and {stopped} of them were stopped: raise max_iterations" if stopped else "")
        )
    outliers = np.flatnonzero(np.asarray(searched.is_outlier))
    if outliers.size:
        shown = ", ".join(map(str, outliers[:8])) + ("" if outliers.size <= 8 else ", …")
        lines.append(f"  outliers, far from all starts and not listed: those of starts {shown}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
