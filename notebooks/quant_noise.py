# %% [markdown]
# # What low precision costs, derived
#
# Each step of this derivation is checked by an assertion: symbols by sympy, numbers by the library's own functions.
# Run the notebook to check all of them. Numbers in brackets are the equations of `lowbit.sensitivity.theory`; numbers
# with a D are the formulas of the original plan.
#
# `python experiments/pair_notebook.py` makes the notebook `quant_noise.ipynb` from the script `quant_noise.py`.
# `theory.pdf` has the same text with the equations.

# %%
import sys
from itertools import pairwise

import numpy as np
import sympy as sp

from lowbit.quant.formats import parse
from lowbit.sensitivity.theory import damage, distortion

# The formulas of the original plan and of rounding one weight lie with the experiments: from the project's folder, or from notebooks/.
sys.path += ["experiments", "../experiments"]
from original_plan import original_formulas, rounding
from original_plan.rounding import rounded

D, M, u, s, w, c, t = sp.symbols("D M u s w c t", positive=True)
k = sp.symbols("k", integer=True, positive=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1 · Noise
#
# A symmetric grid of $b$ bits that reaches a group's largest weight $M$ has levels a step $D$ apart (1). If the
# error of rounding to the nearest were uniform over one step, its variance would be $D^2/12$ (2). Stochastic rounding
# goes up or down at random without bias. At a distance $u$ above a level its variance is $u(D-u)$, on average
# $D^2/6$ (3): it is unbiased, and twice as noisy.

# %%
uniform = sp.integrate(u**2, (u, -D / 2, D / 2)) / D
stochastic = sp.integrate(u * (D - u), (u, 0, D)) / D
assert sp.simplify(uniform - D**2 / 12) == 0
assert sp.simplify(stochastic - D**2 / 6) == 0
assert float(uniform.subs(D, 0.3)) == rounding.uniform_variance(0.3)
assert np.isclose(float(stochastic.subs(D, 0.3)), rounding.stochastic_variance(0.3))
assert rounding.step(7.0, 4) == 1.0

# %% [markdown]
# But weights are not uniform. As a function of the weight, the error is a sawtooth and its square a row of
# parabolas, both periodic in $D$. We average their Fourier series over a Gaussian of deviation $s$, whose
# characteristic function is $e^{-s^2t^2/2}$. This gives the error's variance (4) and its covariance with the
# weight (5).

# %%
parabola = sp.integrate(w**2 * sp.cos(2 * sp.pi * k * w / D), (w, -D / 2, D / 2)) * 2 / D
assert sp.simplify(parabola - D**2 * (-1) ** k / (sp.pi * k) ** 2) == 0
sawtooth = sp.integrate(-w * sp.sin(2 * sp.pi * k * w / D), (w, -D / 2, D / 2)) * 2 / D
assert sp.simplify(sawtooth - D * (-1) ** k / (sp.pi * k)) == 0
gaussian = sp.exp(-(w**2) / 2 / s**2) / (s * sp.sqrt(2 * sp.pi))
waves = 2 * sp.integrate(sp.cos(t * w) * gaussian, (w, 0, sp.oo))
assert sp.simplify(waves - sp.exp(-(s**2) * t**2 / 2)) == 0
# E w sin(tw) is minus its derivative by t; at t = 2 pi k / D the covariance's k-th term is 2 s^2 (-1)^k e^...
leaning = (-sp.diff(waves, t) * sawtooth).subs(t, 2 * sp.pi * k / D)
assert sp.simplify(leaning / (-1) ** k / waves.subs(t, 2 * sp.pi * k / D) - 2 * s**2) == 0
assert np.isclose(rounding.midtread_variance(0.88, 1.0), rounding.uniform_variance(0.88), rtol=1e-4)
assert rounding.midtread_covariance(2.5, 1.0) < -0.05

# %% [markdown]
# A grid need not be even. For a Gaussian, one cell of any grid contributes (6), which the code compares with sympy's
# integral. The sum over cells is the error of a grid (7). The scale depends on the largest weight of a group; the
# average over that weight is the distortion of a format (8). It holds for nf4 and ternary too.

# %%
a, b = sp.Rational(-1, 2), sp.Rational(3, 4)
density = sp.exp(-(w**2) / 2) / sp.sqrt(2 * sp.pi)
exact = sp.integrate((w - sp.Rational(1, 5)) ** 2 * density, (w, a, b))
(error,) = distortion.cell_errors(np.array([float(a), float(b)]), np.array([0.2]))
assert np.isclose(float(exact), error)
weights = rng.standard_normal((20_000, 64))
for text in ("int3@64", "nf4@64", "ternary@64"):
    drawn = np.square(rounded(weights, text) - weights).mean()
    assert np.isclose(drawn, distortion.distortion(parse(text), 64), rtol=0.02)

# %% [markdown]
# At many bits, no scalar code is better than Panter and Dite's (9); the density of its levels is the cube root of the
# weights' density. A law in $4^{-b}$ would make $4^b$ times the distortion (10) a constant. It is none: it falls from
# 4.0 at three bits to 2.3 at eight. That is below Panter and Dite's 2.7, because the bits do not count the scale of
# each group. If the scale is free, the best one is (11): 1.22 deviations for a ternary code, with an error of 0.190.

# %%
rooted = 2 * sp.integrate(density ** sp.Rational(1, 3), (w, 0, sp.oo))
assert sp.simplify(rooted**3 / 12 - sp.sqrt(3) * sp.pi / 2) == 0
assert np.isclose(float(rooted**3 / 12), distortion.PANTER_DITE)
table = {bits: distortion.kappa(parse(f"int{bits}@64"), 64, bits) for bits in (3, 4, 5, 6, 8)}
assert all(fewer > more for fewer, more in pairwise(table.values()))
assert table[3] / table[8] > 1.5
assert np.allclose(distortion.best_scale((-1.0, 0.0, 1.0)), (1.224, 0.190), atol=1e-3)
for bits, kappa in table.items():
    print(f"{bits} bits: 4^b x distortion = {kappa:.2f}")

# %% [markdown]
# ## 2 · From noise to loss, without training
#
# To second order the loss at the stored weights $w + \varepsilon$ exceeds that at $w$ by $\Delta L =
# g^\top\varepsilon + \tfrac12\varepsilon^\top H\varepsilon$, with its gradient $g$ and Hessian $H$. For independent
# errors of mean zero and covariance $S$, the first term has mean zero and the second $\tfrac12\operatorname{tr}(HS)$
# (12): the off-diagonal entries of $H$, also those between layers, drop out of the mean. Gaussian errors have the
# variance (13); its first term comes from the first order.

# %%
h11, h12, h22, g1, g2, v1, v2 = sp.symbols("h11 h12 h22 g1 g2 v1 v2", positive=True)
e1, e2 = sp.symbols("e1 e2", real=True)
H, g, e = sp.Matrix([[h11, h12], [h12, h22]]), sp.Matrix([g1, g2]), sp.Matrix([e1, e2])
S = sp.diag(v1, v2)
rise = sp.expand((g.T * e + e.T * H * e / 2)[0])


def mean(expression: sp.Expr, fourth: sp.Expr = 3) -> sp.Expr:
    """Over independent symmetric errors of variances v1, v2 and fourth moments `fourth` v^2."""
    moments = {(0, 0): 1, (2, 0): v1, (0, 2): v2, (2, 2): v1 * v2}
    moments |= {(4, 0): fourth * v1**2, (0, 4): fourth * v2**2}
    terms = sp.Poly(expression, e1, e2).terms()
    return sp.simplify(sum(factor * moments.get(powers, 0) for powers, factor in terms))


assert sp.simplify(mean(rise) - (H * S).trace() / 2) == 0
spread = mean(sp.expand(rise**2)) - mean(rise) ** 2
assert sp.simplify(spread - (g.T * S * g)[0] - ((H * S) ** 2).trace() / 2) == 0
values = {h11: 2.0, h22: 0.5, v1: 0.1, v2: 0.3, h12: 0.0, g1: 0.2, g2: 0.7}
assert np.isclose(float(mean(rise).subs(values)), damage.expected_damage([2.0, 0.5], [0.1, 0.3]))
variance = damage.damage_variance([0.2, 0.7], [0.1, 0.3], [2.0, 0.5])
assert np.isclose(float(spread.subs(values)), variance)

# %% [markdown]
# **The main bound** uses a format's distortion for $S$. Weights of variance $S_w$ by group or by matrix have errors of
# variance $\kappa_b 4^{-b} S_w$, so the mean damage is $C_b 4^{-b}$ up to a remainder (26). From three bits on, errors
# are nearly independent and symmetric. Then third orders have mean zero, and the remainder begins with $16^{-b}$.
# $C_b$ falls with $b$, so $C_3$ is a bound for all larger $b$. Over layers the mean is a sum, and each term depends
# only on the bits of its own layer (27). The planner relies on that.
#
# **It is a bound of the mean and no bound on one realisation.** The stored model is one draw. In the problem drawn
# here, at eight bits, nearly half of the draws lose more than twice the bound and about as many gain, because their
# first order is larger than the bound. Below three bits errors correlate with the weights (5), and the mean differs
# too.

# %%
kappa_b, x, s1, s2, c1, c2, q1, q2, m4 = sp.symbols("kappa x s1 s2 c1 c2 q1 q2 m4", positive=True)
stored = {v1: kappa_b * x * s1**2, v2: kappa_b * x * s2**2}  # x stands for 4^-b
higher = c1 * e1**3 + c2 * e1 * e2**2 + q1 * e1**4 + q2 * e1**2 * e2**2
C = kappa_b * (H * sp.diag(s1**2, s2**2)).trace() / 2
left_out = sp.expand(mean(rise + higher, m4).subs(stored) - C * x)
assert sp.degree(left_out, x) == 2  # 16^-b
assert sp.simplify(left_out.coeff(x, 0)) == sp.simplify(left_out.coeff(x, 1)) == 0

root = rng.standard_normal((64, 64))
hessian, gradient = root @ root.T / 64, rng.standard_normal(64)
diagonal, lost = np.diag(hessian), {}
for bits in (3, 4, 8):
    errors = rounded(weights, f"int{bits}@64") - weights
    lost[bits] = errors @ gradient + ((errors @ hessian) * errors).sum(1) / 2
    bound = damage.damage_bound(bits, table[bits], diagonal, np.ones(64))
    assert abs(lost[bits].mean() - bound) < 4 * lost[bits].std() / np.sqrt(len(weights))
    assert bound <= damage.damage_bound(bits, table[3], diagonal, np.ones(64))
assert (lost[8] > 2 * bound).mean() > 0.4
assert (lost[8] < 0).mean() > 0.4
halves = [diagonal[:32], diagonal[32:]]
layers = damage.layer_damages(halves, [np.full(32, table[bits] / 4**bits) for bits in (3, 4)])
mixed = np.hstack([rounded(weights, f"int{bits}@64") - weights for bits in (3, 4)])[:, 32:96]
joint = ((mixed @ hessian) * mixed).sum(1) / 2
assert abs(joint.mean() - sum(layers)) < 4 * joint.std() / np.sqrt(len(weights))

# %% [markdown]
# At many bits, one more bit divides the mean by four (14). The spread of the first-order term, $\sqrt{g^\top S g}$,
# falls only as $2^{-b}$. The two are equal at (15), usually near seven bits. With more bits than that, a gap is mostly
# random and may have either sign.

# %%
bits = sp.symbols("b", positive=True)
A, B = sp.symbols("A B", positive=True)
crossing = sp.solve(sp.Eq(A * 4**-bits, B * 2**-bits), bits)[0]
assert sp.simplify(crossing - sp.log(A / B, 2)) == 0
equal = damage.crossover([0.01], [1.0], [1e-3], bits=4)
assert np.isclose(damage.damage_at(equal, 4, 0.5e-3), 0.01 * np.sqrt(1e-3) * 2.0 ** (4 - equal))

# %% [markdown]
# ## 3 · After training an adapter on the stored base
#
# The adapter moves the weights by $Ta$ within its tangent space. The best $a$ corrects the part of the error inside that
# space, and (18) is the remaining damage. Another direction in $T$ can only lower it, so **there is no term
# $+\,r\,2^{-2b}$ for a frozen base**. That term needs an adapter that is quantised itself.

# %%
root = rng.standard_normal((6, 6))
hessian, error = root @ root.T, rng.standard_normal(6)
tangent = rng.standard_normal((6, 3))
step = -np.linalg.solve(tangent.T @ hessian @ tangent, tangent.T @ hessian @ error)
best = error + tangent @ step
left = damage.unreachable(np.zeros(6), hessian, tangent, error)
assert np.isclose(left, 0.5 * best @ hessian @ best)
ladder = [damage.unreachable(np.zeros(6), hessian, tangent[:, :n], error) for n in (1, 2, 3)]
assert ladder == sorted(ladder, reverse=True)

# %% [markdown]
# For one matrix with K-FAC's curvature $A \otimes G$, the best correction of rank $k$ is a truncated singular value
# decomposition in that metric. It leaves the share (19) of the damage.

# %%
G, A = (np.diag(rng.uniform(0.1, 2.0, size)) for size in (5, 4))
E = rng.standard_normal((5, 4))
left_of, sizes, right = np.linalg.svd(np.sqrt(G) @ E @ np.sqrt(A), full_matrices=False)
correction = np.sqrt(1 / np.diag(G))[:, None] * (left_of[:, :2] * sizes[:2] @ right[:2])
rest = E - correction / np.sqrt(np.diag(A))
shares = [np.trace(each.T @ G @ each @ A) for each in (rest, E)]
assert np.isclose(shares[0] / shares[1], damage.residual_share(sizes, 2))

# %% [markdown]
# ## 4 · How many bits
#
# The original plan bounds the loss by two terms (D1), sets $\sqrt{r}/\sqrt{N}$ equal to $r\,4^{-b}\sigma^2$, and
# reports logarithms with the factor one half (D2). The solution of its own equation has one quarter (D2'):

# %%
r, N, sigma = sp.symbols("r N sigma", positive=True)
balanced = sp.solve(sp.Eq(sp.sqrt(r) / sp.sqrt(N), r * 4**-bits * sigma**2), bits)[0]
quarters = sp.log(r, 2) / 4 + sp.log(N, 2) / 4 + sp.log(sigma**2, 2) / 2
assert sp.simplify(sp.expand_log(balanced - quarters, force=True)) == 0
solution = float(balanced.subs({r: 8, N: 1000, sigma: 2}))
assert np.isclose(solution, original_formulas.balanced_bits(8, 1000, 2))

# %% [markdown]
# The right balance compares the damage with the cost of estimating the adapter, $p_{\mathrm{eff}} / 2N$ with
# $p_{\mathrm{eff}} \approx r(m+n)$ (16, 17). Rank enters with a *minus*: a higher rank costs more to estimate, so more
# damage is below the noise. This does not support a table of bits by rank (D5). By (10), one constant for all bits
# (D4) is wrong by more than 10 % below six bits.

# %%
shapes = [(256, 256)] * 4
parameters = [damage.adapter_parameters(shapes, rank) for rank in (4, 32)]
at_rank_4, at_rank_32 = (damage.bits_needed(0.01, 3.0, 100_000, count) for count in parameters)
assert at_rank_32 < at_rank_4
assert original_formulas.gap_law(3, 2.0) == 4 * original_formulas.gap_law(4, 2.0)
assert table[6] / table[8] < 1.1 < table[5] / table[8]

# %% [markdown]
# ## 5 · Gradients
#
# A base that is stored once shifts the gradient by $H\varepsilon$ (20), the same at every step. If $H$ were the same
# for every batch, that would add no variance. New noise at every step adds $HSH$ (21) even then. It falls as
# $(2^{b-1}-1)^{-2}$ (22) and is 5.44 times larger at three bits than at four.

# %%
covariance = (H * e * e.T * H).applyfunc(lambda entry: mean(sp.expand(entry)))
assert sp.simplify(covariance - H * S * H) == sp.zeros(2)
assert (H * e).applyfunc(lambda entry: mean(sp.expand(entry))) == sp.zeros(2, 1)
fresh = np.array((H * S * H).subs(values), float)
assert np.allclose(fresh, damage.fresh_noise_variance(np.diag([2.0, 0.5]), [0.1, 0.3]))
shift = damage.gradient_bias(hessian, error)
assert np.allclose(shift, hessian @ (error + 1) - hessian @ np.ones(6))
assert np.isclose(damage.noise_ratio(3, 4), (7 / 3) ** 2)
print(f"from 4 bits to 3: x {damage.noise_ratio(3, 4):.2f}")

# %% [markdown]
# But batches differ: each has its own Hessian $H_t$, and the same $\varepsilon$ shifts each gradient by a different
# $H_t\varepsilon$. On average over errors that adds the trace of (28), a second order, which also falls as $4^{-b}$.
# For one base there is a first order too, $2\operatorname{tr}\operatorname{Cov}(g_t, H_t\varepsilon)$, of either sign.
#
# Runs measure how much. In the study `bounds`, at rank 8, we divide the logged variance by that of the same seed's
# 16-bit run. It is ×1.01 with four bits, ×1.04 with three, ×1.07 with two (four levels) and ×1.92 with ternary. These
# are means over six seeds, and for each seed a mean over the steps after the warm-up. A part of the difference comes
# from the two runs' different adapters. So in that study a frozen base added little variance down to two bits, but
# about doubled it with three levels. The original plan's bound (D3) also falls as $4^{-b}$, but it contains the rank,
# with which both the noise and the gradient grow.

# %%
d11, d12, d22 = sp.symbols("d11 d12 d22", real=True)
difference = sp.Matrix([[d11, d12], [d12, d22]])  # two batches, with H + d and H - d
shifts = [(H + difference) * e, (H - difference) * e]
middle = (shifts[0] + shifts[1]) / 2
added = sum((((each - middle).T * (each - middle))[0] for each in shifts), sp.Integer(0)) / 2
assert sp.simplify(mean(sp.expand(added)) - (difference**2 * S).trace()) == 0
both = np.array([[[2.0, 0.3], [0.3, 0.5]], [[1.0, -0.1], [-0.1, 0.9]]])
half = (both[0] - both[1]) / 2
frozen = damage.frozen_noise_variance(both, [0.1, 0.3])
assert np.isclose(frozen, np.trace(half @ half @ np.diag([0.1, 0.3])))
assert np.isclose(damage.frozen_noise_variance(np.stack([hessian] * 3), np.ones(6)), 0)

# %% [markdown]
# ## 6 · What no code can do
#
# For Gaussian weights and a curvature with eigenvalues $\lambda$, no code of $b$ bits per weight has less damage than
# reverse water-filling (23). If all $\lambda$ are equal, this is $\tfrac12 n\lambda\,4^{-b}$. If they differ, a code that
# treats all directions equally loses the ratio of their means (24), as long as every direction gets bits.

# %%
assert np.isclose(damage.converse(np.full(10, 2.0), 3), 0.5 * 10 * 2.0 / 4**3)
uneven = np.array([1.0, 0.1, 0.01])
even = 0.5 * uneven.sum() / 4**4
assert np.isclose(even / damage.converse(uneven, 4), damage.means_ratio(uneven))

# %% [markdown]
# ## 7 · Which gaps a test set can resolve
#
# A small gap is about half the second moment of the tokens' log-ratios. So the squared error of a gap is about twice
# the gap, divided by the number of tokens. For a standard error of a share $\eta$ of the gap, (25) gives the tokens:
# 800 divided by the gap for a twentieth.

# %%
gap, eta, n = sp.symbols("gap eta n", positive=True)
tokens = sp.solve(sp.Eq(sp.sqrt(2 * gap / n), eta * gap), n)[0]
assert np.isclose(float(tokens.subs({gap: 0.01, eta: 0.05})), damage.tokens_to_resolve(0.01, 0.05))
assert np.isclose(damage.tokens_to_resolve(0.01), 800 / 0.01)
