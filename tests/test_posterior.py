"""Trees of EM and NUTS results: groups, names, ArviZ, files.

The results are made by hand (draws around a point), so that the room is tested, not the samplers.
"""

import json
from types import SimpleNamespace

import arviz_base
import arviz_stats as azs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray
from oracles import draw_params
from programs import BY_ID
from scipy import stats

from bayesmix import draws as evaluated
from bayesmix import symmetry
from bayesmix.posterior import em_tree, nuts_tree
from bayesmix.posterior.layout import layout_of, row_labels
from bayesmix.program import trace
from bayesmix.relabel import relabel

CHAINS, DRAWS, N, K = 2, 60, 24, 2
LOC = np.array([[-2.0, 0.0], [2.0, 1.0]])
ODD = ("length (µm)/2", 'a "b", c')  # a slash, quotes, a comma, Greek


def gaussian(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(2), 25 * jnp.eye(2)))
    cov = numpyro.sample("cov", dist.InverseWishart(5, scale_matrix=jnp.eye(2)))
    with numpyro.plate("obs_id", len(x)):
        components = dist.MultivariateNormal(loc, covariance_matrix=cov)
        mixing = dist.Categorical(probs=weights)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, components), obs=x)


def counts(y, w=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with (
        numpyro.plate("sample", len(y)),
        numpyro.handlers.scale(scale=jnp.ones(()) if w is None else w),
    ):
        mixing = dist.Categorical(probs=weights)
        numpyro.sample("y", dist.MixtureSameFamily(mixing, dist.Poisson(rate)), obs=y)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(1)
    values = np.concatenate([LOC[0] + rng.normal(size=(10, 2)), LOC[1] + rng.normal(size=(14, 2))])
    return pd.DataFrame(values, columns=ODD, index=[f"plant {n}" for n in range(N)])


@pytest.fixture(scope="module")
def mixture(frame):
    return trace(gaussian, frame)


def result_of(mixture, samples, **changes):
    shape = next(iter(samples.values())).shape[:2]
    rng = np.random.default_rng(2)
    stats = {
        "diverging": np.zeros(shape, bool),
        "energy": rng.normal(size=shape),
        "lp": rng.normal(size=shape),
        "n_steps": np.full(shape, 7.0),
        "acceptance_rate": rng.uniform(size=shape),
        "step_size": np.full(shape, 0.4),
    }
    fields = {
        "mixture": mixture,
        "samples": samples,
        "sample_stats": stats,
        "start_policy": "all chains at EM's best mode",
        "start": None,
        "seconds": 1.5,
        "seed": 3,
        "settings": {"chains": CHAINS, "progress_bar": False},
        "notes": (),
    }
    return SimpleNamespace(**(fields | changes))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(CHAINS, DRAWS, 2, 2))
    first = rng.beta(12, 14, size=(CHAINS, DRAWS))
    return {
        "weights": np.stack([first, 1 - first], axis=-1),
        "loc": LOC + 0.2 * rng.normal(size=(CHAINS, DRAWS, K, 2)),
        "cov": np.eye(2) + 0.01 * noise @ np.swapaxes(noise, -1, -2),
    }


@pytest.fixture(scope="module")
def em(mixture, samples):
    params = {site: value.mean(axis=(0, 1)) for site, value in samples.items()}
    one = {site: value[None, None] for site, value in params.items()}
    found = evaluated.evaluate_draws(mixture, one)
    return SimpleNamespace(
        mixture=mixture,
        params=params,
        log_joint=float(found["log_joint"][0, 0]),
        log_likelihood=float(found["log_likelihood"].sum()),
        responsibilities=found["responsibilities"][0, 0],
        converged=True,
        stop="the remaining gain is below tol",
        steps=12,
        n_parameters=8,
        aic=1.0,
        bic=2.0,
        icl=3.0,
        seconds=0.1,
        seed=0,
        settings={"restarts": 16, "dtype": "float64"},
        notes=("one note",),
    )


