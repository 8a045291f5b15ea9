"""The reader of programs: what `bm.trace` finds, prints, refuses, and does not do."""

import time
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pandas as pd
import pytest
from oracles import x64
from programs import BY_ID, PROGRAMS, X, Y

import bayesmix as bm

rows = pytest.mark.parametrize("row", PROGRAMS, ids=str)

COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILATIONS.append(event) if "backend_compile" in event else None
)


@cache
def _mixture(row_id):
    return _fresh(BY_ID[row_id])


def _fresh(row):
    return bm.trace(row.program, *row.args, **row.kwargs)


def mixture_of(row):
    return _mixture(row.id)


# ------------------------------------------------------------------------------------ what it finds


@rows
def test_finds_the_sites(row):
    mixture = mixture_of(row)
    shapes = {name: value.shape for name, value in oracles.draw_params(row).items()}
    assert mixture.name == "+".join(row.observed)
    assert mixture.assignment == row.z
    assert mixture.K == row.K
    assert {name: site.shape for name, site in mixture.sites.items()} == shapes
    assert all(site.name == name for name, site in mixture.sites.items())
    if row.family:
        assert row.family in mixture.family


@rows
def test_finds_the_cluster_axis(row):
    mixture = mixture_of(row)
    found = {name: site.cluster_axis for name, site in mixture.sites.items()}
    assert {
        n: a if a is None else a % len(mixture.sites[n].shape) for n, a in found.items()
    } == row.axes
    for name, site in mixture.sites.items():
        assert len(site.dims) == len(site.shape)
        assert ("cluster" in site.dims) == (row.axes[name] is not None)


@rows
def test_finds_the_data(row):
    mixture = mixture_of(row)
    np.testing.assert_array_equal(np.asarray(mixture.value), row.x)
    event = len(row.x.shape) - len(mixture.rows)
    assert row.x.shape == (*mixture.rows, *row.x.shape[len(row.x.shape) - event :])
    assert np.prod(mixture.rows) == mixture.N
    assert len(mixture.row_dims) == len(mixture.rows)
    assert len(mixture.event_dims) == event


def test_names_of_plates_become_dims():
    assert mixture_of(BY_ID["normal_two_plates"]).row_dims == ("day", "shift")
    assert mixture_of(BY_ID["mvn_niw"]).row_dims == ("obs_id",)
    assert mixture_of(BY_ID["mvn_niw"]).event_dims == ("feature",)
    assert mixture_of(BY_ID["mvn_niw"]).sites["cov"].dims == ("cluster", "feature", "feature_2")
    assert mixture_of(BY_ID["normal_without_plate"]).row_dims == ("obs_id",)


def test_links_of_sites_to_parameters():
    sites = mixture_of(BY_ID["normal_nig"]).sites
    assert "loc" in sites["loc"].feeds
    assert "scale" in sites["var"].feeds
    sites = mixture_of(BY_ID["poisson_gamma"]).sites
    assert "rate" in sites["rate"].feeds
    assert sites["rate"].prior == "Gamma"
    sites = mixture_of(BY_ID["normal_hierarchical"]).sites
    assert not set(sites["mu0"].feeds) & {"loc", "scale"}


def test_computed_parameters_of_a_family_of_its_own_are_not_fed():
    """The factor of a covariance that the program gives, as where all clusters are of a family."""

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        cov = numpyro.sample("cov", dist.InverseWishart(5.0, scale_matrix=jnp.eye(2)))
        noise = dist.MultivariateNormal(jnp.zeros(2), 100 * jnp.eye(2))
        parts = [dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=cov), noise]
        with numpyro.plate("obs_id", len(x)):
            numpyro.sample("x", dist.MixtureGeneral(dist.Categorical(weights), parts), obs=x)

    sites = bm.trace(program, np.ones((5, 2))).sites
    assert sites["cov"].feeds == ("covariance_matrix[0]",)


def test_weights_of_rows():
    scaled = BY_ID["normal_scaled_rows"]
    np.testing.assert_array_equal(mixture_of(scaled).weights, scaled.args[1])
    for name in ("normal_masked_rows", "normal_distribution_mask"):
        masked = BY_ID[name]
        np.testing.assert_array_equal(mixture_of(masked).weights, masked.args[1].astype(float))
    assert mixture_of(BY_ID["normal_flat"]).weights is None


def test_names_of_a_data_frame_are_kept():
    frame = pd.DataFrame(X, columns=["length", "width"], index=[f"fish {n}" for n in range(len(X))])
    mixture = bm.trace(BY_ID["mvn_niw"].program, frame)
    assert tuple(mixture.columns) == ("length", "width")
    assert list(mixture.index) == list(frame.index)
    np.testing.assert_array_equal(np.asarray(mixture.value), X)
    series = pd.Series(Y, name="waiting")
    assert tuple(bm.trace(BY_ID["normal_nig"].program, series).columns) == ("waiting",)
    assert bm.trace(BY_ID["mvn_niw"].program, X).columns is None


