"""mclust's covariance structures: the programs against SciPy, the fits against R, the rotations."""

from math import lgamma

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import optimize, stats
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.ellipsoid import (
    AlignedNormal,
    CayleyTransform,
    EllipsoidalNormal,
    HaarRotation,
    rotation,
)
from bayesmix.models.structures import STRUCTURES
from bayesmix.mstep.ellipsoid import closest_axes

OTHER = ("EII", "EEI", *STRUCTURES)  # those without a second name
RNG = np.random.default_rng(3)
N, D, K = 30, 3, 2
TABLE = RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) + [3.0, -1.0, 50.0]


def rotations(rng, *shape):
    return (
        stats.special_ortho_group(shape[-1], seed=rng)
        .rvs(int(np.prod(shape[:-1])))
        .reshape(*shape, shape[-1])
    )


# --------------------------------------------------------------------------------------- rotations


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_cayley_is_one_to_one_onto_rotations(size):
    cayley, x = CayleyTransform(), RNG.normal(size=(4, size * (size - 1) // 2))
    y = np.asarray(cayley(jnp.asarray(x)))
    assert y.shape == (4, *cayley.forward_shape(x.shape[1:])) == (4, size, size)
    assert cayley.inverse_shape(y.shape) == x.shape
    assert np.all(rotation(y))
    np.testing.assert_allclose(y @ y.swapaxes(-1, -2), np.broadcast_to(np.eye(size), y.shape),
                               atol=1e-13)  # fmt: skip
    np.testing.assert_allclose(np.linalg.det(y), 1.0)
    np.testing.assert_allclose(cayley.inv(y), x, atol=1e-12)
    assert not rotation(2 * y).any()
    assert not rotation(y[:, ::-1]).any() or size in (1, 4, 5)  # an odd number of swaps


@pytest.mark.usefixtures("x64")
def test_cayley_carries_the_uniform_probability():
    """In a plane the skew entry is Cauchy, in space the three are Cauchy in three dimensions."""
    cayley = CayleyTransform()

    def density(x):
        x = jnp.atleast_1d(jnp.asarray(x))
        return cayley.log_abs_det_jacobian(x, None)

    x = RNG.standard_cauchy((5, 3))
    np.testing.assert_allclose(density(x), stats.multivariate_t(np.zeros(3), df=1).logpdf(x))
    np.testing.assert_allclose(density(x[:, :1]), stats.cauchy.logpdf(x[:, 0]))
    draws = stats.multivariate_t(np.zeros(6), df=1, seed=1).rvs(50_000)
    ratio = np.exp(density(draws) - stats.multivariate_t(np.zeros(6), df=1).logpdf(draws))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))


@pytest.mark.usefixtures("x64")
def test_the_uniform_probability_does_not_change_when_all_is_turned():
    cayley, turn = CayleyTransform(), rotations(RNG, 1, 4)[0]

    def turned(x):
        return cayley.inv(turn @ cayley(x))

    x = jnp.asarray(RNG.normal(size=6))
    stretch = np.linalg.slogdet(jax.jacobian(turned)(x))[1]
    before, after = (float(cayley.log_abs_det_jacobian(z, None)) for z in (x, turned(x)))
    assert before == pytest.approx(after + stretch, abs=1e-10)


def test_draws_of_rotations_are_uniform():
    """Every entry has mean 0 and mean square 1/D; 4.5 standard errors over 18 comparisons."""
    draws = np.asarray(HaarRotation(3).sample(jax.random.key(0), (4000,)))
    assert np.all(rotation(draws))
    for power, mean, variance in ((1, 0.0, 1 / 3), (2, 1 / 3, 1 / 5 - 1 / 9)):
        gap = np.abs((draws**power).mean(0) - mean)
        assert gap.max() < 4.5 * np.sqrt(variance / len(draws))
    assert not HaarRotation(3).log_prob(draws).any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [2, 3, 5])
def test_closest_axes_of_one_matrix_are_its_eigenvectors(size):
    root = RNG.normal(size=(4, size, size))
    scatter = root @ root.swapaxes(-1, -2)
    precision = RNG.gamma(2.0, size=(4, 1, size))
    found = closest_axes(jnp.asarray(scatter[:, None]), jnp.asarray(precision),
                         jnp.asarray(rotations(RNG, 4, size)))  # fmt: skip
    assert np.all(rotation(found))
    turned = np.asarray(found).swapaxes(-1, -2) @ scatter @ np.asarray(found)
    values = np.diagonal(turned, axis1=-2, axis2=-1)
    np.testing.assert_allclose(turned, values[..., None] * np.eye(size), atol=1e-7)
    # The longest axis goes with the smallest precision.
    np.testing.assert_array_equal(np.argsort(values), np.argsort(-precision[:, 0]))