@pytest.fixture(scope="module")
def tree(mixture, samples, em):
    return nuts_tree(result_of(mixture, samples, start=em))


def by_scipy(x, samples):
    """Log weight + log density of each component, (chain, draw, N, K)."""
    out = np.empty((CHAINS, DRAWS, N, K))
    for c, d, k in np.ndindex(CHAINS, DRAWS, K):
        density = stats.multivariate_normal(samples["loc"][c, d, k], samples["cov"][c, d])
        out[c, d, :, k] = np.log(samples["weights"][c, d, k]) + density.logpdf(x)
    return out


def test_groups_dims_and_coordinates(tree, samples, frame):
    sample = ("chain", "draw")
    for group, variable, dims in [
        ("posterior", "loc", (*sample, "cluster", "feature")),
        ("posterior", "cov", (*sample, "feature", "feature_2")),
        ("log_likelihood", "x", (*sample, "obs_id")),
        ("log_prior", "loc", sample),
        ("observed_data", "x", ("obs_id", "feature")),
        ("responsibilities", "resp", (*sample, "obs_id", "cluster")),
        ("pivot", "resp", ("obs_id", "cluster")),
        ("pivot", "loc", ("cluster", "feature")),
        ("invariant", "sorted_weights", (*sample, "rank")),
    ]:
        assert tree[group][variable].dims == dims
    assert set(tree["sample_stats"].data_vars) == {
        "diverging", "energy", "lp", "n_steps", "acceptance_rate", "step_size"
    }  # fmt: skip
    for site, value in samples.items():
        np.testing.assert_array_equal(tree["posterior"][site], value)
    assert tree["posterior"]["feature"].to_numpy().tolist() == list(ODD)
    assert tree["posterior"]["feature_2"].to_numpy().tolist() == list(ODD)
    assert tree["log_likelihood"]["obs_id"].to_numpy().tolist() == list(frame.index)
    assert tree["posterior"]["loc"].sel(cluster=1, feature=ODD[0]).shape == (CHAINS, DRAWS)


def test_values_agree_with_scipy(tree, samples, frame):
    joint = by_scipy(frame.to_numpy(), samples)
    log_likelihood = np.logaddexp.reduce(joint, axis=-1)
    resp = np.exp(joint - log_likelihood[..., None])
    np.testing.assert_allclose(tree["log_likelihood"]["x"], log_likelihood, rtol=1e-10)
    np.testing.assert_allclose(tree["responsibilities"]["resp"], resp, rtol=1e-9, atol=1e-12)
    prior = sum(tree["log_prior"][site] for site in samples)
    np.testing.assert_allclose(
        tree["invariant"]["log_joint"], prior + log_likelihood.sum(-1), rtol=1e-10
    )
    entropy = stats.entropy(resp, axis=-1).mean(axis=-1)
    np.testing.assert_allclose(tree["invariant"]["entropy"], entropy, rtol=1e-8)
    np.testing.assert_allclose(
        tree["invariant"]["sorted_weights"], -np.sort(-samples["weights"], axis=-1), rtol=1e-14
    )


def test_the_pivot_is_em_or_else_the_best_draw(tree, em, mixture, samples):
    assert tree["pivot"].attrs["kind"] == "em"
    np.testing.assert_array_equal(tree["pivot"]["loc"], em.params["loc"])
    np.testing.assert_array_equal(tree["pivot"]["resp"], em.responsibilities)
    alone = nuts_tree(result_of(mixture, samples))
    best = int(alone["invariant"]["log_joint"].to_numpy().argmax())
    assert alone["pivot"].attrs["kind"] == "draw"
    assert alone["pivot"].attrs["log_joint"] == float(alone["invariant"]["log_joint"].max())
    np.testing.assert_array_equal(alone["pivot"]["loc"], samples["loc"].reshape(-1, K, 2)[best])
    np.testing.assert_array_equal(
        alone["pivot"]["resp"], alone["responsibilities"]["resp"].to_numpy().reshape(-1, N, K)[best]
    )


