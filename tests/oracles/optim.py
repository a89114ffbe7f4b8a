"""The authors' optimizer and schedule, and PyTorch's own, behind functions of numpy arrays."""

import numpy as np
import torch
from miro.utils.lr_scheduler import WarmupCosineDecayLR
from miro.utils.optimizers import Lamb

Arrays = dict[str, np.ndarray]


def run_lamb(
    params: Arrays, gradients: list[Arrays], adapted: set[str], lr, weight_decay
) -> Arrays:
    """Run the authors' Lamb, grouped as their training groups it; return the final parameters."""
    return _run(
        params, gradients, adapted, weight_decay, lambda groups: Lamb(groups, lr=lr, decouple=False)
    )


def run_adamw(
    params: Arrays, gradients: list[Arrays], adapted: set[str], lr, weight_decay
) -> Arrays:
    """Run torch.optim.AdamW with decay for the names in `adapted`; return the final parameters."""
    return _run(
        params, gradients, adapted, weight_decay, lambda groups: torch.optim.AdamW(groups, lr=lr)
    )


def _run(params, gradients, adapted, weight_decay, make) -> Arrays:
    tensors = {k: torch.nn.Parameter(torch.from_numpy(v.copy())) for k, v in params.items()}
    with_decay = {"weight_decay": weight_decay, "layer_adaptation": True}
    plain = {"weight_decay": 0.0, "layer_adaptation": False}
    optimizer = make(
        [
            {"params": [t for k, t in tensors.items() if k in adapted], **with_decay},
            {"params": [t for k, t in tensors.items() if k not in adapted], **plain},
        ]
    )
    for step in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(step[name].copy())
        optimizer.step()
    return {k: t.detach().numpy() for k, t in tensors.items()}


def rates(learning_rate, warmup_steps, total_steps, rate, steps) -> list[float]:
    """The rates that the authors' scheduler sets when it is called with each of `steps`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = WarmupCosineDecayLR(optimizer, warmup_steps, total_steps, rate)
    found = []
    for step in steps:
        scheduler.step(int(step))
        found.append(optimizer.param_groups[0]["lr"])
    return found


def clip(gradients: Arrays, max_norm: float) -> Arrays:
    """torch.nn.utils.clip_grad_norm_ over all of `gradients` together."""
    tensors = []
    for gradient in gradients.values():
        tensor = torch.nn.Parameter(torch.zeros(gradient.shape))
        tensor.grad = torch.from_numpy(gradient.copy())
        tensors.append(tensor)
    torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    return {k: t.grad.numpy() for k, t in zip(gradients, tensors, strict=True)}
