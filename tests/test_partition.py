"""Point estimates and credible balls of partitions: brute force over all, outside results."""

import itertools
from functools import cache
from importlib import import_module
from math import comb, factorial, lgamma, log

import jax
import numpy as np
import pytest
import xarray
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score, mutual_info_score, rand_score

import bayesmix as bm
from bayesmix.allocations import read_labels
from bayesmix.partition import objective as objectives
from bayesmix.partition import tables
from bayesmix.partition.losses import distances, loss_of

KEY = jax.random.key(0)
NAMES = [("vi", None), ("binder", None), ("gvi", 0.5), ("gvi", 1.6), ("gbinder", 0.6)]
NAMES += [("gbinder", 1.5), ("omari", None), ("nvi", None), ("id", None), ("nid", None)]
SMALL = ("draws_n6_s1", "draws_n8_s2", "draws_n9_s3")


@cache
def all_partitions(N):
    """Every partition of N observations, numbered by first members, (Bell number, N)."""

    def grow(labels):
        if len(labels) == N:
            yield labels
        else:
            for k in range(max(labels) + 2):
                yield from grow((*labels, k))

    return np.array(list(grow((0,))))


def noisy(seed, S=25, N=6, L=3, keep=0.7):
    """Partitions about a base one, canonical."""
    rng = np.random.default_rng(seed)
    z = np.where(rng.random((S, N)) < keep, rng.integers(0, L, N), rng.integers(0, L, (S, N)))
    return read_labels(z).values


def brute(loss, draws):
    """Expected loss of every partition."""
    return np.array([distances(loss, c, draws).mean() for c in all_partitions(draws.shape[1])])


# Losses, against their definitions.


def entropies(a, b):
    """H(a), H(b), I(a, b) in bits, from scikit-learn."""
    return tuple(mutual_info_score(x, y) / log(2) for x, y in ((a, a), (b, b), (a, b)))


def by_definition(name, a, truth, reported):
    if name.endswith("binder"):
        same_t, same_r = truth[:, None] == truth, reported[:, None] == reported
        cost = a * (same_t & ~same_r) + (2 - a) * (~same_t & same_r)
        return np.triu(cost, 1).sum() * 2 / len(truth) ** 2
    if name == "omari":
        return 1 - adjusted_rand_score(truth, reported)
    H_t, H_r, mutual = entropies(truth, reported)
    joint = H_t + H_r - mutual
    if name.endswith("vi") and name != "nvi":
        return a * (joint - H_t) + (2 - a) * (joint - H_r)
    if name == "nvi":
        return 1 - mutual / joint if joint > 1e-12 else 0.0
    largest = max(H_t, H_r)
    return largest - mutual if name == "id" else (1 - mutual / largest if largest > 1e-12 else 0.0)


@pytest.mark.parametrize(("name", "a"), NAMES)
def test_losses_equal_their_definitions(name, a):
    draws = np.concatenate([noisy(1, N=9, L=4), np.zeros((1, 9), int), np.arange(9)[None]])
    for reported in (noisy(2, N=9)[0], np.zeros(9, int), np.arange(9)):
        wanted = [by_definition(name, a or 1.0, z, reported) for z in draws]
        found = distances(loss_of(name, a), reported, draws)
        np.testing.assert_allclose(found, wanted, atol=1e-9)  # sklearn's MI rounds at 1e-10


def test_public_distances_take_any_labels():
    one, two = np.array(list("aabbcc")), [3, 3, 3, 7, 7, 9]
    H_1, H_2, mutual = entropies(one, two)
    assert bm.vi(one, two) == pytest.approx(H_1 + H_2 - 2 * mutual, abs=1e-12)
    assert bm.binder(one, two) == pytest.approx((1 - rand_score(one, two)) * 5 / 6, abs=1e-12)
    assert bm.adjusted_rand(one, two) == pytest.approx(adjusted_rand_score(one, two), abs=1e-12)
    assert bm.vi(one, one) == bm.binder(one, one) == 0 == 1 - bm.adjusted_rand(one, one)
    with pytest.raises(ValueError, match=r"two has shape \(3,\) but the draws are of 6"):
        bm.vi(one, [1, 2, 3])


