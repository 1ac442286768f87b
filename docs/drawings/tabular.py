"""Pictures of estimation, neighbours, ensembles, reinforcement learning and runtime."""

import numpy as np
from chart import bars, lines
from sklearn.datasets import load_diabetes, load_digits, load_sample_image
from sklearn.model_selection import train_test_split

from paragone import ensemble, estimation, neighbors, reinforcement

SEED = {"random_state": 0}


def digits():
    """Scikit-learn's digits in two halves, fixed."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.5, random_state=0)


def bmi():
    """Body-mass index and progression of disease of 442 patients."""
    table = load_diabetes(scaled=False)
    return table.data[:, 2:3], table.target


def bayesian_estimation():
    """A rate's posterior as counts arrive."""
    rate, curves = np.linspace(0.05, 7, 160), {}
    counts = np.random.default_rng(0).poisson(3.0, 100)
    for n in (0, 3, 20, 100):
        posterior = estimation.conjugate.prior("poisson", shape=2, rate=1)
        posterior = posterior.update(counts[:n]) if n else posterior
        curves["prior" if n == 0 else f"{n} counts"] = rate, np.exp(posterior.logpdf(rate))
    return lines("Posterior of a Poisson rate", curves, "rate", "density")


def stochastic_approximation():
    """The median of a photograph's pixels by three step sizes."""
    light = load_sample_image("china.jpg").mean(axis=2).ravel()
    pixels = light[np.random.default_rng(0).permutation(light.size)[:20_000]]
    truth, curves, every = np.median(light), {}, np.unique(np.geomspace(20, 20_000, 60).astype(int))
    policies = {
        "constant step": estimation.steps.Constant(20.0),
        "60 k^-0.6": estimation.steps.Power(60.0, 0.0, 0.6),
    }
    for name, policy in policies.items():
        for averaged in (False, True)[: 1 + name.startswith("60")]:
            solver = estimation.RobbinsMonro(lambda w, x: (x <= w) - 0.5, start=40.0, steps=policy)
            path, begin = [], 0
            for stop in every:
                solver.run(pixels[begin:stop])
                begin = stop
                path.append(abs(float(solver.average if averaged else solver.w) - truth) + 0.01)
            curves[name + ", averaged" * averaged] = every, path
    return lines("Error of a median", curves, "pixels seen", "distance from the median", log="xy")


def kd_tree():
    """Recall of best-bin-first by the number of points it may look at."""
    X, query, *_ = digits()
    checks, curves = [8, 16, 32, 64, 128, 256, 512], {}
    forest = neighbors.KDForest(X, random_state=0)
    for k in (1, 10):
        _, true = neighbors.KDTree(X).query(query, k=k)
        true = true.reshape(len(query), -1)
        share = []
        for limit in checks:
            _, found = forest.query(query, k=k, checks=limit, method="forest")
            found = found.reshape(len(query), -1)
            share.append(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))
        curves[f"{k} nearest"] = checks, share
    return lines("Recall against checks", curves, "points looked at, of 898", "recall", log="x")


def bagging():
    """One tree, and averages of more and more."""
    train, test, y, z = digits()
    sizes = [1, 2, 4, 8, 16, 32, 64]
    scores = [
        1 - ensemble.BaggingClassifier(n_estimators=n, **SEED).fit(train, y).score(test, z)
        for n in sizes
    ]
    tree = 1 - ensemble.DecisionTreeClassifier(**SEED).fit(train, y).score(test, z)
    curves = {"bagged trees": (sizes, scores), "one tree": (sizes, [tree] * len(sizes))}
    return lines("Error of bagged trees", curves, "trees", "error on unseen digits", log="x")


def random_forest():
    """How many features a node may try."""
    train, test, y, z = digits()
    tried, unseen, outside = [1, 2, 4, 8, 16, 32, 64], [], []
    for m in tried:
        forest = ensemble.RandomForestClassifier(60, max_features=m, oob_score=True, **SEED)
        forest.fit(train, y)
        unseen.append(1 - forest.score(test, z))
        outside.append(1 - forest.oob_score_)
    curves = {"unseen digits": (tried, unseen), "out of bag": (tried, outside)}
    return lines("Error by features a node", curves, "features tried at a node", "error", log="x")


