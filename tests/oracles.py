"""Reference values from other methods: SciPy, enumeration and quadrature."""

import numpy as np
import scipy.special
import scipy.stats


def gaussian_mixture_log_joint(described, x):
    """Returns log p(x, z = k), shape (num_data, K), by SciPy."""
    x = np.asarray(x, float)
    return np.stack(
        [
            np.log(weight) + scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
            for weight, mean, covariance in zip(
                *(
                    np.asarray(described[name], float)
                    for name in ("weights", "means", "covariances")
                )
            )
        ],
        axis=-1,
    ).reshape(len(x), -1)


def log_sum(log_joint):
    """Returns log p(x) of each datum."""
    return scipy.special.logsumexp(log_joint, axis=-1)


def linear_gaussian_evidence(loadings, noise, x):
    """Returns log N(x; 0, W Wᵀ + noise² I) of each datum."""
    loadings = np.asarray(loadings, float)
    covariance = loadings @ loadings.T + float(noise) ** 2 * np.eye(len(loadings))
    return scipy.stats.multivariate_normal(np.zeros(len(loadings)), covariance).logpdf(
        np.asarray(x)
    )


def quadrature_evidence(log_joint, params, x, num_points=60):
    """Returns log ∫ p(x, z) dz of one datum for a scalar z, by the trapezoidal rule on a fine grid."""
    grid = np.linspace(-12, 12, 20 * num_points + 1)
    values = np.array([float(log_joint(params, x, np.array([z]))) for z in grid])
    return scipy.special.logsumexp(values) + np.log(grid[1] - grid[0])


def ppca_optimum(x, dim):
    """Returns the maximal log-likelihood of probabilistic PCA (Tipping and Bishop 1999), in nats per datum."""
    x = np.asarray(x, float)
    x = x - x.mean(0)
    values = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    noise = values[dim:].mean()
    width = x.shape[1]
    log_determinant = np.sum(np.log(values[:dim])) + (width - dim) * np.log(noise)
    return -0.5 * (width * np.log(2 * np.pi) + log_determinant + width)


# --- densities of components, log p(x | z = k), shape (num_data, K); NaN in x is missing -----------------


def _arrays(described, *names):
    return [np.asarray(described[name], float) for name in names]


def _observed_sum(terms, x):
    """Returns the sum of terms (num_data, K, dim) over the observed columns of each row."""
    return np.where(np.isnan(np.asarray(x, float))[:, None, :], 0, terms).sum(-1)


def _filled(x):
    """Returns x with missing numbers replaced by 1, and with an axis for K."""
    return np.nan_to_num(np.asarray(x, float), nan=1.0)[:, None, :]


def bernoulli(described, x):
    (probabilities,) = _arrays(described, "probabilities")
    return _observed_sum(scipy.stats.bernoulli(probabilities).logpmf(_filled(x)), x)


def poisson(described, x):
    (rates,) = _arrays(described, "rates")
    return _observed_sum(scipy.stats.poisson(rates).logpmf(_filled(x)), x)


def gamma(described, x):
    shapes, rates = _arrays(described, "shapes", "rates")
    return _observed_sum(scipy.stats.gamma(shapes, scale=1 / rates).logpdf(_filled(x)), x)


def categorical(described, x):
    (probabilities,) = _arrays(described, "probabilities")
    columns = np.arange(probabilities.shape[1])
    code = np.nan_to_num(np.asarray(x, float)).astype(int)
    terms = np.log(probabilities[:, columns, code]).transpose(1, 0, 2)
    return _observed_sum(terms, x)


def multinomial(described, x):
    (probabilities,) = _arrays(described, "probabilities")
    x = np.asarray(x, int)
    return np.stack(
        [[scipy.stats.multinomial(row.sum(), p).logpmf(row) for p in probabilities] for row in x]
    )


def _on_what_is_seen(distribution, x, num_components):
    x = np.asarray(x, float)
    seen = ~np.isnan(x)
    return np.array(
        [
            [distribution(k, s).logpdf(row[s]) for k in range(num_components)]
            for row, s in zip(x, seen)
        ]
    )


def normal(described, x):
    """Returns the log-densities of normal components, and of factor analyzers by their covariances."""
    means, covariances = _arrays(described, "means", "covariances")

    def marginal(k, s):
        return scipy.stats.multivariate_normal(means[k, s], covariances[k][np.ix_(s, s)])

    return _on_what_is_seen(marginal, x, len(means))


def student_t(described, x):
    means, scales, dofs = _arrays(described, "means", "scales", "dofs")

    def marginal(k, s):
        return scipy.stats.multivariate_t(means[k, s], scales[k][np.ix_(s, s)], dofs[k])

    return _on_what_is_seen(marginal, x, len(means))


def with_weights(described, densities):
    """Returns log p(x, z = k)."""
    return densities + np.log(np.asarray(described["weights"], float))


def predictors(described, inputs):
    """Returns β₀ + β·u, shape (num_data, K)."""
    (coefficients,) = _arrays(described, "coefficients")
    return coefficients[:, 0] + np.asarray(inputs, float) @ coefficients[:, 1:].T


def normal_regression(described, x):
    (deviations,) = _arrays(described, "deviations")
    mean = predictors(described, x[0])
    return scipy.stats.norm(mean, deviations).logpdf(np.asarray(x[1], float)[:, None])


def poisson_regression(described, x):
    rate = np.exp(predictors(described, x[0]))
    return scipy.stats.poisson(rate).logpmf(np.asarray(x[1], float)[:, None])


def bernoulli_regression(described, x):
    probability = scipy.special.expit(predictors(described, x[0]))
    return scipy.stats.bernoulli(probability).logpmf(np.asarray(x[1], float)[:, None])
