"""The command `bayesmix`: from a CSV file to both fits, the card and the figures, in one line.

`table` reads and checks a user's table, `job` runs the fits and tells how far they are, `folder`
writes a result directory whole or not at all; `calibration` is `bayesmix calibrate`. Does not live
here: models, inference, drawing.

A user's mistake is a `Refusal`: one sentence on stderr and exit code 2, no traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bayesmix.cli.calibration import PROGRAMS, SAMPLERS, calibrate_all
from bayesmix.cli.folder import version_text
from bayesmix.cli.job import COVARIANCES, EXAMPLES, fit, say
from bayesmix.cli.kinds import HELP, MODELS
from bayesmix.cli.table import Refusal

__all__ = ["Refusal", "main"]

REFUSED, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 2 refused with one sentence, 130 interrupted."""
    if argv is None:
        _forgive_encodings()
    try:
        options = _parser().parse_args(argv)
        if options.command is None:
            raise Refusal("say what to do, for example: bayesmix fit --example faithful")
        if options.command == "calibrate":
            return calibrate_all(options)
        fit(options)
    except Refusal as refusal:
        say(f"bayesmix: {refusal}")
        return REFUSED
    except KeyboardInterrupt:
        say(("\n" if sys.stderr.isatty() else "") + "bayesmix: stopped, nothing was written")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    return 0


def _forgive_encodings() -> None:
    """A terminal without UTF-8 shows `?` for a sign it lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


# Arguments.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message.removeprefix('argument ')} (see bayesmix fit --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bayesmix",
        description="Mixture models, fitted by EM and by NUTS, and compared.",
        epilog="example: bayesmix fit --example faithful",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bayesmix {version_text()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    fit = commands.add_parser(
        "fit",
        help="fit a mixture to the columns of a CSV file",
        description=(
            "Fit a mixture to the columns of a CSV file by EM (the MAP and its rivals) and by NUTS "
            "(the posterior), and write a directory with both fits, the card that compares them, "
            "each row's clusters, and figures."
        ),
        epilog="example: bayesmix fit flowers.csv --columns length,width --clusters 3",
        allow_abbrev=False,
    )
    _add_fit_arguments(fit)
    check = commands.add_parser(
        "calibrate",
        help="check the samplers on simulated data",
        description=(
            "Simulation-based calibration: draw parameters from the prior and data from them, "
            "sample the posterior, and test that the truth's rank among the draws is uniform. "
            "Exit code 1 where it is not."
        ),
        allow_abbrev=False,
    )
    check.add_argument("--model", choices=PROGRAMS, help="only this one (default: all)")
    check.add_argument("--sampler", choices=SAMPLERS, default="nuts", help="nuts or smc (nuts)")
    check.add_argument("--replicates", type=_positive, default=200, metavar="N", help="(200)")
    check.add_argument("--seed", type=_natural, default=0, metavar="N", help="random seed (0)")
    return parser


def _add_fit_arguments(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("data", nargs="?", metavar="data.csv", help="a CSV file with a header line")
    fit.add_argument("--example", choices=EXAMPLES, help="use a data set that comes along")
    fit.add_argument("--clusters", type=_positive, metavar="K", help="number of clusters")
    fit.add_argument("--columns", metavar="A,B", help="columns to use (default: all)")
    fit.add_argument("--model", choices=MODELS, metavar="NAME", help=HELP)
    fit.add_argument(
        "--kinds", metavar="A=KIND,B=KIND",
        help="columns of different kinds: those of --model, and normal; the gaussian ones share a "
        "covariance matrix (height=normal,visits=poisson,region=categorical)",
    )  # fmt: skip
    fit.add_argument(
        "--covariance", choices=COVARIANCES, metavar="NAME",
        help="of gaussian and student_t clusters: full, tied, diag, spherical; of gaussian ones "
        "mclust's VEV, EII, …, too (full)",
    )  # fmt: skip
    fit.add_argument("--out", metavar="DIR", help="where to write (default: NAME-fit)")
    fit.add_argument("--force", action="store_true", help="replace an earlier result in DIR")
    fit.add_argument("--seed", type=_natural, default=0, metavar="N", help="random seed (0)")
    fit.add_argument("--chains", type=_positive, default=4, metavar="N", help="NUTS chains (4)")
    fit.add_argument(
        "--draws", type=_positive, default=1000, metavar="N", help="NUTS draws per chain (1000)"
    )
    fit.add_argument("--no-figures", action="store_true", help="write no figures")


def _positive(text: str) -> int:
    return _whole(text, at_least=1, kind="a positive whole number")


def _natural(text: str) -> int:
    return _whole(text, at_least=0, kind="a whole number, 0 or more")


def _whole(text: str, *, at_least: int, kind: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = at_least - 1
    if not at_least <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}")
    return value