def test_attributes_are_plain_and_say_where_it_comes_from(tree, em):
    attrs = tree.attrs
    assert all(isinstance(value, int | float | str) for value in attrs.values())
    assert attrs["inference_library"] == "bayesmix"
    assert attrs["inference_method"] == "nuts"
    assert attrs["site"] == "x"
    assert (attrs["n_clusters"], attrs["n_observations"], attrs["seed"]) == (K, N, 3)
    assert json.loads(attrs["settings"]) == {"chains": CHAINS, "progress_bar": False}
    assert json.loads(attrs["exchangeable"]) == [[0, 1]]
    assert json.loads(attrs["cluster_axes"]) == {"weights": 0, "loc": 0, "cov": None}
    assert attrs["start_policy"] == "all chains at EM's best mode"
    assert {"created_at", "numpyro_version", "jax_version", "inference_library_version"} <= set(
        attrs
    )


def test_em_is_one_chain_of_one_draw(em):
    tree = em_tree(em)
    assert dict(tree["posterior"].sizes) == {
        "chain": 1,
        "draw": 1,
        "cluster": K,
        "feature": 2,
        "feature_2": 2,
    }
    assert tree.attrs["inference_method"] == "em"
    assert tree.attrs["converged"] == 1
    assert tree.attrs["notes"] == "one note"
    assert tree.attrs["log_joint"] == pytest.approx(
        tree["invariant"]["log_joint"].item(), rel=1e-12
    )
    same = relabel(tree)
    xarray.testing.assert_identical(same["posterior"].to_dataset(), tree["posterior"].to_dataset())
    assert same.attrs["relabel_changed"] == 0


def test_arviz_runs_on_it(tree):
    new = relabel(tree)
    summary = azs.summary(new, round_to="none")
    np.testing.assert_allclose(
        summary.loc["loc[0, " + ODD[0] + "]", "mean"], new["posterior"]["loc"][:, :, 0, 0].mean()
    )
    invariant = azs.summary(new, group="invariant", round_to="none")
    assert {"log_joint", "entropy", "sorted_weights[0]", "sorted_weights[1]"} == set(
        invariant.index
    )
    assert float(azs.rhat(new)["weights"].max()) < 1.2
    loo = azs.loo(new, pointwise=True)
    assert loo.elpd_i.dims == ("obs_id",)


@pytest.mark.filterwarnings("ignore:.*Pandas4Warning.*", "ignore::DeprecationWarning")
def test_arviz_compares_two_trees(tree, mixture, samples):
    moved = samples | {"loc": samples["loc"] + 0.5}
    other = nuts_tree(result_of(mixture, moved))
    table = azs.compare({"here": tree, "moved": other})
    assert table.index[0] == "here"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "plot",
    [
        "plot_trace",
        "plot_rank",
        "plot_dist",
        "plot_energy",
        "plot_forest",
        "plot_trace_dist",
        "plot_rank_dist",
    ],
)
def test_arviz_draws_it(tree, plot, monkeypatch):
    draw(tree, plot, monkeypatch)


def draw(tree, plot, monkeypatch, **how):
    monkeypatch.setenv("MPLBACKEND", "agg")
    import arviz_plots as azp
    from matplotlib import pyplot as plt

    getattr(azp, plot)(tree, backend="matplotlib", **how)
    plt.close("all")