def test_columns_are_named_by_their_own_table_not_by_that_of_the_covariates():
    """A table of covariates as wide as the data once lent them its names."""

    def program(covariates, y):
        with numpyro.plate("cluster", 2):
            slope = numpyro.sample("slope", dist.Normal(0, 3).expand([2]).to_event(1))
        with numpyro.plate("obs_id", len(y)):
            z = numpyro.sample("z", dist.Categorical(probs=jnp.array([0.4, 0.6])))
            loc = slope[z] * covariates[:, :1]
            numpyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)

    beside = pd.DataFrame(X + 1, columns=["a", "b"])
    own = pd.DataFrame(X, columns=["length", "width"])
    assert bm.trace(program, beside, own).columns == ("length", "width")
    assert bm.trace(program, beside, X).columns is None
    assert bm.trace(program, X + 1, y=own).columns == ("length", "width")
    other = own.set_axis(["height", "weight"], axis=1)
    assert bm.trace(program, beside, other).columns == ("height", "weight")


# ------------------------------------------------------------------------------------ what it shows


@rows
def test_printed_table_names_sites_priors_and_updates(row):
    mixture = mixture_of(row)
    text = str(mixture)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    for name, site in mixture.sites.items():
        line = next(line for line in lines[3:] if line.split()[:1] == [name])
        prior = "flat" if site.prior == "ImproperUniform" else site.prior
        assert prior in line or site.prior in line
        if row.plan[name] == "closed":
            assert "closed" in line
        if row.plan[name] == "ascent":
            assert "closed" not in line


# ------------------------------------------------------------------------------ what it must not do


