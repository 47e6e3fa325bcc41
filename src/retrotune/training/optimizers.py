"""Optimizers and learning-rate schedules.

`muon` follows the usual division: Muon, which orthogonalizes updates, for the matrices between the embeddings; AdamW
for embeddings, norms and scalars, whose updates have no such geometry.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers behind the interface of one, so that a training loop and a schedule see a single optimizer."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self._share()

    def _share(self) -> None:
        """Make the groups of the parts the groups of the whole: a schedule that sets a rate here sets it there."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every part; closures are not supported."""
        assert closure is None, "CombinedOptimizer takes no closure"
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of all parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices, everything else) of a model's trainable parameters.

    Everything else: token embeddings, the output matrix (tied or not), norms, biases and scalars.
    """
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    embeddings |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in embeddings]
    chosen = {id(parameter) for parameter in matrices}
    return matrices, [parameter for parameter in trained if id(parameter) not in chosen]


def adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    apart: Iterable[nn.Parameter] = (),
    rate_apart: float | None = None,
) -> torch.optim.AdamW:
    """AdamW on all trainable parameters; norms, biases and scalars are not decayed.

    Those among `apart` get the rate `rate_apart`, if there is one.
    """
    chosen = set() if rate_apart is None else {id(parameter) for parameter in apart}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = rate_apart if rate_apart is not None and id(parameter) in chosen else learning_rate
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()],
        lr=learning_rate,
        betas=betas,
    )


class Float32Muon(torch.optim.Muon):
    """torch's Muon whose updates are made orthogonal in float32; torch does it in bfloat16 always.

    A CPU without bfloat16 takes 1.2 s for the matrices of a RETRO of width 128 with torch's, 0.07 s with this one.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; closures are not supported."""
        assert closure is None, "Float32Muon takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"]) if group["nesterov"] else average
                update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], iterations: int, eps: float
) -> torch.Tensor:
    """The matrix with its singular values brought near 1, by Newton-Schulz iterations in its own precision.

    An iteration with the coefficients (a, b, c) takes each singular value x to ax + bx^3 + cx^5.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=eps)
    for _ in range(iterations):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def muon(
    model: nn.Module,
    learning_rate: float,
    other_rate: float,
    weight_decay: float,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
) -> torch.optim.Optimizer:
    """Muon with `learning_rate` for hidden matrices, AdamW with `other_rate` and no decay for everything else.

    Muon's updates are made orthogonal in `precision`.
    """
    matrices, others = split_parameters(model)
    of_matrices = torch.optim.Muon if precision == "bfloat16" else Float32Muon
    return CombinedOptimizer(
        [
            of_matrices(matrices, lr=learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
    )


def cosine_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int, final_share: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then cosine from the peak rate to `final_share` of it, one step after the last; all groups alike.

    Warm-up takes at most half of the steps.
    """
    warmup_steps = min(warmup_steps, steps // 2)

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