def test_a_file_gives_the_same_tree_back(tree, tmp_path):
    tree.to_netcdf(tmp_path / "nuts.nc", engine="h5netcdf")
    with xarray.open_datatree(tmp_path / "nuts.nc", engine="h5netcdf") as opened:
        assert set(opened.children) == set(tree.children)
        for name, group in tree.children.items():
            xarray.testing.assert_equal(opened[name].to_dataset(), group.to_dataset())
        assert opened.attrs == tree.attrs
        xarray.testing.assert_equal(
            relabel(opened)["posterior"].to_dataset(), relabel(tree)["posterior"].to_dataset()
        )
        assert azs.summary(opened, round_to="none").equals(azs.summary(tree, round_to="none"))


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # rows of weight up to 24
def test_one_dimensional_data_weights_and_awkward_plate_names(tmp_path):
    """A plate called `sample` would break ArviZ's own stacking; `component` is the user's word."""
    y = np.random.default_rng(4).poisson([2] * 12 + [9] * 12)
    w = np.arange(1.0, 25.0)
    rng = np.random.default_rng(5)
    draws = {
        "weights": rng.dirichlet([5, 5], size=(CHAINS, DRAWS)),
        "rate": rng.gamma([20, 90], 0.1, size=(CHAINS, DRAWS, K)),
    }
    tree = nuts_tree(result_of(trace(counts, y, w), draws))
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "sample_dim")
    assert tree["posterior"]["rate"].dims == ("chain", "draw", "component")
    assert tree["responsibilities"]["resp"].dims == ("chain", "draw", "sample_dim", "component")
    np.testing.assert_array_equal(tree["constant_data"]["weights"], w)
    tree.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")
    new = relabel(tree)
    assert new["relabelling"]["permutation"].dims == ("chain", "draw", "component")
    assert azs.loo(new).n_data_points == N
    assert "rate[1]" in azs.summary(new, round_to="none").index


def test_draws_on_request(mixture, samples):
    key = jax.random.key(0)
    tree = nuts_tree(result_of(mixture, samples), prior_key=key, predictive_key=key)
    assert tree["prior"]["loc"].dims == ("chain", "draw", "cluster", "feature")
    assert tree["prior"]["loc"].shape == (CHAINS, DRAWS, K, 2)
    for group in ("prior_predictive", "posterior_predictive"):
        assert tree[group]["x"].dims == ("chain", "draw", "obs_id", "feature")
    # 120 replicates of 24 rows: mean of the mixture within 5 standard errors
    expected = (samples["weights"][..., None] * samples["loc"]).sum(-2).mean((0, 1))
    found = tree["posterior_predictive"]["x"]
    error = found.std(("chain", "draw", "obs_id")) / np.sqrt(CHAINS * DRAWS * N)
    assert (abs(found.mean(("chain", "draw", "obs_id")) - expected) < 5 * error).all()


def test_the_same_key_draws_the_same_data(em):
    one, two = (em_tree(em, predictive_key=jax.random.key(1)) for _ in range(2))
    assert one["posterior_predictive"]["x"].shape == (1, 1, N, 2)
    assert (one["posterior_predictive"]["x"] == two["posterior_predictive"]["x"]).all()
    assert (one["posterior_predictive"]["x"] != one["observed_data"]["x"]).all()


