"""Mixture models as NumPyro programs, fitted by EM and by NUTS, compared through ArviZ."""

from importlib.metadata import PackageNotFoundError, version

from bayesmix import datasets, models, plots
from bayesmix.adopt import adopt
from bayesmix.card import Card, card
from bayesmix.certify import certify
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
from bayesmix.mstep import rule
from bayesmix.nuts import NUTS, NUTSResult
from bayesmix.program import Mixture, trace
from bayesmix.relabel import relabel
from bayesmix.relabel.report import LabelReport, label_report

try:
    __version__ = version("bayesmix")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "EM",
    "NUTS",
    "Card",
    "Diagnosis",
    "EMResult",
    "LabelReport",
    "Mixture",
    "NUTSResult",
    "adopt",
    "card",
    "certify",
    "datasets",
    "diagnose",
    "expected_log_joint",
    "family",
    "label_report",
    "log_density",
    "log_joint",
    "log_prior",
    "models",
    "plots",
    "relabel",
    "responsibilities",
    "rule",
    "trace",
]