# What the search steps on.


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize(
    ("kind", "name", "a"),
    [("Tables", *loss) for loss in NAMES] + [("Pairs", *x) for x in NAMES if "binder" in x[0]],
)
def test_costs_and_merges_are_differences_of_the_expected_loss(kind, name, a, few, monkeypatch):
    monkeypatch.setattr(tables, "FEW", few)
    monkeypatch.setattr(tables, "STEP", 2)
    loss, draws = loss_of(name, a), noisy(3, S=12, N=7, L=4)
    if kind == "Tables":
        unique, counts = np.unique(draws, axis=0, return_counts=True)
        state = tables.Tables(loss, unique, counts / counts.sum())
    else:
        state = objectives.Pairs(loss, np.mean(draws[:, :, None] == draws[:, None], axis=0))
    rng = np.random.default_rng(0)
    state.reset(rng.integers(0, 3, 7))
    for i in rng.integers(0, 7, 20):  # moves that open and empty clusters and add columns
        state.take(i)
        state.put(i, int(rng.integers(0, len(state.sizes))))
        labels = state.labels.copy()
        here = distances(loss, read_labels([labels]).values[0], draws).mean()
        check_costs(state, loss, draws, labels)
        check_merges(state, loss, draws, labels)
        assert state.value() == pytest.approx(here, abs=1e-12)


def check_costs(state, loss, draws, labels):
    """Of all clusters but other single observations that cannot be the cheapest to join."""
    many, scale = len(state.sizes), 1.0 if loss.a is None else 49 if loss.pairs else 7
    alone = state.sizes[labels] == 1
    groups = [np.flatnonzero(alone)] if alone.any() else []
    groups += [np.flatnonzero(labels == k) for k in np.flatnonzero(state.sizes > 1)]
    for items in groups:
        for i, costs in zip(items, state.costs(items), strict=True):
            moved = [np.where(np.arange(7) == i, k, labels) for k in range(many)]
            wanted = scale * np.array([distances(loss, c, draws).mean() for c in canonical(moved)])
            known, own = np.isfinite(costs), labels[i]
            np.testing.assert_allclose(
                costs[known] - costs[own], wanted[known] - wanted[own], atol=1e-11
            )
            others = np.delete(np.arange(many), own)
            others = others[state.sizes[others] > 0]
            assert costs[others].min(initial=np.inf) - costs[own] == pytest.approx(
                wanted[others].min(initial=np.inf) - wanted[own], abs=1e-11
            )
            assert (known | (state.sizes == 1)).all()


def check_merges(state, loss, draws, labels):
    merged, large = state.merged(), np.flatnonzero(state.sizes > 1)
    for k, other in itertools.combinations(large, 2):
        joined = canonical([np.where(labels == other, k, labels)])[0]
        assert merged[k, other] == pytest.approx(distances(loss, joined, draws).mean(), abs=1e-12)
    assert np.isinf(merged).sum() == merged.size - comb(len(large), 2)


def canonical(labels):
    return read_labels(np.array(labels)).values


@pytest.mark.parametrize(("name", "a"), NAMES)
def test_costs_hold_where_denominators_vanish(name, a):
    """Among the draws and the moves are both trivial partitions, which a loss finds equal."""
    loss, draws = loss_of(name, a), np.array([[0, 0, 0], [0, 1, 2], [0, 0, 1]])
    state = tables.Tables(loss, draws, np.array([0.5, 0.3, 0.2]))
    scale = 1.0 if loss.a is None else 9 if loss.pairs else 3
    for start in ([0, 0, 0], [0, 1, 1], [0, 1, 2]):
        state.reset(np.array(start))
        for i in range(3):
            moved = [read_labels([np.where(np.arange(3) == i, k, start)]).values[0]
                     for k in range(4)]  # fmt: skip
            wanted = np.array([state.weights @ distances(loss, c, draws) for c in moved]) * scale
            costs = state.costs(np.array([i]))[0, :4]
            np.testing.assert_allclose(costs - costs[0], wanted - wanted[0], atol=1e-12)


# The optimum.


