"""Two independent batched triangular solves in one program wait for each other for ever on a CPU of two cores.

    python batched_triangular_solve_hangs.py

Seen with jax and jaxlib 0.10.2 on Linux (x86-64, two cores): the program prints its first line and never returns,
in most runs. What is needed:

- two calls that do not depend on each other, each on a batch (16 matrices of 32 rows are enough);
- a pool of two threads, as two cores or NPROC=2 make it.

It returns with XLA_FLAGS=--xla_cpu_enable_concurrency_optimized_scheduler=false and on one core. It
may hang with --xla_cpu_multi_thread_eigen=false too.

What we believe happens: the call for a batch splits the batch into tasks on the intra-op thread pool and blocks
until they are done. The scheduler runs both calls on that same pool, so both of its threads block, and none is
left for the tasks.
"""

import jax
import jax.numpy as jnp


count, dim = 16, 32
noise = jax.random.normal(jax.random.key(0), (2, count, dim, 2 * dim))
first, second = jnp.linalg.cholesky(noise @ noise.mT / dim)
right = jnp.broadcast_to(jnp.eye(dim), (count, dim, dim))


def solve(factor):
    return jax.lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)


@jax.jit
def run(first, second):
    def step(carry, _):
        first, second = carry
        return (first + 1e-9 * solve(first), second + 1e-9 * solve(second)), None

    return jax.lax.scan(step, (first, second), length=1000)[0]


print(f"jax {jax.__version__} on {jax.devices()}: 1000 steps of two batched solves ...", flush=True)
total = run(first, second)[0].sum().block_until_ready()
print("returned:", total)
