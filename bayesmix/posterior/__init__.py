"""Results of EM, NUTS, Laplace and the bootstrap as one kind of ArviZ DataTree.

Idea: all engines fill the same groups with the same names, so that all that follows (ArviZ,
relabelling, the card, plots) is one path. An EM result is a tree of one chain and one draw.

Groups: posterior (the latent sites), sample_stats, invariant (log joint, entropy and sorted
weights: quantities that do not depend on the names of the clusters), log_likelihood (pointwise,
assignment summed out), log_prior (of each latent site), observed_data, constant_data (weights,
where there are any), responsibilities (`resp`), pivot (sites and `resp` of EM's MAP, or of the
draw of highest log joint); prior, prior_predictive and posterior_predictive on request.

`layout` names variables, dims and coordinates, `groups` fills the groups, `attributes` says where
the numbers come from, `trees` is the door for each engine; `expected` is of new rows, and no
tree. Does not live here: any inference; the numbers come from `bayesmix.draws`.
"""

from bayesmix.posterior.expected import expected_dataset
from bayesmix.posterior.trees import em_tree, independent_tree, nuts_tree

__all__ = ["em_tree", "expected_dataset", "independent_tree", "nuts_tree"]
