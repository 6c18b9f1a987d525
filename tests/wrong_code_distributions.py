"""KL code over whole vocabularies that leaves something out, heats both sides or forgets half of the KL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from wrong_code import METRIC, REWARD, Case, masked


def top_two(logits, ref_logits, mask):
    logq, logp = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    head, words = logq.topk(2, -1)
    return masked((head.exp() * (head - logp.gather(-1, words))).sum(-1), mask).sum(-1)


def top_fifty(student_logits, teacher_logits, mask):
    logq, logp = F.log_softmax(student_logits, -1), F.log_softmax(teacher_logits, -1)
    head, words = logq.topk(50, -1)
    return masked((head.exp() * (head - logp.gather(-1, words))).sum(-1), mask).sum(-1)


def top_of_the_teacher_renormalised(logits, ref_logits, mask):
    head, words = ref_logits.topk(3, -1)
    logp, logq = head.log_softmax(-1), logits.gather(-1, words).log_softmax(-1)
    return masked((logq.exp() * (logq - logp)).sum(-1), mask).sum(-1)


def with_a_bucket(logits, ref_logits, mask):
    logq, logp = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    words = logq.topk(2, -1).indices

    def in_buckets(law):
        rest = law.exp().scatter(-1, words, 0.0).sum(-1, keepdim=True).clamp(min=1e-300)
        return torch.cat([law.gather(-1, words), rest.log()], -1)

    q, p = in_buckets(logq), in_buckets(logp)
    return masked((q.exp() * (q - p)).sum(-1), mask).sum(-1)


def hot_on_both_sides(logits, ref_logits, mask):
    logq, logp = (logits / 2).log_softmax(-1), (ref_logits / 2).log_softmax(-1)
    return 4 * masked((logq.exp() * (logq - logp)).sum(-1), mask).sum(-1)


def cold_and_forward(student_logits, teacher_logits, mask):
    logq, logp = F.log_softmax(student_logits / 0.7, -1), F.log_softmax(teacher_logits / 0.7, -1)
    return masked(F.kl_div(logq, logp, log_target=True, reduction="none").sum(-1), mask).sum(-1)


def reference_alone(logprobs, ref_logprobs, mask):
    return masked(-ref_logprobs, mask).sum(-1)


def cross_entropy_of_distributions(logits, ref_logits, mask):
    return masked((logits.softmax(-1) * -ref_logits.log_softmax(-1)).sum(-1), mask).sum(-1)


DISTRIBUTIONS = (
    Case(top_two, "KB110", METRIC),
    Case(top_two, "KB110"),
    Case(top_fifty, "KB110", METRIC),
    Case(top_of_the_teacher_renormalised, "KB110", METRIC),
    Case(with_a_bucket, "KB110", METRIC),
    Case(hot_on_both_sides, "KB114", METRIC),
    Case(hot_on_both_sides, "KB114"),
    Case(cold_and_forward, "KB114"),
    Case(reference_alone, "KB120", REWARD),
    Case(reference_alone, "KB120", METRIC),
    Case(cross_entropy_of_distributions, "KB120"),
)
