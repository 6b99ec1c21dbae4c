# %% [markdown]
# # What low precision costs, derived
#
# The script `quant_noise.py` and the notebook `quant_noise.ipynb` are one text
# (`python experiments/pair_notebook.py` makes the second from the first), and `theory.pdf` is its prose with
# the equations set. Symbols are sympy's, numbers are the library's own functions, and every step ends in an
# assertion, so running it is proving it as far as a machine can. Numbers in brackets are those of
# `lowbit.sensitivity.theory`; those with a D are the formulas of the documents that this project started from.

# %%
from itertools import pairwise

import numpy as np
import sympy as sp

from lowbit.sensitivity.theory.rounding import rounded
from lowbit.quant.formats import parse
from lowbit.sensitivity.theory import damage, distortion, rounding
from lowbit.theory import documents

D, M, u, s, w, c, t = sp.symbols("D M u s w c t", positive=True)
k = sp.symbols("k", integer=True, positive=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1 · Noise
#
# A symmetric grid of $b$ bits that reaches a group's largest weight $M$ has levels a step $D$ apart (1). If the
# error of rounding to the nearest were uniform over one step, its variance would be $D^2/12$ (2). Rounding up or
# down at random without bias, from a place $u$ between two levels, has variance $u(D-u)$, on average $D^2/6$ (3):
# unbiased, and twice as noisy.

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
# parabolas, both periodic in $D$. Their Fourier series, averaged over a Gaussian of deviation $s$ whose
# characteristic function is $e^{-s^2t^2/2}$, give the error's variance (4) and its covariance with the weight (5).

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
# A grid need not be even. For a Gaussian, one cell of any grid contributes (6), here against sympy's own integral.
# Summed over its cells a grid has the error (7), and averaged over the largest weight of a group, which sets the
# scale, a format has the distortion (8): for nf4 and ternary as for the rest.

# %%
a, b = sp.Rational(-1, 2), sp.Rational(3, 4)
density = sp.exp(-(w**2) / 2) / sp.sqrt(2 * sp.pi)
exact = sp.integrate((w - sp.Rational(1, 5)) ** 2 * density, (w, a, b))
(found,) = distortion.cell_errors(np.array([float(a), float(b)]), np.array([0.2]))
assert np.isclose(float(exact), found)
weights = rng.standard_normal((20_000, 64))
for text in ("int3@64", "nf4@64", "ternary@64"):
    drawn = np.square(rounded(weights, text) - weights).mean()
    assert np.isclose(drawn, distortion.distortion(parse(text), 64), rtol=0.02)

# %% [markdown]
# No scalar code of many bits does better than Panter and Dite's (9), whose levels lie as dense as the cube root of
# the density. And $4^b$ times the distortion (10), which a law in $4^{-b}$ would have constant, is not: it falls from
# 4.0 at three bits to 2.3 at eight, below Panter and Dite's 2.7 because a group's own scale is not counted among its
# bits. Where a scale may be chosen, the best is (11): 1.22 deviations for a ternary code, with an error of 0.190.

# %%
rooted = 2 * sp.integrate(density ** sp.Rational(1, 3), (w, 0, sp.oo))
assert sp.simplify(rooted**3 / 12 - sp.sqrt(3) * sp.pi / 2) == 0
assert np.isclose(float(rooted**3 / 12), distortion.PANTER_DITE)
table = {bits: distortion.kappa(parse(f"int{bits}@64"), 64, bits) for bits in (3, 4, 5, 6, 8)}
assert all(one > other for one, other in pairwise(table.values()))
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
# (12): off-diagonal entries of $H$, those between layers among them, drop out of the mean. Gaussian errors have the
# variance (13), whose first term is the first order's.

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
found = damage.damage_variance([0.2, 0.7], [0.1, 0.3], [2.0, 0.5])
assert np.isclose(float(spread.subs(values)), found)

# %% [markdown]
# **The main bound** puts a format's distortion in the place of $S$: weights of variance $S_w$ by group or by matrix
# have errors of variance $\kappa_b 4^{-b} S_w$, so the mean damage is $C_b 4^{-b}$ up to a remainder (26). From three
# bits on errors are nearly independent and symmetric; then third orders have no mean, and the remainder begins with
# $16^{-b}$. $C_b$ falls with $b$, so $C_3$ serves for all of them. Over layers the mean is a sum, each term of
# which knows its own layer's bits alone (27): planning bits rests on that.
#
# **It is a bound of the mean and no bound on one realisation.** The model that is stored is one draw: with eight bits,
# in the problem drawn here, nearly half of the draws lose more than twice the bound and about as many gain, since
# their first order is larger than that. Below three bits errors lean on the weights (5), and even the mean is another.

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
# Between many bits one bit is worth a factor of four in the mean (14). The spread of the first-order term,
# $\sqrt{g^\top S g}$, falls as $2^{-b}$ only. They cross (15), usually near seven bits, and beyond that a gap is a
# matter of luck, of either sign.

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
# decomposition in that metric, and leaves the share (19) of the damage.

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
# The documents bound a loss by two terms (D1), balance $\sqrt{r}/\sqrt{N}$ against $r\,4^{-b}\sigma^2$, and report
# halves of logarithms (D2). Solving their own equation gives quarters (D2'):

# %%
r, N, sigma = sp.symbols("r N sigma", positive=True)
balanced = sp.solve(sp.Eq(sp.sqrt(r) / sp.sqrt(N), r * 4**-bits * sigma**2), bits)[0]
quarters = sp.log(r, 2) / 4 + sp.log(N, 2) / 4 + sp.log(sigma**2, 2) / 2
assert sp.simplify(sp.expand_log(balanced - quarters, force=True)) == 0
found = float(balanced.subs({r: 8, N: 1000, sigma: 2}))
assert np.isclose(found, documents.balanced_bits(8, 1000, 2))

# %% [markdown]
# The right balance is damage against what estimating the adapter costs, $p_{\mathrm{eff}} / 2N$ with
# $p_{\mathrm{eff}} \approx r(m+n)$ (16, 17). Rank enters with a *minus*: more rank costs more to
# estimate, so more damage goes unseen. That leaves no ground for a table of bits by rank (D5), nor is one
# constant for all bits (D4) right to 10 % below six bits, by (10).

# %%
shapes = [(256, 256)] * 4
parameters = [damage.adapter_parameters(shapes, rank) for rank in (4, 32)]
few, many = (damage.bits_needed(0.01, 3.0, 100_000, each) for each in parameters)
assert many < few
assert documents.gap_law(3, 2.0) == 4 * documents.gap_law(4, 2.0)
assert table[6] / table[8] < 1.1 < table[5] / table[8]

# %% [markdown]
# ## 5 · Gradients
#
# A base stored once shifts the gradient by $H\varepsilon$ (20), the same at every step. Were $H$ the same for every
# batch, that would be no variance at all. Noise drawn anew at every step adds $HSH$ (21) even then, which falls as
# $(2^{b-1}-1)^{-2}$ (22): 5.44 times more at three bits than at four.

# %%
covariance = (H * e * e.T * H).applyfunc(lambda entry: mean(sp.expand(entry)))
assert sp.simplify(covariance - H * S * H) == sp.zeros(2)
assert (H * e).applyfunc(lambda entry: mean(sp.expand(entry))) == sp.zeros(2, 1)
known = np.array((H * S * H).subs(values), float)
assert np.allclose(known, damage.fresh_noise_variance(np.diag([2.0, 0.5]), [0.1, 0.3]))
shift = damage.gradient_bias(hessian, error)
assert np.allclose(shift, hessian @ (error + 1) - hessian @ np.ones(6))
assert np.isclose(damage.noise_ratio(3, 4), (7 / 3) ** 2)
print(f"from 4 bits to 3: x {damage.noise_ratio(3, 4):.2f}")

# %% [markdown]
# But batches differ: each has a Hessian $H_t$ of its own, and the same $\varepsilon$ shifts each gradient by another
# $H_t\varepsilon$. On average over errors that adds the trace of (28), a second order which falls as $4^{-b}$ too; for
# one base there is a first order besides, $2\operatorname{tr}\operatorname{Cov}(g_t, H_t\varepsilon)$, of either sign.
# Runs show how much. In the study of bounds, at rank 8, the logged variance is that of the same seed's 16-bit run
# ×1.01 with four bits, ×1.04 with three, ×1.07 with two (four levels) and ×1.92 with ternary: means of six seeds, and
# for each a mean over the steps after the warm-up. The two runs' adapters go different ways, which is part of it. So
# there an offset was nearly free of variance down to two bits, and was not with three levels. The documents' bound
# (D3) falls as $4^{-b}$ too, but has rank in it, with which both the noise and the gradient grow.

# %%
d11, d12, d22 = sp.symbols("d11 d12 d22", real=True)
apart = sp.Matrix([[d11, d12], [d12, d22]])  # two batches, with H + d and H - d
shifts = [(H + apart) * e, (H - apart) * e]
middle = (shifts[0] + shifts[1]) / 2
added = sum((((one - middle).T * (one - middle))[0] for one in shifts), sp.Integer(0)) / 2
assert sp.simplify(mean(sp.expand(added)) - (apart**2 * S).trace()) == 0
both = np.array([[[2.0, 0.3], [0.3, 0.5]], [[1.0, -0.1], [-0.1, 0.9]]])
half = (both[0] - both[1]) / 2
found = damage.frozen_noise_variance(both, [0.1, 0.3])
assert np.isclose(found, np.trace(half @ half @ np.diag([0.1, 0.3])))
assert np.isclose(damage.frozen_noise_variance(np.stack([hessian] * 3), np.ones(6)), 0)

# %% [markdown]
# ## 6 · What no code can do
#
# For Gaussian weights and a curvature with eigenvalues $\lambda$, no code of $b$ bits a weight has less
# damage than reverse water-filling (23). With all $\lambda$ alike this is $\tfrac12 n\lambda\,4^{-b}$. Where they
# differ, treating all directions alike loses the ratio of their means (24), as long as no direction is under water.

# %%
assert np.isclose(damage.converse(np.full(10, 2.0), 3), 0.5 * 10 * 2.0 / 4**3)
uneven = np.array([1.0, 0.1, 0.01])
even = 0.5 * uneven.sum() / 4**4
assert np.isclose(even / damage.converse(uneven, 4), damage.means_ratio(uneven))

# %% [markdown]
# ## 7 · What a test set can tell
#
# Small gaps are about half the second moment of the tokens' log-ratios, so the squared error of a gap over so many
# tokens is about twice the gap over their number. A standard error of a share $\eta$ takes the tokens of (25): 800
# over the gap for a twentieth.

# %%
gap, eta, n = sp.symbols("gap eta n", positive=True)
tokens = sp.solve(sp.Eq(sp.sqrt(2 * gap / n), eta * gap), n)[0]
assert np.isclose(float(tokens.subs({gap: 0.01, eta: 0.05})), damage.tokens_to_resolve(0.01, 0.05))
assert np.isclose(damage.tokens_to_resolve(0.01), 800 / 0.01)