@pytest.mark.usefixtures("x64")
def test_closest_axes_of_several_matrices_are_at_a_minimum():
    root = RNG.normal(size=(3, 4, 4))
    scatter, precision = root @ root.swapaxes(-1, -2), RNG.gamma(2.0, size=(3, 4))
    found = closest_axes(*(jnp.asarray(a)[None] for a in (scatter, precision, np.eye(4))))[0]

    def total(x):
        near = found @ CayleyTransform()(x)
        return jnp.einsum("mia,mij,mja,ma->", near[None].repeat(3, 0), scatter,
                          near[None].repeat(3, 0), precision)  # fmt: skip

    zero = jnp.zeros(6)
    size = float(total(zero))
    assert np.abs(jax.grad(total)(zero)).max() < 1e-6 * size
    assert np.linalg.eigvalsh(jax.hessian(total)(zero)).min() > 0
    again = optimize.minimize(
        jax.jit(total), 0.1 * RNG.normal(size=6), jac=jax.jit(jax.grad(total))
    )
    assert size <= again.fun + 1e-6 * size


# ---------------------------------------------------------------------------------------- programs


@pytest.mark.usefixtures("x64")
def test_densities_are_scipys():
    volume, axes, turn = 1.7, np.array([4.0, 0.5, 0.1]), rotations(RNG, 1, 3)[0]
    unit = axes / stats.gmean(axes)
    loc, x = RNG.normal(size=3), RNG.normal(size=(5, 3))
    turned = EllipsoidalNormal(loc, volume, axes, turn)
    plain = AlignedNormal(loc, volume, axes).to_event(1)
    for ours, matrix in ((turned, turn * unit @ turn.T), (plain, np.diag(unit))):
        theirs = stats.multivariate_normal(loc, volume * matrix)
        np.testing.assert_allclose(ours.log_prob(x), theirs.logpdf(x), rtol=1e-10)
    assert np.linalg.det(turned.covariance_matrix) == pytest.approx(volume**3)


def random_params(structure, rng):
    volumes, shapes, axes = (() if letter == "E" else (K,) for letter in structure)
    params = {"weights": rng.dirichlet([5.0] * K), "loc": rng.normal(size=(K, D))}
    if structure[1] == "I":
        return params | {"var": rng.gamma(3.0, size=volumes)}
    if structure == "EEI":
        return params | {"var": rng.gamma(3.0, size=D)}
    params |= {"volume": rng.gamma(3.0, size=volumes)}
    params |= {"shape": rng.dirichlet([3.0] * D, size=shapes)}
    if structure[2] != "I":
        params |= {"orientation": rotations(rng, *(axes or (1,)), D)[() if axes else 0]}
    return params


def covariances(params):
    if "var" in params:
        own = np.eye(D) * params["var"]
    else:
        axes = params["shape"] / stats.gmean(params["shape"], axis=-1)[..., None]
        turn = params.get("orientation", np.eye(D))
        own = (
            params["volume"][..., None, None] * (turn * axes[..., None, :]) @ turn.swapaxes(-1, -2)
        )
    return np.broadcast_to(own, (K, D, D))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("structure", OTHER)
def test_programs_are_what_their_page_says(structure):
    params = random_params(structure, RNG)
    terms = [stats.multivariate_normal(loc, cov).logpdf(TABLE)
             for loc, cov in zip(params["loc"], covariances(params), strict=True)]  # fmt: skip
    fit = logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()
    S = np.cov(TABLE.T)
    damped = 0.9 * S + 0.1 * np.diag(np.diag(S))
    variances, share = np.diag(S), K ** (-2 / D)
    spread = damped if structure[2] != "I" else np.diag(variances)
    spread = variances.mean() * np.eye(D) if structure == "EII" else spread
    prior = stats.dirichlet([2.0] * K).logpdf(params["weights"])
    prior += stats.multivariate_normal(TABLE.mean(0), 9 * spread).logpdf(params["loc"]).sum()
    if "var" in params:
        own = variances if structure == "EEI" else variances.mean()
        prior += stats.invgamma(1.5, scale=share * own / 2).logpdf(params["var"]).sum()
    else:
        scale = share * np.linalg.det(spread) ** (1 / D) / 2
        prior += stats.invgamma(1.5, scale=scale).logpdf(params["volume"]).sum()
        prior += sum(stats.dirichlet([2.0] * D).logpdf(s) for s in params["shape"].reshape(-1, D))
    for name, expected in (("default", fit + prior), ("flat", fit + lgamma(K))):
        program = bm.models.gaussian(K, covariance=structure, prior=name)
        ours = jax.jit(lambda p, program=program: log_density(program, (TABLE,), {}, p)[0])(params)
        assert float(ours) == pytest.approx(expected, rel=1e-10)
        assert structure in program.__doc__