@pytest.mark.parametrize(("name", "a"), NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_optimum_over_all_partitions_is_found(name, a, seed):
    draws = noisy(seed, S=8 * seed, L=seed + 1, keep=(0.9, 0.7, 0.5, 0.3)[seed - 1])
    expected = brute(loss_of(name, a), draws)
    found = bm.partition(KEY, draws, name, a=a)
    assert found.expected_loss == pytest.approx(expected.min(), abs=1e-11)
    at = (all_partitions(6) == found.labels).all(axis=1)
    assert expected[at][0] == pytest.approx(found.expected_loss, abs=1e-11)


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("name", ["vi", "binder", "omari"])
def test_max_clusters_bounds_the_optimum(name, most):
    draws = noisy(8, L=5, keep=0.9)
    expected = brute(loss_of(name, None), draws)
    allowed = all_partitions(6).max(axis=1) < most
    found = bm.partition(KEY, draws, name, max_clusters=most)
    assert found.n_clusters <= most
    assert found.expected_loss == pytest.approx(expected[allowed].min(), abs=1e-11)


@pytest.mark.parametrize("name", SMALL)
def test_references_by_brute_force(reference, name):
    facts = reference(f"exact/partition_{name}.json")
    draws, N = np.array(facts["draws_1line_each"]), facts["n"]
    vi = bm.partition(KEY, draws)
    assert vi.labels.tolist() == facts["expected_VI_exact"]["argmin"]
    assert vi.expected_loss == pytest.approx(facts["expected_VI_exact"]["min_bits"], abs=1e-12)
    binder = bm.partition(KEY, draws, "binder")
    assert binder.labels.tolist() == facts["binder"]["argmin"]
    assert binder.expected_loss * N**2 / 2 == pytest.approx(facts["binder"]["min_value"], abs=1e-11)
    np.testing.assert_allclose(bm.similarity(draws), facts["psm"], atol=1e-12)
    ranked = np.sort(brute(loss_of("vi", None), draws))
    assert ranked[1] * log(2) == pytest.approx(facts["expected_VI_exact"]["next_nats"], abs=1e-12)


def log_marginal(x):
    """Of one cluster: x ~ N(mu, 1), mu ~ N(0, 9)."""
    n = len(x)
    return multivariate_normal.logpdf(x, np.zeros(n), np.eye(n) + 9.0)


def log_prior(name, sizes, N):
    t = len(sizes)
    if name == "dp":
        return sum(lgamma(n) for n in sizes)
    terms = (
        0.5**k * factorial(k) / factorial(k - t) * factorial(k - 1) / factorial(k + N - 1)
        for k in range(t, 60)
    )
    return log(sum(terms)) + sum(lgamma(n + 1) for n in sizes)


@pytest.mark.parametrize("name", ["dp", "mfm"])
def test_exact_posteriors_of_infinite_mixtures(reference, name):
    """The posterior over all 4140 partitions, computed here, as draws in proportion to it."""
    facts = reference(f"exact/partition_{name}_normal_kv.json")
    x, parts = np.array(facts["data"]), all_partitions(8)
    pieces = {m: log_marginal(x[list(m)]) for r in range(1, 9)
              for m in itertools.combinations(range(8), r)}  # fmt: skip
    log_p = np.empty(len(parts))
    for at, c in enumerate(parts):
        members = [tuple(np.flatnonzero(c == k)) for k in range(c.max() + 1)]
        log_p[at] = log_prior(name, [len(m) for m in members], 8) + sum(pieces[m] for m in members)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    for top in facts["top_partitions"]:
        assert p[(parts == top["partition"]).all(axis=1)][0] == pytest.approx(top["prob"], abs=1e-9)
    counts = np.round(p * 20_000).astype(int)
    draws = np.repeat(parts, counts, axis=0)
    missed = np.abs(counts / counts.sum() - p).sum()  # total variation x 2, made by rounding
    np.testing.assert_allclose(bm.similarity(draws), facts["psm"], atol=missed)
    many = bm.n_occupied(draws)
    for k, wanted in enumerate(facts["P_number_of_clusters"], 1):
        found = float(many.sel(n_clusters=k)) if k in many["n_clusters"] else 0.0
        assert abs(found - wanted) <= missed
    vi = bm.partition(KEY, draws)
    assert vi.labels.tolist() == facts["expected_VI_exact"]["argmin"]
    error = missed * 3 + 1e-3  # VI of 8 is at most 3 bits; the reference dropped rare partitions
    assert vi.expected_loss == pytest.approx(facts["expected_VI_exact"]["min_bits"], abs=error)
    binder = bm.partition(KEY, draws, "binder")
    assert binder.labels.tolist() == facts["binder"]["argmin"]
    assert abs(binder.expected_loss * 32 - facts["binder"]["min_value"]) <= missed * comb(8, 2)


@cache
def wade():
    import gzip
    from pathlib import Path

    path = Path(__file__).parent / "references" / "exact" / "vi_ex1_wade.draws.csv.gz"
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", skiprows=1, dtype=int)


def test_the_authors_own_estimates_are_reached_or_beaten(reference):
    facts = reference("exact/vi_ex1_wade.json")
    theirs = min(run["expected_VI_log2_over_draws"] for run in facts["minVI"])
    ours = bm.partition(KEY, wade())
    assert ours.expected_loss <= theirs + 1e-8  # printed to 8 decimals
    assert ours.labels.tolist() == (read_labels([facts["minVI"][0]["cl"]]).values[0]).tolist()
    binder = bm.partition(KEY, wade(), "binder")
    assert binder.expected_loss * 200**2 / 2 <= min(r["value"] for r in facts["minbinder"]) + 1e-8
    again = distances(loss_of("binder", None), binder.labels, read_labels(wade()).values).mean()
    assert again == pytest.approx(binder.expected_loss, abs=1e-12)
    share = bm.n_occupied(wade()).to_series()
    for k, wanted in facts["K_distribution"].items():
        assert share[int(k)] == pytest.approx(wanted, abs=1e-12)


def test_beyond_512_draws_the_optimum_is_local_on_all_of_them(monkeypatch):
    monkeypatch.setattr(import_module("bayesmix.partition"), "COARSE", 20)
    draws = wade()[:, ::2]
    found = bm.partition(KEY, draws, runs=4)
    loss, labels = loss_of("vi", None), found.labels
    values = read_labels(draws).values
    assert found.expected_loss == pytest.approx(distances(loss, labels, values).mean(), abs=1e-12)
    state = tables.Tables(loss, values, np.full(len(values), 1 / len(values)))
    state.reset(labels)
    for i in range(len(labels)):
        costs = state.costs(np.array([i]))[0]
        assert costs[labels[i]] <= costs.min() + 1e-8
    assert state.merged().min() >= found.expected_loss - 1e-9


# What the result says of itself.


def test_the_search_says_how_certain_it_is():
    draws = noisy(4, S=100, L=3, keep=0.6)
    found = bm.partition(KEY, draws, runs=8)
    values = distances(loss_of("vi", None), found.labels, draws)
    assert 0 < found.reached <= 1
    assert found.optima[0].labels is found.labels
    assert sum(optimum.starts for optimum in found.optima) == 8
    assert found.runner_up is not None
    other = distances(loss_of("vi", None), found.runner_up, draws)
    assert found.lead == pytest.approx((other - values).mean(), abs=1e-12)
    assert found.lead > 0
    # independent draws: the effective number is about their number
    assert found.mcse == pytest.approx(values.std() / 10, rel=0.5)
    text = repr(found)
    assert "Partition of 6 observations: " in text
    assert "of 8 random starts" in text
    assert found.to_dataarray().dims == ("obs_id",)


def test_a_bounded_search_ends_and_says_so(monkeypatch):
    draws, loss = noisy(9, S=60, N=40, L=4, keep=0.5), loss_of("omari", None)
    whole = bm.partition(KEY, draws, "omari", runs=4)
    assert (whole.runs, whole.stopped) == (4, False)
    assert "stopped" not in repr(whole)
    monkeypatch.setattr(import_module("bayesmix.partition.search"), "WORK", 0)
    found = bm.partition(KEY, draws, "omari", runs=4)
    assert (found.runs, found.stopped) == (1, True)
    assert "of 1 random starts ended here; stopped at its bound of work" in repr(found)
    value = distances(loss, found.labels, draws).mean()
    assert found.expected_loss == pytest.approx(value, abs=1e-12)
    assert found.expected_loss >= whole.expected_loss - 1e-12


def test_half_of_the_observations_at_random_make_no_clusters_of_their_own():
    """A search that may open clusters freely from the start ends with one for each of them."""
    rng, N = np.random.default_rng(0), 120
    base, noise = np.arange(N // 2) % 3, rng.integers(0, 3, (60, N // 2))
    draws = np.hstack([np.tile(base, (60, 1)), noise])
    found = bm.partition(KEY, draws, runs=4)
    alone = np.r_[base, 3 + np.arange(N // 2)]
    together = np.r_[base, np.full(N // 2, 3)]
    loss = loss_of("vi", None)
    values = read_labels(draws).values
    for other in (alone, together):
        assert found.expected_loss <= distances(loss, other, values).mean() + 1e-12
    assert found.n_clusters <= 3 + 3 + 1
    assert not found.stopped


def test_many_observations_alone_are_found_where_they_cost_least():
    """Random starts, which may open few clusters, end far from it: each pair is together rarely."""
    rng, N = np.random.default_rng(0), 120
    base, noise = np.arange(N // 2) % 3, rng.integers(0, 8, (60, N // 2))
    draws = np.hstack([np.tile(base, (60, 1)), noise])
    wanted = np.r_[base, 3 + np.arange(N // 2)]
    for name, a in (("gvi", 0.4), ("nvi", None), ("omari", None)):
        found = bm.partition(KEY, draws, name, a=a, runs=2)
        cost = distances(loss_of(name, a), wanted, canonical(draws)).mean()
        assert found.expected_loss <= cost + 1e-12
        assert found.n_clusters > N // 2


def test_one_certain_partition_has_no_error():
    found = bm.partition(KEY, np.tile([1, 1, 2, 2, 2], (10, 1)))
    assert (found.expected_loss, found.mcse, found.reached) == (0.0, 0.0, 1.0)
    assert bm.partition(KEY, [[5, 5, 5]]).n_clusters == 1
    alone = bm.partition(KEY, [[5], [6]])
    assert alone.labels.tolist() == [0]
    assert alone.runner_up is None
    assert alone.lead is None
    assert "runner-up" not in repr(alone)


@pytest.mark.parametrize("name", ["vi", "binder", "omari", "id"])
def test_the_runner_up_is_the_best_neighbour_or_better(name):
    """Never better than the second best of all partitions, never worse than one step away."""
    for seed in range(5):
        draws, loss = noisy(seed, S=30, keep=0.6), loss_of(name, None)
        found, expected = bm.partition(KEY, draws, name), brute(loss, draws)
        order = np.sort(expected)
        cost = found.expected_loss + found.lead
        assert cost >= order[1] - 1e-11
        steps = [
            expected[(all_partitions(6) == read_labels([c]).values[0]).all(axis=1)][0]
            for c in one_step(found.labels)
        ]
        assert cost <= min(steps) + 1e-11


def one_step(labels):
    """One observation moved (to a cluster or alone), or two clusters merged."""
    for i, k in itertools.product(range(6), range(labels.max() + 2)):
        moved = np.where(np.arange(6) == i, k, labels)
        if (read_labels([moved]).values[0] != labels).any():
            yield moved
    for k, other in itertools.combinations(range(labels.max() + 1), 2):
        yield np.where(labels == other, k, labels)


# Where labels come from does not matter.


def shuffled_names(draws, seed=0):
    """Every draw under names of its own: numbers with gaps."""
    rng = np.random.default_rng(seed)
    many = int(draws.max()) + 1
    return np.stack([rng.choice(1000, many, replace=False)[z] for z in draws])


def forms(draws):
    """The same draws as other people hold them."""
    chains = draws.reshape(5, -1, draws.shape[1])
    yield "renamed in every draw", shuffled_names(draws)
    yield "from 1, as floats", draws + 1.0
    yield "text", np.array(["c" + str(k) for k in draws.ravel()]).reshape(draws.shape)
    yield "chains", chains
    yield "DataArray", xarray.DataArray(chains, dims=("chain", "draw", "person"))
    moved = xarray.DataArray(chains, dims=("chain", "draw", "person"))
    yield "DataArray, other order", moved.transpose("person", "chain", "draw")
    group = xarray.Dataset({"z": moved})
    yield "tree", xarray.DataTree.from_dict({"posterior": xarray.Dataset(), "allocations": group})


@pytest.mark.parametrize("loss", ["vi", "binder", "nvi"])
def test_names_of_clusters_and_form_of_draws_do_not_matter(loss):
    draws = wade()[:50, :60]
    plain = bm.partition(KEY, draws, loss, runs=3)
    for form, same in forms(draws):
        found = bm.partition(KEY, same, loss, runs=3)
        assert found.labels.tolist() == plain.labels.tolist(), form
        assert found.expected_loss == plain.expected_loss, form
        ball = bm.credible_ball(same, found)
        assert repr(ball) == repr(bm.credible_ball(draws, plain)), form
        np.testing.assert_array_equal(bm.similarity(same), bm.similarity(draws))
        np.testing.assert_array_equal(bm.n_occupied(same), bm.n_occupied(draws))
        stable = bm.stability(same, found)["membership"]
        np.testing.assert_allclose(stable, bm.stability(draws, plain)["membership"], atol=1e-12)


@pytest.mark.parametrize("loss", ["vi", "binder", "omari"])
def test_the_order_of_observations_does_not_matter(loss):
    draws = noisy(5, S=40, N=30, L=4, keep=0.8)
    order = np.random.default_rng(1).permutation(30)
    plain = bm.partition(KEY, draws, loss, runs=8)
    moved = bm.partition(KEY, draws[:, order], loss, runs=8)
    assert moved.expected_loss == pytest.approx(plain.expected_loss, abs=1e-12)
    assert bm.adjusted_rand(moved, plain.labels[order]) == 1.0
    here, there = bm.credible_ball(draws, plain), bm.credible_ball(draws[:, order], moved)
    assert here.radius == pytest.approx(there.radius, abs=1e-12)
    assert here.inside.tolist() == there.inside.tolist()
    for edge in ("horizontal", "upper", "lower"):
        one, two = getattr(here, edge), getattr(there, edge)
        assert one.distance == pytest.approx(two.distance, abs=1e-12)
        assert len(one.labels) == len(two.labels)
    P, Q = bm.similarity(draws).to_numpy(), bm.similarity(draws[:, order]).to_numpy()
    np.testing.assert_array_equal(P[np.ix_(order, order)], Q)
    one, two = bm.stability(draws, plain), bm.stability(draws[:, order], moved)
    np.testing.assert_allclose(one["stability"].to_numpy()[order], two["stability"], atol=1e-12)


# Credible balls.


def test_the_authors_credible_ball(reference):
    facts = reference("exact/vi_ex1_wade.json")
    ball = bm.credible_ball(wade(), facts["minVI"][0]["cl"])
    wanted = facts["credible_ball_95_VI"]
    assert ball.horizontal.distance == pytest.approx(wanted["horizontal_distance"], abs=1e-8)
    assert ball.upper.distance == pytest.approx(wanted["uppervert_distance"], abs=1e-8)
    assert ball.lower.distance == pytest.approx(wanted["lowervert_distance"], abs=1e-8)
    assert ball.radius == ball.horizontal.distance


@pytest.mark.parametrize("distance", ["vi", "binder"])
@pytest.mark.parametrize("prob", [0.5, 0.9])
def test_the_ball_is_the_smallest_that_holds_enough(distance, prob):
    draws = noisy(6, S=100, N=8, L=4, keep=0.8)
    centre = draws[0]
    ball = bm.credible_ball(draws, centre, prob, distance=distance)
    far = distances(loss_of(distance, None), centre, draws)
    np.testing.assert_array_equal(ball.inside, far <= ball.radius + 1e-9)
    assert ball.inside.mean() >= prob
    assert (far < ball.radius - 1e-9).mean() < prob
    many, within = draws.max(axis=1) + 1, draws[ball.inside]
    least, most = many[ball.inside].min(), many[ball.inside].max()
    for edge, among in ((ball.upper, many == least), (ball.lower, many == most)):
        farthest = far[ball.inside & among].max()
        assert edge.distance == pytest.approx(farthest, abs=1e-12)
        ties = np.unique(draws[ball.inside & among & (far >= farthest - 1e-9)], axis=0)
        assert sorted(map(tuple, edge.labels)) == sorted(map(tuple, ties))
    assert set(ball.upper.n_clusters) == {least}
    assert set(ball.lower.n_clusters) == {most}
    assert all((within == edge).all(axis=1).any() for edge in ball.horizontal.labels)


def test_clusters_are_counted_whatever_their_names():
    """The largest label would take the second partition for one of nine clusters."""
    draws = np.array([[1, 1, 2, 2]] * 8 + [[9, 9, 9, 9]] * 2)
    ball = bm.credible_ball(draws, [1, 1, 2, 2])
    assert ball.upper.n_clusters.tolist() == [1]
    assert ball.lower.n_clusters.tolist() == [2]
    assert "one cluster of 4" in repr(ball)


# Stability.


def test_stability_is_the_probability_of_the_matched_cluster():
    draws, centre = noisy(7, S=30, N=9, L=3, keep=0.75), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    total = np.zeros((9, 3))
    for z in draws:
        names = range(max(3, z.max() + 1))
        best = max(
            itertools.permutations(names, 3),
            key=lambda match: sum((z[centre == k] == match[k]).sum() for k in range(3)),
        )
        total += z[:, None] == np.array(best)
    found = bm.stability(draws, centre)
    agreed = total[np.arange(9), centre].sum()
    own = found["stability"].to_numpy()
    assert own.sum() * 30 == pytest.approx(agreed, abs=1e-9)
    membership = found["membership"].to_numpy()
    assert (membership.sum(axis=1) <= 1 + 1e-12).all()
    np.testing.assert_array_equal(own, membership[np.arange(9), centre])
    others = np.where(np.arange(3) == centre[:, None], -1, membership)
    np.testing.assert_array_equal(found["runner_up_probability"], others.max(axis=1))


# Refusals.


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "missing label at draw 1, observation 0"),
        (np.array([[0, 1], [None, 0]], object), "missing label at draw 1, observation 0"),
        (np.array([[0.2, 0.8], [0.5, 0.5]]), "0.2 at draw 0, observation 0.*responsibilities"),
        ([[0, 1], [0]], "rows of different lengths"),
        (np.arange(4), r"shape \(4,\): labels must be an array \(draw, obs\)"),
        (np.zeros((3, 0), int), r"shape \(3, 0\): labels must be an array"),
        (np.array([[0.0, np.inf]]), "inf at draw 0, observation 1: labels are whole numbers"),
        (xarray.Dataset({"z": ("draw", [0])}), r"draws is Dataset: .*idata.posterior\['z'\]"),
        ({"z": [[0]]}, "draws is dict: pass the labels themselves"),
        (np.zeros((2, 2), "datetime64[s]"), "labels are whole numbers or text"),
        (xarray.DataArray(np.zeros((2, 3), int), dims=("a", "b")), r"dims \('a', 'b'\)"),
        (xarray.DataArray(np.zeros(3, int), dims="draw"), "none for the observations"),
    ],
)
def test_draws_that_are_not_labels_are_refused(draws, words):
    for function in (bm.similarity, bm.n_occupied, lambda d: bm.partition(KEY, d)):
        with pytest.raises(ValueError, match=words):
            function(draws)


def test_other_refusals_say_what_to_do_instead():
    draws = noisy(1)
    with pytest.raises(ValueError, match="unknown loss 'VI': use one of 'vi'"):
        bm.partition(KEY, draws, "VI")
    with pytest.raises(ValueError, match="loss 'gvi' needs a"):
        bm.partition(KEY, draws, "gvi")
    with pytest.raises(ValueError, match="loss 'vi' has no a: use 'gvi'"):
        bm.partition(KEY, draws, "vi", a=0.5)
    with pytest.raises(ValueError, match="a=2"):
        bm.partition(KEY, draws, "gbinder", a=2.0)
    with pytest.raises(ValueError, match="max_clusters must be a positive whole number, not 0"):
        bm.partition(KEY, draws, max_clusters=0)
    with pytest.raises(ValueError, match="random key"):
        bm.partition(0, draws)
    with pytest.raises(ValueError, match="prob=95 must be between 0 and 1"):
        bm.credible_ball(draws, draws[0], 95)
    with pytest.raises(ValueError, match="unknown distance 'omari'"):
        bm.credible_ball(draws, draws[0], distance="omari")
    with pytest.raises(ValueError, match="partition has a missing or infinite label"):
        bm.credible_ball(draws, np.full(6, np.nan))
    with pytest.raises(ValueError, match=r"partition has shape \(5,\) but the draws are of 6"):
        bm.credible_ball(draws, draws[0][:5])
