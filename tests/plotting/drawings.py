"""What tests read from what was drawn on an Axes."""

from matplotlib.colors import to_hex


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def marked(axes, label):
    """Return the line with a label that begins so: marks at an edge, or a curve."""
    (line,) = (line for line in axes.lines if str(line.get_label()).startswith(label))
    return line


def with_bars(axes, label):
    """Return the points with a label, or the only ones whose label begins so."""
    known = {one.get_label(): one for one in axes.containers}
    (name,) = {label} & set(known) or {name for name in known if name.startswith(label)}
    return known[name]


def points(axes, label):
    """Return places, values and half widths of error bars of the points with a label."""
    data, _, bars = with_bars(axes, label)
    halves = None
    if bars:
        halves = [(end[1] - start[1]) / 2 for start, end in bars[0].get_segments()]
    return *data.get_data(), halves


def is_open(axes, label):
    return to_hex(with_bars(axes, label)[0].get_markerfacecolor()) == "#ffffff"