@rows
def test_neither_samples_nor_compiles(row, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("bm.trace drew a sample")

    # numpyro.factor calls Unit.sample itself, which draws nothing.
    for cls in _all_subclasses(dist.Distribution) - {dist.Unit}:
        if "sample" in vars(cls):
            monkeypatch.setattr(cls, "sample", refuse)
    COMPILATIONS.clear()
    with x64():
        str(_fresh(row))
    assert COMPILATIONS == []


def _all_subclasses(cls):
    return {cls}.union(*(_all_subclasses(sub) for sub in cls.__subclasses__()))


def test_takes_less_than_a_second_of_cpu():
    for row_id in ("mvn_lkj", "normal_hierarchical", "regression"):
        start = time.process_time()
        _fresh(BY_ID[row_id])
        assert time.process_time() - start < 1.0


# --------------------------------------------------------------------------------- data that change


def test_data_in_a_closure_are_never_stale():
    box = {"x": Y}
    row = BY_ID["normal_nig"]

    def program():
        row.program(box["x"])

    params = oracles.draw_params(row)
    values = []
    for data in (Y, Y + 1.0, Y):
        box["x"] = data
        with x64():
            values.append(float(bm.log_joint(bm.trace(program), params)))
            expected = float(oracles.numpyro_log_joint(row, params, (data,)))
        assert values[-1] == pytest.approx(expected, rel=1e-12)
    assert values[0] == values[2] != values[1]


def test_a_mixture_keeps_the_data_it_was_traced_with():
    data = Y.copy()
    row = BY_ID["normal_nig"]
    params = oracles.draw_params(row)
    with x64():
        mixture = bm.trace(row.program, data)
        before = float(bm.log_joint(mixture, params))
        data += 1.0
        assert float(bm.log_joint(mixture, params)) == before


def test_conditioned_data_are_never_stale():
    from numpyro import handlers
    from programs import normal_unobserved

    row = BY_ID["normal_inverse_gamma_variance"]
    params = oracles.draw_params(row)
    for data in (Y, Y[::-1] * 2.0):
        with x64():
            program = handlers.condition(normal_unobserved, data={"x": data})
            ours = float(bm.log_joint(bm.trace(program, data.size), params))
            assert ours == pytest.approx(
                float(oracles.numpyro_log_joint(row, params, (data,))), rel=1e-12
            )


def test_a_program_may_need_concrete_data():
    """`int(g.max()) + 1` inside a program: traced again with the data as constants."""

    def program(x, g):
        groups = int(g.max()) + 1
        with numpyro.plate("group", groups):
            shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("cluster", 2):
            loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        components = dist.Normal(loc + shift[g][:, None], 1.0)
        with numpyro.plate("obs_id", x.shape[0]):
            numpyro.sample(
                "x", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=x
            )

    g = np.arange(Y.size) % 3
    mixture = bm.trace(program, Y, g)
    assert mixture.sites["shift"].shape == (3,)
    assert mixture.sites["shift"].cluster_axis is None
    params = {
        "shift": np.array([0.1, -0.2, 0.3]),
        "weights": np.array([0.4, 0.6]),
        "loc": np.array([-1.0, 1.0]),
    }
    with x64():
        from numpyro.infer.util import log_density

        expected = float(log_density(program, (Y, g), {}, params)[0])
        assert float(bm.log_joint(mixture, params)) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------------------------- what it refuses


def _msf(weights, components):
    return dist.MixtureSameFamily(dist.Categorical(probs=weights), components)


def _one_normal(x):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("height", dist.Normal(loc, 1.0), obs=x)


def _unmarginalised(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    count = numpyro.sample("count", dist.Poisson(3.0))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", _msf(weights, dist.Normal(loc + count, 1.0)), obs=x)


def _two_mixtures(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("height", _msf(weights, dist.Normal(loc, 1.0)), obs=x)
        numpyro.sample("breadth", _msf(weights, dist.Normal(loc, 2.0)), obs=x)


def _subsampled(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("shoal", x.shape[0], subsample_size=10) as rows:
        numpyro.sample("x", _msf(weights, dist.Normal(loc, 1.0)), obs=x[rows])


def _wrong_number_of_weights(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", _msf(weights, dist.Normal(loc, 1.0)), obs=x)


def _wrong_rows(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", 7):
        numpyro.sample("x", _msf(weights, dist.Normal(loc, 1.0)), obs=x)


def _unobserved(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", _msf(weights, dist.Normal(loc, 1.0)))


WITH_NAN = X.copy()
WITH_NAN[7, 1] = np.nan
FRAME_WITH_NAN = pd.DataFrame(WITH_NAN, columns=["length", "width"])
VECTOR_WITH_NAN = np.where(np.arange(Y.size) == 11, np.nan, Y)
WITH_INF = X.copy()
WITH_INF[3, 0] = np.inf

# id, program, arguments, every one of these words stands in the sentence
REFUSED = [
    ("no mixture", _one_normal, (Y,), ["height", "Normal", "MixtureSameFamily"]),
    ("discrete latent", _unmarginalised, (Y,), ["count", "Poisson"]),
    ("two mixtures", _two_mixtures, (Y,), ["height", "breadth"]),
    ("subsampled plate", _subsampled, (Y,), ["shoal", "subsample"]),
    ("K of weights", _wrong_number_of_weights, (Y,), ["weights", "loc", "3", "2"]),
    ("rows and plate", _wrong_rows, (Y,), ["'x'", "plate", "7", "40"]),
    ("no data", _unobserved, (Y,), ["x", "obs"]),
    ("columns of data", BY_ID["mvn_niw"].program, (Y,), []),
    ("NaN in a matrix", BY_ID["mvn_niw"].program, (WITH_NAN,), ["NaN", "row 7", "column 1"]),
    ("NaN in a frame", BY_ID["mvn_niw"].program, (FRAME_WITH_NAN,), ["NaN", "row 7", "width"]),
    ("NaN in a vector", BY_ID["normal_nig"].program, (VECTOR_WITH_NAN,), ["NaN", "row 11"]),
    ("infinity", BY_ID["mvn_niw"].program, (WITH_INF,), ["inf", "row 3"]),
]


@pytest.mark.parametrize(
    "program, args, words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refuses_in_words(program, args, words):
    """A ValueError that names the site, what was found, and what to write instead."""
    with pytest.raises((ValueError, IndexError) if not words else ValueError) as caught:
        bm.trace(program, *args)
    sentence = str(caught.value)
    for word in words:
        assert word.lower() in sentence.lower(), sentence
    assert len(sentence) < 600


@pytest.mark.parametrize(
    "data, row_id, words",
    [
        (np.array([0, 3, -2, 5] * 9), "poisson_gamma", ["-2", "row 2"]),
        (np.array([0.0, 2.5, 1.0] * 12), "poisson_gamma", ["2.5", "row 1"]),
        (np.array([0, 1, 2, 1] * 8), "bernoulli_beta", ["2", "row 2"]),
        (np.array([1.0, -0.5, 2.0] * 12), "exponential_gamma", ["-0.5", "row 1"]),
        (np.array([1.0, 0.0, 2.0] * 12), "gamma_components", ["0", "row 1"]),
    ],
)
def test_refuses_data_outside_the_support(data, row_id, words):
    """The value and the first row that no component can produce."""
    with pytest.raises(ValueError) as caught:
        bm.trace(BY_ID[row_id].program, data)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_errors_of_the_program_itself_come_through():
    """A mistake in the user's own code is shown as itself, at least as the cause."""

    def program(x):
        raise ZeroDivisionError("my own mistake")

    with pytest.raises(Exception, match="my own mistake") as caught:
        bm.trace(program, Y)
    assert ZeroDivisionError in {type(caught.value), type(caught.value.__cause__)}


def takes_a_log(x):
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    loc = jnp.arange(2.0) + np.log(scale)
    mixing = dist.Categorical(probs=jnp.ones(2) / 2)
    numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, 1.0)), obs=x)


def takes_a_turn(x):
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    if scale > 1:
        scale = scale / 2
    mixing = dist.Categorical(probs=jnp.ones(2) / 2)
    numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(jnp.arange(2.0), scale)), obs=x)


@pytest.mark.parametrize(
    ("program", "line"),
    [(takes_a_log, r"np\.log\(scale\)"), (takes_a_turn, r"if scale > 1:")],
)
def test_the_line_that_needs_a_latent_sites_number_is_named(program, line):
    with pytest.raises(ValueError, match=f"line .* of '{program.__name__}' .*{line}.* write jnp"):
        bm.trace(program, np.ones(5))
