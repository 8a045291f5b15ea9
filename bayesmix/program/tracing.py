"""A program and its data read as a mixture.

A kept reading takes the new data; else the program is run anew, and its reading is put together
from the rooms beside this one.
"""

import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import replace
from traceback import walk_tb
from typing import Any

import jax

from bayesmix.arguments import Arguments, read_arguments, row_labels_of
from bayesmix.blocks import Blocks
from bayesmix.carry import mark, unpacked
from bayesmix.checks import check_data
from bayesmix.graph import Axes
from bayesmix.observed import Found
from bayesmix.program.data import event_dims, given_data, known, observed_site, side_by_side
from bayesmix.program.kept import keep, key_of, recall
from bayesmix.program.latent import cluster_axes, latent_site, links_of, plate_dims
from bayesmix.program.mixture import Mixture
from bayesmix.reader import NEEDS_VALUES, Reading, read

LIBRARIES = {"bayesmix", "jax", "jaxlib", "numpy", "numpyro", "scipy"}
READ = {"levels"}  # what a program's reading of tables is told of the fit
NO_VALUE = (
    "it needs the number in a latent site, which has none while the program is read: write jnp "
    "where NumPy is called (jnp.log for np.log), and jnp.where(condition, a, b) for a Python if"
)


def trace(program: Callable[..., Any], *args: Any, **kwargs: Any) -> Mixture:
    """Read a NumPyro program and its data as a mixture.

    The program is run once with abstract values: nothing is sampled or compiled. Arrays, tables
    and lists among the arguments are data; Python numbers and strings are static.

    Raises ValueError, naming the site, what was found and what to write instead, when there is no
    observed mixture site or more than one, when a discrete latent site is not summed out, when a
    plate is subsampled, and when the data do not match the program.
    """
    if not callable(program):
        raise ValueError(f"program must be a NumPyro program (a function), not {program!r}")
    return mixture_of(program, arguments_of(program, args, kwargs))


def arguments_of(
    program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments:
    """The arguments of a program as arrays; read by the program itself where it reads tables."""
    prepare = getattr(program, "prepare", None)
    _check_call(program, prepare or program, args, kwargs)
    if prepare is None:
        return read_arguments(args, kwargs)
    labels = row_labels_of(args, kwargs)
    return replace(read_arguments(*prepare(*args, **kwargs)), index=labels)


def restored(found: Any, given: Any, names: dict[str, Any], known: Any) -> Mixture:
    """A pickled mixture. Raises ValueError where its program is no longer what it was."""
    program = unpacked(found)
    mixture = mixture_of(program, replace(read_arguments(*given), **names))
    with jax.enable_x64(True):
        versions, now = mark(mixture.reading)
    if versions == known[0] and now != known[1]:
        raise ValueError(
            f"the program {getattr(program, '__name__', program)!r} has changed since the result "
            "was pickled: fit it again, or load the result beside the program it was fitted with"
        )
    return mixture


def mixture_of(program: Callable[..., Any], arguments: Arguments) -> Mixture:
    """The mixture of a program and its arguments, of which a reading may have been kept."""
    key = key_of(program, arguments)
    with jax.enable_x64(True):
        mixture = recall(key, program, arguments)
        if mixture is None:
            mixture = _read_anew(program, arguments)
            if key is not None and not mixture.static_data:
                keep(key, mixture)
        check_data(mixture)
    return mixture


def _check_call(program: Any, called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse data that a program, or what reads its tables, cannot be called with."""
    signature = inspect.signature(called)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        needed = ", ".join(name for name in signature.parameters if name not in READ)
        name = getattr(program, "__name__", "the program")
        raise ValueError(f"{name} takes its data as ({needed}): {error}") from None


def _read_anew(program: Callable[..., Any], arguments: Arguments) -> Mixture:
    """The program run on abstract values, or on the data as constants where it needs them."""
    try:
        reading, found = read(program, arguments, static_data=False)
        static_data = False
    except NEEDS_VALUES as error:
        if any(isinstance(array, Blocks) for array in arguments.arrays):
            raise ValueError(
                "the program needs the data's values to run, and Blocks are never held: give "
                "such numbers (how many groups, say) to the program as an argument"
            ) from error
        try:
            reading, found = read(program, arguments, static_data=True)
        except NEEDS_VALUES as again:
            raise ValueError(f"{_line_of(again)}: {NO_VALUE}") from again
        static_data = True
    return _assemble(program, arguments, reading, found, static_data)


def _line_of(error: BaseException) -> str:
    """The last line of the user's own code on the way to an error."""
    place = "the program"
    for frame, number in walk_tb(error.__traceback__):
        root = frame.f_globals.get("__name__", "").partition(".")[0]
        if root not in LIBRARIES and root not in sys.stdlib_module_names:
            line = linecache.getline(frame.f_code.co_filename, number).strip()
            place = f"line {number} of {frame.f_code.co_name!r}" + (f" ({line})" if line else "")
    return place


def _assemble(
    program: Callable[..., Any],
    arguments: Arguments,
    reading: Reading,
    found: Found,
    static_data: bool,
) -> Mixture:
    """The mixture that a reading describes, with the data of that reading."""
    memo: dict[int, Axes] = {}
    paths = cluster_axes(reading, found, memo)
    links = links_of(reading, memo)
    plates = {n: plate_dims(s) for n, s in found.latent.items()}
    named = (plates[n][axis] for n, axis in paths.items() if axis is not None)
    cluster_dim = next((name for name in named if name is not None), "cluster")
    group = known(reading, reading.group)
    observed = tuple(
        observed_site(part, value, given, group, powers)
        for part, (value, given, powers) in zip(found.parts, given_data(reading), strict=True)
    )
    value, event_dim = side_by_side(observed, reading.components.shape[:-1])
    width = value.shape[-1] if event_dim else None
    sites = {
        n: latent_site(n, s, reading, paths[n], links.get(n, ()), plates[n], cluster_dim, width)
        for n, s in found.latent.items()
    }
    return Mixture(
        program=program,
        arguments=arguments,
        name="+".join(part.name for part in found.parts),
        K=found.K,
        sites=sites,
        observed=observed,
        assignment=found.assignment,
        by_row=found.by_row,
        masked=found.masked,
        mixture_event_dim=event_dim,
        value=value,
        weights=known(reading, reading.scale),
        labels=known(reading, reading.labels),
        row_dims=found.row_dims,
        event_dims=event_dims(event_dim, found.parts),
        cluster_dim=cluster_dim,
        static_data=static_data,
        _readings={True: reading},
    )
