"""The equations as LaTeX, by number, for papers and notebooks.

`tests/sensitivity/theory/test_theory.py` checks that every numbered function has an equation here,
and every equation a function.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equation:
    """`tag` as in a docstring, (4) or (D1); `says` describes `latex` in words."""

    tag: str
    latex: str
    says: str


EQUATIONS = (
    Equation("1", r"D = \frac{M}{q}, \qquad q = 2^{b-1} - 1",
             "The step of a symmetric grid that reaches the largest weight $M$ of a group."),
    Equation("2", r"\sigma_u^2 = \frac{D^2}{12}",
             "The variance of an error that is uniform over one step; exact with dither only."),
    Equation("3", r"\sigma_s^2 = \frac{D^2}{6}",
             "Stochastic rounding has no bias and twice that variance on average."),
    Equation("4", r"\mathbb{E}\,\varepsilon^2 = \frac{D^2}{12} + \frac{D^2}{\pi^2}"
                  r"\sum_{k \ge 1} \frac{(-1)^k}{k^2} e^{-2\pi^2 k^2 s^2 / D^2}",
             "Rounding Gaussian weights of deviation $s$ to an endless mid-tread grid."),
    Equation("5", r"\mathbb{E}\,w\varepsilon = 2 s^2 \sum_{k \ge 1} (-1)^k "
                  r"e^{-2\pi^2 k^2 s^2 / D^2}",
             "The error leans against the weight, the more the wider the step."),
    Equation("6", r"\int_a^b (w - c)^2 f(w)\,dw = (1 + c^2)(F(b) - F(a)) + a f(a) - b f(b)"
                  r" + 2c\,(f(b) - f(a))",
             "One cell of a grid under a standard Gaussian density $f$ with distribution $F$."),
    Equation("7", r"E(c_1, \dots, c_n) = \sum_i \int_{m_{i-1}}^{m_i} (w - c_i)^2 f(w)\,dw,"
                  r" \qquad m_i = \frac{c_i + c_{i+1}}{2}",
             "A whole grid: every weight goes to the nearest level."),
    Equation("8", r"\delta = \frac{1}{m}\,\mathbb{E}_M\!\left[(m-1)\,E(M c \mid |w| \le M)"
                  r" + e_{\mathrm{top}}(M)\right]",
             "A format's distortion in groups of $m$: the largest weight $M$ sets the scale."),
    Equation("9", r"\delta_{\mathrm{PD}} = \frac{\sqrt{3}\,\pi}{2}\,4^{-b}",
             "Panter and Dite: the best scalar code of a Gaussian at high rate."),
    Equation("10", r"\kappa_b = 4^b\,\delta_b",
             "What stands before $4^{-b}$; it is no constant."),
    Equation("11", r"s^\ast = \arg\min_s E(s c_1, \dots, s c_n)",
             "The scale with the least error for one endless group."),
    Equation("12", r"\mathbb{E}\,\Delta L = \tfrac12 \operatorname{tr}(H S)",
             "Mean damage of independent noise of covariance $S$: blocks across layers vanish."),
    Equation("13", r"\operatorname{Var}\Delta L = g^\top S g + \tfrac12"
                   r"\operatorname{tr}\big((H S)^2\big)",
             "Its variance, for Gaussian noise; $g$ is the evaluation sample's gradient."),
    Equation("14", r"\Delta L_{b'} \approx 4^{b - b'}\,\Delta L_b",
             "One bit is worth a factor of four, between many bits only."),
    Equation("15", r"b_\times = b + \log_2 \frac{\frac12\operatorname{tr}(H S_b)}"
                   r"{\sqrt{g^\top S_b\, g}}",
             "From these bits on the first order's spread exceeds the mean damage."),
    Equation("16", r"p_{\mathrm{eff}} = \sum_l r\,(m_l + n_l - r)",
             "What adapters of rank $r$ have to choose."),
    Equation("17", r"b^\ast \ge \tfrac12 \log_2 \frac{\kappa\,N \operatorname{tr}(H S_w)}"
                   r"{\alpha\,p_{\mathrm{eff}}}",
             "Damage at most a share $\\alpha$ of the statistical term: rank enters with a minus."),
    Equation("18", r"\mathrm{gap} = g^\top\varepsilon + \tfrac12\,\varepsilon^\top\!\left(H - "
                   r"H T (T^\top H T)^{-1} T^\top H\right)\varepsilon",
             "After training: the adapter's tangent space $T$ takes back what it can reach."),
    Equation("19", r"\rho_k = \frac{\sum_{i > k} \sigma_i^2}{\sum_i \sigma_i^2},"
                   r" \qquad \sigma_i = \sigma_i(G^{1/2} E A^{1/2})",
             "Eckart and Young: what no correction of rank $k$ reaches, in K-FAC's metric."),
    Equation("20", r"\nabla L(w + \varepsilon) - \nabla L(w) = H\varepsilon",
             "A frozen base shifts the mean gradient, by the same at every step."),
    Equation("21", r"\operatorname{Cov}\nabla L(w + \varepsilon_t) = \operatorname{Cov}\nabla L"
                   r" + H S H",
             "Noise drawn anew at every step adds variance, even where all batches share one $H$."),
    Equation("22", r"\frac{\operatorname{tr}(H S_b H)}{\operatorname{tr}(H S_{b'} H)} = "
                   r"\left(\frac{2^{b'-1} - 1}{2^{b-1} - 1}\right)^2",
             "How that variance scales with bits; rank has no part in it."),
    Equation("23", r"\min_{\text{codes}} \tfrac12\,\mathbb{E}\,\varepsilon^\top H \varepsilon \ge "
                   r"\tfrac12 \sum_i \min(\theta, \lambda_i), \qquad \sum_i \tfrac12 \log_2^+ "
                   r"\frac{\lambda_i}{\theta} = n b",
             "The converse by reverse water-filling, $\\lambda$ of $S_w^{1/2} H S_w^{1/2}$."),
    Equation("24", r"\frac{\operatorname{AM}(\lambda)}{\operatorname{GM}(\lambda)}",
             "What treating all directions alike loses against it."),
    Equation("25", r"N_{\mathrm{tokens}} = \frac{2}{\eta^2\,\mathrm{gap}}",
             "Tokens for a standard error of a share $\\eta$ of a gap."),
    Equation("26", r"\mathbb{E}\,L(w + \varepsilon) - L(w) \le C_b\,4^{-b} + "
                   r"\mathcal{O}(16^{-b}), \qquad C_b = \tfrac12\,\kappa_b "
                   r"\operatorname{tr}(H S_w), \qquad b \ge 3",
             "The main bound: of the mean over errors, and none on one realisation."),
    Equation("27", r"\mathbb{E}\,\Delta L(b_1, \dots, b_n) = \sum_l s_l(b_l), \qquad "
                   r"s_l(b) = \tfrac12 \sum_{i \in l} H_{ii}\,\mathbb{E}\,\varepsilon_i(b)^2",
             "Its corollary by layers: each layer's damage depends on its own bits alone."),
    Equation("28", r"\mathbb{E}_\varepsilon \operatorname{tr}\operatorname{Cov}_t \nabla L_t(w + "
                   r"\varepsilon) = \operatorname{tr}\operatorname{Cov}_t \nabla L_t + "
                   r"\operatorname{tr}\big(\mathbb{E}_t (H_t - H)^2\,S\big)",
             "A frozen base adds variance only where the Hessians $H_t$ of batches differ."),
    Equation("D1", r"\mathbb{E} L(\hat\theta_q) - L(\theta^\ast) \le \tilde{\mathcal{O}}\!\left("
                   r"\tfrac{\sqrt r}{\sqrt N}\right) + \mathcal{O}(r\,2^{-2b}\sigma_g^2)",
             "The documents' bound: its second term grows with rank, which (18) denies."),
    Equation("D2", r"b^\ast \ge \tfrac12\log_2 r + \tfrac12\log_2 N + \tfrac12\log_2\sigma_g^2 + C",
             "The documents' rule for bits."),
    Equation("D2'", r"b = \tfrac14\log_2 r + \tfrac14\log_2 N + \tfrac12\log_2(C\sigma^2)",
             "What balancing the documents' own two terms gives."),
    Equation("D3", r"\operatorname{Var}\nabla L_q \le \operatorname{Var}\nabla L + "
                   r"L^2 \|x\|^2\, r\, 2^{-2b} R^2",
             "The documents' gradient variance: right in $4^{-b}$, but rank has no part in it."),
    Equation("D4", r"\mathbb{E} L_{\mathrm{quant}} - L_{\mathrm{fp}} \le C\,2^{-2b}",
             "The documents' law with one constant for all bits."),
    Equation("D5", r"r \le 8 \to 8\text{ bit},\quad r \le 16 \to 8\text{ bit},\quad"
                   r" r > 16 \to 16\text{ bit}",
             "The documents' guideline, to be tested."),
)  # fmt: skip


def snippet(equation: Equation) -> str:
    """One numbered equation, to be read in with \\input."""
    return (
        f"% ({equation.tag}) {equation.says}\n"
        f"\\begin{{equation}}\\tag{{{equation.tag}}}\n  {equation.latex}\n\\end{{equation}}\n"
    )
