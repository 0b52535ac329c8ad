from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

def subplots(
    nrows: int, ncols: int, *, figsize: tuple[float, float], sharey: bool, squeeze: bool
) -> tuple[Figure, Sequence[Sequence[Axes]]]: ...
