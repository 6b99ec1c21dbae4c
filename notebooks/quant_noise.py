# %% [markdown]
# # What low precision costs, derived
#
# The script `quant_noise.py` and the notebook `quant_noise.ipynb` are one text
# (`python experiments/pair_notebook.py` makes the second from the first). Symbols are sympy's, numbers
# are the library's own functions, and every step ends in an assertion, so running it is proving it as
# far as a machine can. Numbers in brackets are those of `lowbit.theory`.

# %%
from itertools import pairwise

import numpy as np
import sympy as sp

from lowbit.quant.formats import parse
from lowbit.theory import damage, distortion, documents, noise

D, M, u, s, w, c = sp.symbols("D M u s w c", positive=True)

# %% [markdown]
# ## 1 · Noise
#
# Levels a step $D$ apart, rounding to the nearest. If the error were uniform over one step, its variance
# would be $D^2/12$ (2). Rounding up or down at random without bias, from a place $u$ between two levels,
# has variance $u(D-u)$, on average $D^2/6$ (3): unbiased, and twice as noisy.

# %%
uniform = sp.integrate(u**2, (u, -D / 2, D / 2)) / D
stochastic = sp.integrate(u * (D - u), (u, 0, D)) / D
assert sp.simplify(uniform - D**2 / 12) == 0
assert sp.simplify(stochastic - D**2 / 6) == 0
assert float(uniform.subs(D, 0.3)) == noise.uniform_variance(0.3)
assert np.isclose(float(stochastic.subs(D, 0.3)), noise.stochastic_variance(0.3))
uniform, stochastic

# %% [markdown]
# But weights are not uniform. For a Gaussian, one cell of a grid contributes (6), here against sympy's own
# integral; summed over cells it is exact for any levels, nf4's and ternary's too.

# %%
a, b = sp.Rational(-1, 2), sp.Rational(3, 4)
density = sp.exp(-(w**2) / 2) / sp.sqrt(2 * sp.pi)
exact = sp.integrate((w - sp.Rational(1, 5)) ** 2 * density, (w, a, b))
(found,) = distortion.cell_errors(np.array([float(a), float(b)]), np.array([0.2]))
assert np.isclose(float(exact), found)

# %% [markdown]
# So is $D^2/12$ right? At three bits in groups of 64 the step is 0.88 deviations, and it is within two
# percent; with wider steps it is not. And $4^b$ times the distortion, which a law in $4^{-b}$ would have
# constant, falls from 4.0 at three bits to 2.3 at eight.

# %%
table = {bits: distortion.kappa(parse(f"int{bits}@64"), 64, bits) for bits in (3, 4, 5, 6, 8)}
assert all(one > other for one, other in pairwise(table.values()))
assert table[3] / table[8] > 1.5
for bits, kappa in table.items():
    print(f"{bits} bits: 4^b x distortion = {kappa:.2f}")

# %% [markdown]
# ## 2 · From noise to loss, without training
#
# $L(w+\varepsilon) = L + g^\top\varepsilon + \tfrac12\varepsilon^\top H\varepsilon$. For independent
# errors of mean zero, the first term has mean zero and the second $\tfrac12\operatorname{tr}(HS)$ (12):
# off-diagonal entries of $H$, those between layers among them, drop out of the mean.

# %%
h11, h12, h22, g1, g2, v1, v2 = sp.symbols("h11 h12 h22 g1 g2 v1 v2", positive=True)
e1, e2 = sp.symbols("e1 e2", real=True)
H, g, e = sp.Matrix([[h11, h12], [h12, h22]]), sp.Matrix([g1, g2]), sp.Matrix([e1, e2])
rise = sp.expand((g.T * e + e.T * H * e / 2)[0])


def mean(expression: sp.Expr) -> sp.Expr:
    """Over independent errors of mean 0 and variances v1, v2."""
    found = sp.Poly(expression, e1, e2)
    moments = {(0, 0): 1, (2, 0): v1, (0, 2): v2}
    return sp.simplify(sum(k * moments.get(p, 0) for p, k in found.terms()))


assert sp.simplify(mean(rise) - (h11 * v1 + h22 * v2) / 2) == 0
values = {h11: 2.0, h22: 0.5, v1: 0.1, v2: 0.3}
assert np.isclose(float(mean(rise).subs(values)), damage.expected_damage([2.0, 0.5], [0.1, 0.3]))

