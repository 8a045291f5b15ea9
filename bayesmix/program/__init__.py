"""A NumPyro program and its data, read as a mixture.

``trace`` runs the program once on abstract values (nothing is sampled, nothing is compiled) and
returns a ``Mixture``: the latent sites with their priors, the observed mixture, which parameter
of the components each site feeds, and the arithmetic of all log densities as a graph. Everything
that fits a mixture works on that graph, so the objective is the program's own, never a second
version of it.

Lives here: `program`. `sites` and `mixture` are what is returned, `data` computes its observed
side, `latent` describes its parameters, `kept` has the readings kept between fits, `tracing` puts
them together. Does not live here: how a program is run (`reader`).
"""

from bayesmix.program.mixture import Mixture
from bayesmix.program.sites import Link, Observed, Params, Site
from bayesmix.program.tracing import arguments_of, mixture_of, trace

__all__ = ["Link", "Mixture", "Observed", "Params", "Site", "arguments_of", "mixture_of", "trace"]