def test_an_improper_prior_cannot_be_drawn_from(mixture, samples):
    def flat(x):
        with numpyro.plate("cluster", K):
            loc = numpyro.sample("loc", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample(
            "x",
            dist.MixtureSameFamily(
                dist.Categorical(probs=jnp.full(K, 0.5)), dist.Normal(loc, 1.0)
            ).expand([len(x)]),
            obs=x,
        )

    draws = {"loc": samples["loc"][..., 0]}
    result = result_of(trace(flat, np.linspace(-2, 2, N)), draws)
    with pytest.raises(ValueError, match="site 'loc' has an improper prior"):
        nuts_tree(result, prior_key=jax.random.key(0))


def test_large_responsibilities_are_left_out_and_relabel_computes_them(
    mixture, samples, em, monkeypatch
):
    stored = relabel(nuts_tree(result_of(mixture, samples, start=em)))
    # between what the pivot takes and what all draws take
    monkeypatch.setattr(evaluated, "RESPONSIBILITIES_LIMIT", 8 * N * K * CHAINS * DRAWS - 1)
    for start in (em, None):
        tree = nuts_tree(result_of(mixture, samples, start=start))
        assert "responsibilities" not in tree.children
        assert "above the limit of" in tree.attrs["responsibilities_left_out"]
        assert tree["pivot"]["resp"].shape == (N, K)
        with pytest.raises(ValueError, match=r"pass mixture=result\.mixture"):
            relabel(tree)
        new = relabel(tree, mixture=mixture)
        if start is em:
            np.testing.assert_array_equal(
                new["relabelling"]["permutation"], stored["relabelling"]["permutation"]
            )


def test_names_that_a_tree_cannot_take():
    """Slashes of `handlers.scope`, a dim named as a variable, one name with two lengths."""
    site = lambda shape, dims, axis: SimpleNamespace(  # noqa: E731
        shape=shape, dims=dims, cluster_axis=axis, prior="Normal"
    )
    mixture = SimpleNamespace(
        name="a/x",
        K=3,
        sites={
            "a/loc": site((3, 2), ("cluster", "feature"), 0),
            "a/other": site((5, 4), ("feature", "feature"), None),
            "item": site((3,), ("cluster",), 0),
            "resp": site((), (), None),
        },
        value=np.zeros((6, 2)),
        observed=(),
        rows=(6,),
        row_dims=("item",),
        event_dims=("feature",),
        cluster_dim="cluster",
        coords={},
        columns=("u", "v"),
        index=np.array([1, 1, 2, 3, 4, 5]),
    )
    layout = layout_of(mixture)
    assert layout.rows == ("item_dim",)
    assert layout.dims == {
        "a.loc": ("cluster", "feature"),
        "a.other": ("a.other_dim_0", "a.other_dim_1"),
        "item": ("cluster",),
        "resp_site": (),
    }
    assert layout.coords["item_dim"].tolist() == [0, 1, 2, 3, 4, 5]  # repeated labels: positions
    assert layout.coords["feature"].tolist() == ["u", "v"]


def test_row_labels_stay_what_they_are_where_a_file_can_hold_them():
    assert row_labels(pd.date_range("2026-01-01", periods=3)).dtype.kind == "M"
    assert row_labels(np.array([3, 4])).dtype.kind == "i"
    assert row_labels(pd.Index(["a", 2])).tolist() == ["a", "2"]
    assert row_labels(pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])).tolist() == [
        "(1, 'a')",
        "(2, 'b')",
    ]


def test_arviz_reads_it_as_its_own(tree):
    stacked = arviz_base.extract(tree)
    assert stacked["loc"].sizes["sample"] == CHAINS * DRAWS


AWKWARD = [
    "normal_asymmetric_dirichlet",
    "normal_conditioned",
    "normal_extra_terms",
    "normal_hierarchical",
    "normal_masked_rows",
    "normal_rows_as_event",
    "normal_scaled_rows",
    "normal_two_plates",
    "mvn_lkj",
    "product_column_plate",
    "regression",
    "two_named_normals",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_every_kind_of_program_makes_a_tree_whose_chains_relabelling_brings_together(
    name, tmp_path
):
    """Chain 1 is chain 0 with its clusters renamed at random, as far as the program allows."""
    row = BY_ID[name]
    mixture = trace(row.program, *row.args, **row.kwargs)
    points = [draw_params(row, seed) for seed in range(4)]
    rng = np.random.default_rng(8)
    perms = [np.arange(row.K) for _ in points]
    for perm in perms:
        for members in map(list, row.classes):
            perm[members] = rng.permutation(members)
    renamed = [symmetry.permute(mixture, p, perm) for p, perm in zip(points, perms, strict=True)]
    samples = {
        site: np.stack([[np.asarray(p[site]) for p in chain] for chain in (points, renamed)])
        for site in mixture.sites
    }
    tree = nuts_tree(result_of(mixture, samples))
    assert json.loads(tree.attrs["exchangeable"]) == [list(c) for c in row.classes]
    new = relabel(tree)
    for site in mixture.sites:
        first, second = new["posterior"][site].to_numpy()
        np.testing.assert_array_equal(first, second)
    first, second = new["responsibilities"]["resp"].to_numpy()
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)
    new.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