# %% [markdown]
# The mean falls as $4^{-b}$; the spread of the first-order term, $\sqrt{g^\top S g}$, only as $2^{-b}$.
# They cross (15), usually near seven bits, and beyond that a gap is a matter of luck, of either sign.

# %%
bits = sp.symbols("b", positive=True)
A, B = sp.symbols("A B", positive=True)
crossing = sp.solve(sp.Eq(A * 4**-bits, B * 2**-bits), bits)[0]
assert sp.simplify(crossing - sp.log(A / B, 2)) == 0
found = damage.crossover([0.01], [1.0], [1e-3], bits=4)
assert np.isclose(damage.damage_at(found, 4, 0.5e-3), 0.01 * np.sqrt(1e-3) * 2.0 ** (4 - found))

# %% [markdown]
# ## 3 · After training an adapter on the stored base
#
# The adapter moves the weights by $Ta$ within its tangent space. The best $a$ takes back what it can
# reach, and what is left is (18). Adding a direction to $T$ can only lower it: **there is no
# $+\,r\,2^{-2b}$ for a frozen base**. That term needs an adapter that is quantised itself.

# %%
rng = np.random.default_rng(0)
root = rng.standard_normal((6, 6))
hessian, error = root @ root.T, rng.standard_normal(6)
tangent = rng.standard_normal((6, 3))
step = -np.linalg.solve(tangent.T @ hessian @ tangent, tangent.T @ hessian @ error)
best = error + tangent @ step
left = damage.unreachable(np.zeros(6), hessian, tangent, error)
assert np.isclose(left, 0.5 * best @ hessian @ best)
ladder = [damage.unreachable(np.zeros(6), hessian, tangent[:, :k], error) for k in (1, 2, 3)]
assert ladder == sorted(ladder, reverse=True)

# %% [markdown]
# ## 4 · How many bits
#
# The documents balance $\sqrt{r}/\sqrt{N}$ against $r\,4^{-b}\sigma^2$ and report halves of logarithms
# (D2). Solving their own equation gives quarters (D2'):

# %%
r, N, sigma = sp.symbols("r N sigma", positive=True)
balanced = sp.solve(sp.Eq(sp.sqrt(r) / sp.sqrt(N), r * 4**-bits * sigma**2), bits)[0]
quarters = sp.log(r, 2) / 4 + sp.log(N, 2) / 4 + sp.log(sigma**2, 2) / 2
assert sp.simplify(sp.expand_log(balanced - quarters, force=True)) == 0
assert np.isclose(
    float(balanced.subs({r: 8, N: 1000, sigma: 2})), documents.balanced_bits(8, 1000, 2)
)

# %% [markdown]
# The right balance is damage against what estimating the adapter costs, $p_{\mathrm{eff}} / 2N$ with
# $p_{\mathrm{eff}} \approx r(m+n)$ (16, 17). Rank enters with a *minus*: more rank costs more to
# estimate, so more damage goes unseen.

# %%
shapes = [(256, 256)] * 4
few, many = (
    damage.bits_needed(0.01, 3.0, 100_000, damage.adapter_parameters(shapes, rank))
    for rank in (4, 32)
)
assert many < few

# %% [markdown]
# ## 5 · Gradients
#
# A base stored once shifts the gradient by $H\varepsilon$ (20), the same at every step: no variance at all.
# Noise drawn anew at every step adds $HSH$ (21), which falls as $(2^{b-1}-1)^{-2}$ (22): 5.44 times more at
# three bits than at four.

# %%
shift = damage.gradient_bias(hessian, error)
assert np.allclose(shift, hessian @ (error + 1) - hessian @ np.ones(6))
assert np.isclose(damage.noise_ratio(3, 4), (7 / 3) ** 2)
print(f"from 4 bits to 3: x {damage.noise_ratio(3, 4):.2f}")

# %% [markdown]
# ## 6 · What no code can do
#
# For Gaussian weights and a curvature with eigenvalues $\lambda$, no code of $b$ bits a weight has less
# damage than reverse water-filling (23). With all $\lambda$ alike this is $\tfrac12 n\lambda\,4^{-b}$.

# %%
assert np.isclose(damage.converse(np.full(10, 2.0), 3), 0.5 * 10 * 2.0 / 4**3)
uneven = np.array([1.0, 0.1, 0.01])
assert damage.converse(uneven, 2) < 0.5 * uneven.sum() / 4**2
