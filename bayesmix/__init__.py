"""Mixture models as NumPyro programs, fitted by EM and by NUTS, compared through ArviZ."""

from importlib.metadata import PackageNotFoundError, version

from bayesmix import datasets, models, plots
from bayesmix.adopt import adopt
from bayesmix.allocations import allocations
from bayesmix.approximate import LaplaceResult
from bayesmix.blocks import Blocks
from bayesmix.bootstrap import BootstrapResult
from bayesmix.calibrate import Calibration, calibrate
from bayesmix.card import Card, card
from bayesmix.certify import certify
from bayesmix.compare import Comparison, compare
from bayesmix.density import (
    expected_log_joint,
    log_density,
    log_joint,
    log_prior,
    responsibilities,
)
from bayesmix.diagnose import Diagnosis, diagnose
from bayesmix.em import EM
from bayesmix.estimate import EMResult
from bayesmix.families import family
from bayesmix.impute import impute
from bayesmix.marginal import marginalize
from bayesmix.mstep import rule
from bayesmix.nuts import NUTS, NUTSResult
from bayesmix.partition import Partition, partition
from bayesmix.partition.ball import CredibleBall, credible_ball
from bayesmix.partition.certainty import n_occupied, stability
from bayesmix.partition.combine import Combination, combine
from bayesmix.partition.losses import adjusted_rand, binder, vi
from bayesmix.partition.represent import Representatives, representatives
from bayesmix.program import Mixture, trace
from bayesmix.relabel import relabel
from bayesmix.relabel.report import LabelReport, label_report
from bayesmix.similarity import entropy, similarity
from bayesmix.skew_normal import SkewNormal
from bayesmix.smc import SMC, SMCResult
from bayesmix.vector_mixture import VectorMixture

try:
    __version__ = version("bayesmix")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "EM",
    "NUTS",
    "SMC",
    "Blocks",
    "BootstrapResult",
    "Calibration",
    "Card",
    "Combination",
    "Comparison",
    "CredibleBall",
    "Diagnosis",
    "EMResult",
    "LabelReport",
    "LaplaceResult",
    "Mixture",
    "NUTSResult",
    "Partition",
    "Representatives",
    "SMCResult",
    "SkewNormal",
    "VectorMixture",
    "adjusted_rand",
    "adopt",
    "allocations",
    "binder",
    "calibrate",
    "card",
    "certify",
    "combine",
    "compare",
    "credible_ball",
    "datasets",
    "diagnose",
    "entropy",
    "expected_log_joint",
    "family",
    "impute",
    "label_report",
    "log_density",
    "log_joint",
    "log_prior",
    "marginalize",
    "models",
    "n_occupied",
    "partition",
    "plots",
    "relabel",
    "representatives",
    "responsibilities",
    "rule",
    "similarity",
    "stability",
    "trace",
    "vi",
]
