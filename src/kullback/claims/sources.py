"""Where claims are made, as the records that ids and ``--source`` go by.

`kullback.estimators` and `kullback.surrogates` cite some of the same papers as plain text, for people to look up: those
are references of formulas, these are keys of claims, with what was read of each.
"""

from kullback.auditing.trainers import TRAINERS
from kullback.claims.record import Source

FORMULAS = "its formulas as public notes and code give them"

ZHANG = Source("000", "Shiyue Zhang 2025, a note on TRL's KL estimate")
APPLICATIONS = Source("001", "“Approximating KL Divergence (and its applications in RL)” (a draft)")
RETHINK = Source("002", "“Re-understanding KL Approximation from an RL-for-LLM Lens” (2025)")
RETHINK_ZH = Source("003", "“从 RL for LLM 视角重新理解 KL 估计” (2025)")
XU = Source("004", "Wei Xu 2025, “Estimating the gradient of KL-divergence”")

SCHULMAN = Source("schulman", "Schulman 2020, “Approximating KL Divergence”", "copies of its text")
AMINI = Source(
    "amini", "Amini, Vieira & Cotterell 2025, arXiv 2504.10637", "the abstract, the code, notes on the theorems"
)
TANG = Source("tang", "Tang & Munos 2025, arXiv 2506.09477", FORMULAS)
COMEDY = Source("comedy", "“A Comedy of Estimators” 2025, arXiv 2512.21852", FORMULAS)
COMEDY_NOTES = Source("comedy-notes", "public notes on arXiv 2512.21852")
LIU = Source("liu", "Liu et al. 2025, arXiv 2510.01555", FORMULAS)
RPG = Source("rpg", "“On the Design of KL-Regularized Policy Gradient Algorithms” 2025, arXiv 2505.17508")
DEEPSEEK = Source("deepseek", "DeepSeek: GRPO 2402.03300, R1 2501.12948, V3.2 2512.02556", FORMULAS)
XIHUAI = Source("xihuai", "xihuai18 2025, “Understanding KL Divergence Estimators in RL”")
LI = Source("li", "Liu, Li et al. 2025, “When Speed Kills Stability”, parts 1–3")
EMA_PG = Source("ema-pg", "EMA-PG 2026, arXiv 2602.04417")
VOPD = Source("vopd", "vOPD 2026, arXiv 2605.07865", "the code")
KOOL = Source("kool", "Kool, van Hoof & Welling 2020", FORMULAS)
VILNIS = Source("vilnis", "Vilnis et al. 2023, “Arithmetic Sampling”, arXiv 2210.15458", "the abstract")
TRUST = Source("trust", "TRM 2025, arXiv 2512.23075, and DPPO 2026, arXiv 2602.04879", "abstracts, code, notes")
LAMBDA = Source("lambda", "two 2026 blog posts on the coefficient of k3", FORMULAS)

TRL = Source("trl", f"{TRAINERS['trl'].names.title}, documentation")
VERL = Source("verl", f"{TRAINERS['verl'].names.title}, documentation", "its text, and notes on its rollout correction")
OPENRLHF = Source("openrlhf", f"{TRAINERS['openrlhf'].names.title}, code comments")
NEMO = Source("nemo", f"{TRAINERS['nemo-rl'].names.title}, GRPO guide", "its text and code")
SLIME = Source("slime", f"{TRAINERS['slime'].names.title}, code comments and arguments", "the code")
TINKER = Source("tinker", "Thinking Machines, on-policy distillation, and tinker-cookbook", FORMULAS)
LLAMA = Source("llama", "llama.cpp, perplexity --kl-divergence", "the code")

TRLX = Source("trlx", f"{TRAINERS['trlx'].names.title}, PPO trainer and its pull requests", "the threads")
RLHF_BOOK = Source("rlhf-book", "Lambert, RLHF Book, chapter on regularisation", "two versions of its text")
CLEANRL = Source("cleanrl", f"{TRAINERS['cleanrl'].names.title}, PPO, and the scripts that copy it", "the code")
ZIEGLER = Source("ziegler", "Ziegler et al. 2019, arXiv 1909.08593, and its controller", "the code and threads on it")
FUTURE_KL = Source("future-kl", "“Future-KL Regularized GRPO” 2026, arXiv 2601.10201", "the abstract")
GSPO = Source("gspo", "GSPO 2025, arXiv 2507.18071", "notes that quote it")
PRAXIS = Source("praxis", "The LLM Data Company 2025, “Mismatch Praxis”", "its beginning")
OPD = Source("opd", "“Revisiting On-Policy Distillation” 2026, arXiv 2603.25562", "the abstract and notes")
TIKE = Source("tike", "TIKE 2026, ACL long paper 405", "the abstract")
FOLKLORE = Source("folklore", "Said in tutorials and threads, without one author", "several of them")
OURS = Source("kullback", "This project", "a measurement on SmolLM2-135M-Instruct")
