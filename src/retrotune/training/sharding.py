"""Models that no GPU holds alone: torch's fully_shard (FSDP2) over the processes that train together.

Each process holds its share of every weight, frozen ones too, and of what is trained its share of gradients and
optimizer state; the weights of one layer at a time are gathered to compute with them. Only the first process reads the
base model, into main memory; the others start with weights that have no storage. In checkpoints each process keeps its
own share. What is trained in the end is gathered on the first process.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from retrotune.errors import TrainingError


def shard(model: nn.Module, device: str) -> None:
    """Spread the weights of `model` over all processes' devices, in place; those of the first process count.

    Modules that transformers would not split (`_no_split_modules`) are gathered one at a time, and so are embedding and
    output matrix, unless these are one; the little that is outside is gathered once per pass. Raises `TrainingError` if
    the model does not name any.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    whole = {name: value.detach() for name, value in model.named_parameters()} if dist.get_rank() == 0 else {}
    _drop_storage(model)
    names = _unsplit(model)
    for module in [*(module for module in model.modules() if type(module).__name__ in names), *_embeddings(model)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Each loss is a share of the whole step's: gradients are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    shares: dict[int, nn.Parameter] = {}
    for name, value in model.named_parameters():
        assert isinstance(value, DTensor), name
        source = whole.pop(name).to(device) if whole else torch.empty(value.shape, dtype=value.dtype, device=device)
        share = distribute_tensor(source, mesh, value.placements)
        shares[id(value)] = nn.Parameter(share, requires_grad=value.requires_grad)
    # names of shared weights get the same parameter
    names_of = model.named_parameters(remove_duplicate=False)
    model.load_state_dict({name: shares[id(value)] for name, value in names_of}, strict=False, assign=True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
        dist.broadcast(buffer.data, 0)


def _unsplit(model: nn.Module) -> set[str]:
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    if not names:
        raise TrainingError(f"{type(model).__name__} does not say which modules must stay whole: it cannot be sharded")
    return names


def _embeddings(model: nn.Module) -> list[nn.Module]:
    """Input embedding and output matrix, where they are two."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    both = [base.get_input_embeddings(), base.get_output_embeddings()]
    inner = [getattr(module, "base_layer", module) for module in both if module is not None]
    return [] if len({id(module.weight) for module in inner}) < len(inner) else inner


def _drop_storage(model: nn.Module) -> None:
    """Make all parameters `meta`, shared ones once."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(value) not in made:
                made[id(value)] = nn.Parameter(value.detach().to("meta"), requires_grad=value.requires_grad)
            setattr(module, name, made[id(value)])


def gathered(model: nn.Module, all_weights: bool = False) -> dict[str, torch.Tensor]:
    """Whole weights by name, in main memory, on the first process; all must call it, the others get none.

    Those that are trained, or all of them, shared ones once; and buffers that are saved with a model.
    """
    found = {}
    names = {name for name, value in model.named_parameters() if value.requires_grad or all_weights}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in names or not isinstance(value, nn.Parameter):
            whole = value.full_tensor().detach() if isinstance(value, DTensor) else value.detach()
            if dist.get_rank() == 0:
                found[name] = whole.cpu()
    return found


def clip_gradients(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Clip the gradients of all shares together; the norm before."""
    parameters = [value for value in model.parameters() if value.grad is not None]
    norm = get_total_norm([value.grad for value in parameters if value.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's share of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's share of an optimizer's state, one entry per parameter in their order, and its settings."""
    states = [
        {key: local(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for _, state in _states(optimizer)
    ]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {"states": states, "groups": groups}


def load_local_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put back what `local_state` gave."""
    for (parameter, state), values in zip(list(_states(optimizer)), saved["states"], strict=True):
        state.update({key: _like(parameter, value) for key, value in values.items()})
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(values)


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    for part in getattr(optimizer, "parts", [optimizer]):
        for group in part.param_groups:
            for parameter in group["params"]:
                yield parameter, part.state[parameter]


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """A saved share as a tensor of the parameter's kind; numbers such as the step count stay as they are."""
    if not isinstance(value, torch.Tensor) or not value.ndim or not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.to_local())
    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
