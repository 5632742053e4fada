# The log-likelihoods that mclust reaches, for optimum.py:
#   python benchmarks/optimum.py DATA TABLES --tables    writes the data as tables
#   Rscript benchmarks/optimum_mclust.R TABLES > benchmarks/optimum_mclust.csv
suppressMessages(library(mclust))
tables <- commandArgs(trailingOnly = TRUE)[1]
cat("data,structure,components,log_likelihood,narrowest\n")

# The smallest variance of a component, in any direction, in units of the components' average covariance.
narrowest <- function(sigma) {
  average <- apply(sigma, 1:2, mean)
  smallest <- apply(sigma, 3, function(one) min(Re(eigen(solve(average, one), only.values = TRUE)$values)))
  min(smallest)
}

control <- emControl(tol = c(1e-10, 1e-10), itmax = c(20000, 20000))
for (file in sort(list.files(tables, pattern = "\\.csv$", full.names = TRUE))) {
  name <- sub("\\.csv$", "", basename(file))
  x <- as.matrix(read.csv(file, header = FALSE))
  for (structure in c("EEE", "VVV", "VVI", "VII")) for (components in 1:6) {
    fit <- suppressWarnings(Mclust(x, components, structure, control = control, verbose = FALSE))
    # NULL is mclust's answer to a singular covariance.
    found <- if (is.null(fit)) c(NA, NA) else {
      c(fit$loglik, tryCatch(narrowest(fit$parameters$variance$sigma), error = function(e) 0))
    }
    cat(name, structure, components, format(found[1], digits = 12), format(found[2], digits = 3), sep = ",")
    cat("\n")
  }
}
