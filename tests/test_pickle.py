"""Results in another process: pickled, copied, and what is said where that cannot be."""

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

import bayesmix as bm
from bayesmix.carry import packed, unpacked

COLUMNS = {
    "wait": "normal",
    "kind": "categorical",
}
READY = [
    bm.models.gaussian(2),
    bm.models.gaussian(2, covariance="VEV", prior="flat"),
    bm.models.gaussian(2, covariance="factor", factors=1),
    bm.models.gaussian_noise(2, low=(0, 0), high=(1, 1)),
    bm.models.student_t(2),
    bm.models.skew_normal(2),
    bm.models.mixed(COLUMNS, 2),
    bm.models.regression(2, family="poisson", shared="age"),
    *(getattr(bm.models, name)(2) for name in ("poisson", "bernoulli", "categorical", "binomial")),
    *(getattr(bm.models, name)(2) for name in ("multinomial", "dirichlet", "beta", "gamma")),
    bm.models.hurdle_poisson(2),
]

MODULE = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

WIDE = 20.0

def program(x, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(70.0, WIDE))
        scale = numpyro.sample("scale", dist.LogNormal(1.0, 1.0))
    with numpyro.plate("obs_id", len(x)):
        mixing = dist.Categorical(probs=weights)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, scale)), obs=x)
"""

ELSEWHERE = """
import json, pickle, sys, warnings
warnings.simplefilter("error")
folder = sys.argv[1]
with open(f"{folder}/results.pickle", "rb") as file:
    em, nuts = pickle.load(file)
import matplotlib
matplotlib.use("agg")
import bayesmix as bm
rows = em.mixture.value[:3]
found = {"labels": em.predict(rows).tolist(), "em": em.log_density(rows).tolist()}
found |= {"resp": nuts.predict_proba(rows).tolist(), "repr": repr(em) + repr(nuts)}
found["mean"] = nuts.summary()["mean"].tolist()
nuts.to_datatree().to_netcdf(f"{folder}/nuts.nc", engine="h5netcdf")
bm.plots.density(em).savefig(f"{folder}/em.png")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the user's module with the program lies; on the path of this process, too."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "waiting_times.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        sys.modules.pop("waiting_times", None)


@pytest.fixture(scope="module")
def module(folder):
    return importlib.import_module("waiting_times")


@pytest.fixture(scope="module")
def waits():
    return bm.datasets.load_faithful()["waiting"][:80]


@pytest.fixture(scope="module")
def em(module, waits):
    return bm.EM(module.program, restarts=2, progress_bar=False).run(jax.random.key(0), waits)


@pytest.fixture(scope="module")
def nuts(module, waits, em):
    sampler = bm.NUTS(module.program, chains=2, warmup=50, draws=50, progress_bar=False)
    return sampler.run(jax.random.key(1), waits, start=em)


def test_another_process_predicts_summarises_plots_and_saves(em, nuts, folder):
    with open(folder / "results.pickle", "wb") as file:
        pickle.dump((em, nuts), file)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = em.mixture.value[:3]
    assert found["labels"] == em.predict(rows).tolist()
    assert found["repr"] == repr(em) + repr(nuts)
    np.testing.assert_allclose(found["em"], em.log_density(rows), rtol=1e-12)
    np.testing.assert_allclose(found["resp"], nuts.predict_proba(rows), rtol=1e-10)
    np.testing.assert_allclose(found["mean"], nuts.summary()["mean"], rtol=1e-10)
    assert (folder / "nuts.nc").stat().st_size > 0
    assert (folder / "em.png").stat().st_size > 0


@pytest.mark.parametrize("program", READY, ids=lambda program: program.__name__)
def test_a_ready_program_is_made_again_by_its_call(program):
    assert unpacked(pickle.loads(pickle.dumps(packed(program)))) is program


def test_approximations_travel_with_their_em(em):
    results = [em.laplace(jax.random.key(0), 50), em.bootstrap(jax.random.key(0), 4)]
    for result in results:
        again = pickle.loads(pickle.dumps(result))
        assert repr(again) == repr(result)
        for name, value in result.params.items():
            np.testing.assert_array_equal(again.params[name], value)
        np.testing.assert_array_equal(again.start.params["loc"], em.params["loc"])


def test_what_was_worked_out_stays_behind(em):
    plain = len(pickle.dumps(em))
    _ = em.responsibilities, em.predict_proba(em.mixture.value)  # compiled, and kept
    assert len(pickle.dumps(em)) == plain


def test_names_of_columns_and_rows_come_along():
    rows = bm.datasets.load_faithful()[:40].set_index(np.array([f"r{n}" for n in range(40)]))
    table = rows.assign(kind=np.where(rows["eruptions"] > 3, "long", "short"))
    mixture = bm.trace(bm.models.mixed({"waiting": "normal", "kind": "categorical"}, 2), table)
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.value, mixture.value)
    assert list(again.index) == list(table.index)
    assert again.arguments.same_as(mixture.arguments)


def local(module, waits):
    def program(x):
        module.program(x)

    return bm.trace(program, waits)


def test_a_program_made_inside_a_function_is_refused_in_words(module, waits):
    mixture = local(module, waits)
    with pytest.raises(pickle.PicklingError, match="define it at the top level of a module"):
        pickle.dumps(mixture)
    assert copy.deepcopy(mixture) is mixture


def test_cloudpickle_takes_any_program(module, waits):
    cloudpickle = pytest.importorskip("cloudpickle")
    mixture = local(module, waits)
    again = pickle.loads(cloudpickle.dumps(mixture))
    assert again.program is not mixture.program
    np.testing.assert_array_equal(again.value, mixture.value)


def test_a_program_that_has_changed_is_refused(module, waits, monkeypatch):
    text = pickle.dumps(bm.trace(module.program, waits))
    monkeypatch.setattr(module, "WIDE", 21.0)
    with pytest.raises(ValueError, match="'program' has changed since"):
        pickle.loads(text)
