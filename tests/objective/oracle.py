"""The objective from its equations, one number at a time, in float64: slow, plain, and independent of `crosslign`.

`divergence_at`, `weight_at` and `loss` loop over tokens and vocabulary with `math`. `naive_loss` is for gradients:
the textbook formulas in torch, left to automatic differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Row = Sequence[float]


def log_softmax(logits: Row, temperature: float) -> list[float]:
    scaled = [x / temperature for x in logits]
    top = max(scaled)
    log_total = math.log(math.fsum(math.exp(x - top) for x in scaled))
    return [x - top - log_total for x in scaled]


def kl(log_a: Row, log_b: Row) -> float:
    """KL(a || b); entries with a = 0 contribute 0."""
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(log_a, log_b, strict=True) if math.exp(a) > 0)


def divergence_at(kind: str, student: Row, teacher: Row, temperature: float = 1.0, beta: float = 0.5) -> float:
    log_s, log_t = log_softmax(student, temperature), log_softmax(teacher, temperature)
    if kind == "reverse_kl":
        return kl(log_s, log_t)
    if kind == "forward_kl":
        return kl(log_t, log_s)
    mixture = [beta * math.exp(t) + (1 - beta) * math.exp(s) for s, t in zip(log_s, log_t, strict=True)]
    log_m = [math.log(m) if m > 0 else -math.inf for m in mixture]
    return beta * kl(log_t, log_m) + (1 - beta) * kl(log_s, log_m)


def weight_at(kind: str, student: Row, teacher: Row, top_k: int, temperature: float = 1.0) -> float:
    p_s = [math.exp(x) for x in log_softmax(student, temperature)]
    p_t = [math.exp(x) for x in log_softmax(teacher, temperature)]
    k = min(top_k, len(p_t))
    top = sorted(p_t, reverse=True)[:k]
    total = math.fsum(top)
    entropy = -math.fsum(p / total * math.log(p / total) for p in top if p > 0)
    w_teacher = 1 - entropy / math.log(k) if k > 1 else 1.0
    choice = teacher.index(max(teacher))  # `index` finds the lowest id
    w_student = math.fsum(p for v, p in enumerate(p_s) if v != choice)  # 1 - p_S(y*), without cancellation
    return {"dpsw": w_teacher * w_student, "teacher": w_teacher, "student": w_student, "uniform": 1.0}[kind]


def normalised(weights: Row) -> list[float]:
    total = math.fsum(weights)
    return [len(weights) * w / total if total > 0 else 0.0 for w in weights]


def loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    divergence: str = "reverse_kl",
    weighting: str = "dpsw",
    top_k: int = 32,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> tuple[float, list[list[float]], list[list[float]], list[list[float]]]:
    """Loss, and per sequence the divergences, normalised weights and raw weights of its valid tokens only."""
    losses, divergences, weights, raw_weights = [], [], [], []
    for i in range(mask.shape[0]):
        rows = [
            (student[i, t].double().tolist(), teacher[i, t].double().tolist())
            for t in range(mask.shape[1])
            if mask[i, t]
        ]
        d = [divergence_at(divergence, s, t, temperature, beta) for s, t in rows]
        raw = [weight_at(weighting, s, t, top_k, temperature) for s, t in rows]
        w = normalised(raw)
        if rows:
            losses.append(math.fsum(a * b for a, b in zip(w, d, strict=True) if a > 0) / len(rows))
        divergences.append(d)
        weights.append(w)
        raw_weights.append(raw)
    return (math.fsum(losses) / len(losses) if losses else 0.0), divergences, weights, raw_weights


def naive_divergence(
    kind: str, student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    log_s, log_t = torch.log_softmax(student / temperature, -1), torch.log_softmax(teacher / temperature, -1)
    s, t = torch.softmax(student / temperature, -1), torch.softmax(teacher / temperature, -1)
    if kind == "reverse_kl":
        return (s * (log_s - log_t)).sum(-1)
    if kind == "forward_kl":
        return (t * (log_t - log_s)).sum(-1)
    log_m = (beta * t + (1 - beta) * s).log()
    return beta * (t * (log_t - log_m)).sum(-1) + (1 - beta) * (s * (log_s - log_m)).sum(-1)


def naive_weight(kind: str, student: Tensor, teacher: Tensor, top_k: int, temperature: float = 1.0) -> Tensor:
    p_s, p_t = torch.softmax(student / temperature, -1), torch.softmax(teacher / temperature, -1)
    k = min(top_k, p_t.shape[-1])
    top = p_t.sort(-1, descending=True).values[..., :k]
    top = top / top.sum(-1, keepdim=True)
    w_teacher = 1 + (top * top.log()).sum(-1) / math.log(k) if k > 1 else torch.ones_like(p_t[..., 0])
    w_student = 1 - p_s.gather(-1, teacher.argmax(-1, keepdim=True))[..., 0]
    return {
        "dpsw": w_teacher * w_student,
        "teacher": w_teacher,
        "student": w_student,
        "uniform": torch.ones_like(w_teacher),
    }[kind]


def naive_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    divergence: str = "reverse_kl",
    weighting: str = "dpsw",
    top_k: int = 32,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> Tensor:
    """The loss with weights outside the graph, differentiable by autograd; sequence after sequence."""
    losses = []
    for i in range(mask.shape[0]):
        valid = [t for t in range(mask.shape[1]) if mask[i, t]]
        if valid:
            s, t = student[i, valid], teacher[i, valid]
            w = naive_weight(weighting, s, t, top_k, temperature).detach()
            d = naive_divergence(divergence, s, t, temperature, beta)
            losses.append((w * len(valid) / w.sum() * d).sum() / len(valid))
    return torch.stack(losses).mean()