def test_mclusts_other_names_are_the_same_programs():
    for name, known in {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical",
                        "V": "full", "E": "tied"}.items():  # fmt: skip
        for prior in ("default", "flat", "mclust"):
            ours = bm.models.gaussian(2, covariance=name, prior=prior)
            assert ours is bm.models.gaussian(2, covariance=known, prior=prior)
    assert bm.models.gaussian(2, covariance="VEV") is bm.models.gaussian(2, covariance="VEV")


@pytest.mark.parametrize("x,sites", [(TABLE[:, 0], ()), (TABLE[:, :1], (1,))])
@pytest.mark.parametrize("structure", OTHER)
def test_one_column_has_a_volume_only(structure, x, sites):
    mixture = bm.trace(bm.models.gaussian(K, covariance=structure), x)
    clusters = (K,) if structure[0] == "V" else ()
    shapes = {name: site.shape for name, site in mixture.sites.items()}
    variance = (*clusters, 1) if structure == "EEI" and sites else clusters
    assert shapes == {"weights": (K,), "loc": (K, *sites), "var": variance}


@pytest.mark.parametrize("structure", OTHER)
def test_the_prior_of_mclust_is_refused(structure):
    with pytest.raises(ValueError, match=f"not offered with covariance '{structure}'"):
        bm.models.gaussian(2, covariance=structure, prior="mclust")


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"covariance must be one of .*'VEV'.*, got 'EVII'"):
        bm.models.gaussian(2, covariance="EVII")


# -------------------------------------------------------------------------------------------- fits


# The four with other names are in test_em_references.
REACHED = [("faithful", 2, s) for s in OTHER] + [("iris", 3, s) for s in OTHER]


@pytest.mark.parametrize("name,G,structure", REACHED)
def test_reaches_mclusts_maximum_likelihood(reference, name, G, structure):
    """mclust's are local optima of one start: more is welcome, less is a failure."""
    facts = reference(f"ml/mclust_{name}.json")
    row = next(r for r in facts["table"] if (r["model"], r["G"]) == (structure, G))
    x = reference(f"data/{name}.csv")[facts["columns"]].to_numpy(float)
    program = bm.models.gaussian(G, covariance=structure, prior="flat")
    em = bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), x)
    assert em.converged
    assert em.modes[0].regular
    assert em.log_likelihood >= row["loglik"] - 1e-6
    assert em.n_parameters == row["df"]
    assert "ascent" not in em.plan


def test_one_cluster_has_the_textbooks_likelihood():
    """For K = 1 all structures with an orientation are one model, and so are those without."""
    ends = {}
    for structure in ("VEE", "EVV", "EEE", "VEI", "EEI"):
        program = bm.models.gaussian(1, covariance=structure, prior="flat")
        ends[structure] = bm.EM(program, progress_bar=False).run(jax.random.key(0), TABLE)
    full = stats.multivariate_normal(TABLE.mean(0), np.cov(TABLE.T, bias=True)).logpdf(TABLE).sum()
    plain = stats.norm(TABLE.mean(0), TABLE.std(0)).logpdf(TABLE).sum()
    for structure, em in ends.items():
        expected = plain if structure[2] == "I" else full
        assert em.log_likelihood == pytest.approx(expected, abs=1e-7)


def test_the_volume_alone_decides_whether_there_is_a_maximum():
    def note(structure, prior="flat"):
        mixture = bm.trace(bm.models.gaussian(2, covariance=structure, prior=prior), TABLE)
        return str(mixture)

    assert "the prior on 'volume' (flat) has no lower limit" in note("VEV")
    assert "volume ~ InverseGamma(...)" in note("VEI")
    assert "the priors keep the log joint bounded" in note("VEV", "default")
    assert "no lower limit" not in note("EVV")
