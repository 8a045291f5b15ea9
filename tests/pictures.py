"""What every picture does, whatever it shows."""

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def check_drawing(draw, folder):
    """A Figure with a title that can be saved; matplotlib is left as it was."""
    before = dict(mpl.rcParams)
    figure = draw()
    figure.savefig(folder / "figure.png")
    assert isinstance(figure, Figure)
    assert (folder / "figure.png").stat().st_size > 5000
    assert any([ax.get_title(loc="left") for ax in figure.axes] + [figure.get_suptitle()])
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