def adaboost():
    """Error after each round, seen and unseen."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X, test, y, z = train_test_split(X, y, test_size=0.4, random_state=1)
    model = ensemble.AdaBoostClassifier(n_estimators=120, **SEED).fit(X, y)
    parts = {"training": (X, y), "unseen": (test, z)}
    curves = {
        name: (range(1, 121), [np.mean(p != b) for p in model.staged_predict(a)])
        for name, (a, b) in parts.items()
    }
    return lines("Error by rounds of AdaBoost", curves, "rounds", "error")


def gbdt():
    """Three quantiles of one column."""
    X, y = bmi()
    grid, curves = np.linspace(X.min(), X.max(), 200)[:, None], {}
    for q in (0.1, 0.5, 0.9):
        model = ensemble.GradientBoostingRegressor(
            loss="quantile", alpha=q, n_estimators=60, max_depth=2, min_samples_leaf=20, **SEED
        )
        curves[f"quantile {q}"] = grid[:, 0], model.fit(X, y).predict(grid)
    points = {"patients": (X[::2, 0], y[::2])}
    return lines("Quantile boosting", curves, "body-mass index", "progression", dots=points)


def xgboost():
    """What the penalty on leaves does."""
    X, y = bmi()
    grid, curves = np.linspace(X.min(), X.max(), 200)[:, None], {}
    for penalty in (0, 30, 300):
        model = ensemble.NewtonBoostingRegressor(
            n_estimators=20, learning_rate=0.3, reg_lambda=penalty, max_depth=4, **SEED
        )
        curves[f"lambda {penalty}"] = grid[:, 0], model.fit(X, y).predict(grid)
    points = {"patients": (X[::2, 0], y[::2])}
    return lines("Newton boosting", curves, "body-mass index", "progression", dots=points)


def stacking():
    """Members, their vote, and the model that learns whom to believe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test, y, z = digits()
    members = [
        ("forest", ensemble.RandomForestClassifier(40, **SEED)),
        ("linear", make_pipeline(StandardScaler(), LogisticRegression(C=0.1))),
        ("naive Bayes", GaussianNB(var_smoothing=0.01)),
    ]
    models = [
        *members,
        ("voting", ensemble.VotingClassifier(members)),
        ("stacking", ensemble.StackingClassifier(members, cv=3, **SEED)),
    ]
    rows = {
        name: log_loss(z, np.clip(model.fit(train, y).predict_proba(test), 1e-9, 1))
        for name, model in models
    }
    return bars("Log loss of members and ensembles", rows, "log loss on unseen digits")


def grid_world():
    """The values and the best policy."""
    layout = [".....", ".##..", "..#..", ".#T#.", ".#..."]
    grid = reinforcement.GridWorld(layout, gamma=0.9)
    plan = reinforcement.value_iteration(grid)
    return grid.draw(values=plan.values, policy=plan.policy).svg()


def monte_carlo():
    """Error of learned values by steps taken."""
    layout = [".....", "..##.", "..#..", ".#T#.", ".#..."]
    grid = reinforcement.GridWorld(layout, gamma=0.9, r_forbidden=-10)
    truth = reinforcement.value_iteration(grid).values
    learners = {
        "Q-learning": reinforcement.QLearning(grid, behaviour="uniform", **SEED),
        "Sarsa": reinforcement.Sarsa(grid, horizon=100, **SEED),
        "Monte Carlo, any start": reinforcement.MonteCarloExploringStarts(
            grid, horizon=100, alpha=0.1, **SEED
        ),
    }
    curves = {}
    for name, learner in learners.items():
        seen, errors = [], []
        for steps in np.geomspace(2000, 500_000, 14).astype(int):
            learner.train(steps=int(steps) - learner.samples)
            seen.append(learner.samples)
            errors.append(np.sqrt(np.mean((learner.values - truth) ** 2)))
        curves[name] = seen, errors
    return lines("Error of learned values", curves, "steps", "root mean square error", log="xy")


def processes_and_threads():
    """Amdahl's law."""
    n = np.arange(1, 65)
    curves = {f"f = {f}": (n, 1 / ((1 - f) + f / n)) for f in (0.5, 0.9, 0.99)}
    return lines("Speed-up by workers", curves, "workers", "times faster, at most", log="x")
