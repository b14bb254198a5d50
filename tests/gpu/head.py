"""Time, memory and exactness of MarginSoftmax with a million classes.

N samples, C classes, E = 512 numbers of an embedding.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fr.distributed import float32_products, open_ranks
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.optimizer import apply_step, build_sgd, gradient_norm
from tests.gpu.job import Job
from tests.gpu.steps import DECAY, EMBED_SIZE, LR, MOMENTUM, free_memory

_S, _M = 30.0, 0.35


@dataclass(frozen=True)
class Outcome:
    """Results of one forward and backward pass. rows: gradient of a few centres, the last among them."""

    loss: torch.Tensor
    embeddings: torch.Tensor  # [N, E]
    rows: torch.Tensor  # [k, E]


def check(job: Job) -> None:
    """A step in IEEE float32 and TF32, their difference, and products of more than 2³¹ elements."""
    classes, samples, many = job.pick((1_000_000, 512, 2_560), (5_000, 16, 48))
    with open_ranks(job.device.type):
        start = time.perf_counter()
        head = MarginSoftmax(classes, EMBED_SIZE, LossSettings(margin_type="cos", s=_S, m=_M), seed=0).to(job.device)
        job.findings.metric(f"drawing {classes:,} centres", time.perf_counter() - start, "s")
        embeddings, labels = _batch(job, head, samples)
        with float32_products(False):
            exact = _outcome(head, embeddings, labels)
        with float32_products(True):
            differences = _differences(_outcome(head, embeddings, labels), exact)
        for part, value in differences.items():
            job.findings.metric(f"{part}: TF32 against IEEE float32", value, "relative")
        for name, allowed in (("IEEE float32", False), ("TF32", True)):
            with float32_products(allowed):
                _measure(job, name, head, embeddings, labels)
        free_memory()
        _compare_large(job, head, many)


def _batch(job: Job, head: MarginSoftmax, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings at some angle to their centres, as in training; the last class is among the labels."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(head.classes, (samples,), generator=source)
    labels[-1] = head.classes - 1
    noise = torch.randn(samples, EMBED_SIZE, generator=source)
    embeddings = noise.to(job.device) + 10 * head.weight.detach()[labels.to(job.device)]
    return embeddings, labels.to(job.device)


def _measure(job: Job, name: str, head: MarginSoftmax, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    """Median time of a step of the head alone, and its peak memory."""
    free_memory()
    optimizer = build_sgd(head.parameters(), LR, MOMENTUM, DECAY)
    numbers = iter(range(1_000_000))

    def step() -> None:
        asked = embeddings.clone().requires_grad_()
        with head.step(next(numbers), labels, optimizer):
            loss, _ = head(asked, labels)
            torch.autograd.backward(loss)
            apply_step(optimizer, gradient_norm([], head.parameters()), loss.detach(), clip_norm=0.0)
            optimizer.zero_grad()

    if job.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    step()
    seconds = statistics.median(job.seconds(step) for _ in range(job.pick(7, 2)))
    job.findings.metric(f"{head.classes:,} classes × {len(labels)} samples, {name}: a step", seconds * 1e3, "ms")
    if job.on_gpu:
        job.findings.metric(f"{name}: peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")


def _outcome(head: MarginSoftmax, embeddings: torch.Tensor, labels: torch.Tensor) -> Outcome:
    asked = embeddings.clone().requires_grad_()
    loss, _ = head(asked, labels)
    torch.autograd.backward(loss)
    assert asked.grad is not None and head.weight.grad is not None
    outcome = Outcome(loss.detach(), asked.grad, head.weight.grad[_rows(head, labels)])
    head.weight.grad = None
    return outcome


def _rows(head: MarginSoftmax, labels: torch.Tensor) -> torch.Tensor:
    """The last three centres, the first two, two in the middle, and the samples' own."""
    last = head.classes - 1
    some = torch.tensor([last - 2, last - 1, last, 0, 1, last // 2, last // 2 + 1], device=labels.device)
    return torch.cat([some, labels])


def _differences(one: Outcome, other: Outcome) -> dict[str, float]:
    """Relative, by norms."""
    pairs = {
        "loss": (one.loss, other.loss),
        "gradient of the embeddings": (one.embeddings, other.embeddings),
        "gradient of the last embeddings": (one.embeddings[-8:], other.embeddings[-8:]),
        "gradient of some centres": (one.rows, other.rows),
        "gradient of the last centres": (one.rows[:3], other.rows[:3]),
    }
    return {name: float((a.double() - b.double()).norm() / b.double().norm()) for name, (a, b) in pairs.items()}


def _compare_large(job: Job, head: MarginSoftmax, samples: int) -> None:
    """N · C > 2³¹ on a GPU: a kernel that counts elements with 32 bits would spoil the last samples."""
    embeddings, labels = _batch(job, head, samples)
    with float32_products(False):
        outcome = _outcome(head, embeddings, labels)
    free_memory()
    wanted = chunked_outcome(head.weight.detach(), embeddings, labels, _rows(head, labels), job.pick(50_000, 700))
    for part, value in _differences(outcome, wanted).items():
        # A float32 cosine of 512 products has an error near 1e-7, times s = 30 in the logit, hence in a probability.
        text = f"{samples:,} samples × {head.classes:,} classes: {part} is that of float64 in chunks"
        job.findings.claim(text, value < 1e-4, f"{value:.1e} relative")


def chunked_outcome(
    weight: torch.Tensor, embeddings: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, chunk: int
) -> Outcome:
    """CosFace (arXiv:1801.09414 eq. 4) in float64, from [N, chunk] logits at a time.

    weight [C, E], embeddings [N, E], labels [N], rows [k]: centres whose gradient is wanted.
    """
    asked = embeddings.double().requires_grad_()
    unit = F.normalize(asked)
    x = unit.detach()

    def logits(classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = (labels[:, None] == classes).double()
        return _S * (x @ F.normalize(weight[classes].double()).T - _M * own), own

    def of_cosines(classes: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean loss: s / N (p - y)."""
        values, own = logits(classes)
        return _S / len(labels) * ((values - log_total[:, None]).exp() - own)

    log_total, target, of_unit = x.new_full((len(x),), -torch.inf), x.new_zeros(len(x)), torch.zeros_like(x)
    chunks = torch.arange(len(weight), device=weight.device).split(chunk)
    for classes in chunks:
        values, own = logits(classes)
        log_total = torch.logaddexp(log_total, values.logsumexp(dim=1))
        target += (values * own).sum(dim=1)
    for classes in chunks:
        of_unit += of_cosines(classes) @ F.normalize(weight[classes].double())
    centres = weight[rows].double().requires_grad_()
    (of_rows,) = torch.autograd.grad(x @ F.normalize(centres).T, centres, of_cosines(rows))
    (of_embeddings,) = torch.autograd.grad(unit, asked, of_unit)
    return Outcome((log_total - target).mean(), of_embeddings, of_rows)
