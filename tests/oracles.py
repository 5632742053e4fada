"""What the library's numbers must be, found by other means: SciPy, enumeration, quadrature."""

import numpy as np
import scipy.special
import scipy.stats


def gaussian_mixture_log_joint(described, x):
    """log p(x, z = k), shape (num_data, K), by SciPy."""
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
    """log p(x) of each datum."""
    return scipy.special.logsumexp(log_joint, axis=-1)


def linear_gaussian_evidence(loadings, noise, x):
    """log N(x; 0, W Wᵀ + noise² I) of each datum."""
    loadings = np.asarray(loadings, float)
    covariance = loadings @ loadings.T + float(noise) ** 2 * np.eye(len(loadings))
    return scipy.stats.multivariate_normal(np.zeros(len(loadings)), covariance).logpdf(
        np.asarray(x)
    )


def quadrature_evidence(log_joint, params, x, num_points=60):
    """log ∫ p(x, z) dz for a scalar z by the trapezoid rule on a fine grid, one datum."""
    grid = np.linspace(-12, 12, 20 * num_points + 1)
    values = np.array([float(log_joint(params, x, np.array([z]))) for z in grid])
    return scipy.special.logsumexp(values) + np.log(grid[1] - grid[0])


def ppca_optimum(x, dim):
    """The highest mean log-likelihood of probabilistic PCA (Tipping and Bishop 1999), in nats per datum."""
    x = np.asarray(x, float)
    x = x - x.mean(0)
    values = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    noise = values[dim:].mean()
    width = x.shape[1]
    log_determinant = np.sum(np.log(values[:dim])) + (width - dim) * np.log(noise)
    return -0.5 * (width * np.log(2 * np.pi) + log_determinant + width)
