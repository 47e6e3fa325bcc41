"""What training at size needs (checkpointing, bfloat16, compiled graphs, sharded layers) changes no number."""

import os
import socket

import pytest
import torch
from test_retro_model import NEIGHBORS, RETRIEVED, make, tokens
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

KINDS = {
    "retro": {},
    "short chunk first": {"short_chunk": "first"},
    "encoder without chunks": {"encoder_attends_chunk": False, "key_shift": True},
    "gpt": {"cross_attention_layers": []},
}


def batch(model, padded=True):
    ids, neighbors = tokens(2, 15), tokens(2, NEIGHBORS, RETRIEVED, seed=1)
    given = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.cross_attention_layers:
        given |= {"neighbor_ids": neighbors, "neighbor_mask": torch.ones_like(neighbors)}
    if padded:
        given["attention_mask"][0, :3] = 0
        if "neighbor_mask" in given:
            given["neighbor_mask"][0, 1, 2:] = 0
    return given


def gradients(model, **given):
    loss = model(**given).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_without_graph_breaks(kind):
    plain, compiled = make(**KINDS[kind]).train(), make(**KINDS[kind]).train()
    torch.compiler.reset()
    loss, expected = gradients(plain, **batch(plain))
    out = torch.compile(compiled, fullgraph=True, backend="aot_eager")(**batch(compiled))
    out.loss.backward()
    torch.testing.assert_close(out.loss.detach(), loss)
    for name, value in compiled.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_nothing(kind):
    plain, checkpointed = make(**KINDS[kind]).train(), make(**KINDS[kind]).train()
    checkpointed.activation_checkpointing_enable()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        loss, expected = gradients(plain, **batch(plain))
        without = sum(kept)
        kept.clear()
        found = checkpointed(**batch(checkpointed)).loss
        assert sum(kept) < without / 2  # the encoder's layers are checkpointed too
    found.backward()
    torch.testing.assert_close(found.detach(), loss)
    for name, value in checkpointed.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], msg=lambda m, n=name: f"{n}: {m}")


def test_bfloat16_autocast_is_near_float32():
    model = make(initializer_range=0.05).train()
    loss, expected = gradients(model, **batch(model))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch(model)).loss
    assert found.dtype == torch.float32
    found.backward()
    assert abs(found.item() - loss.item()) < 0.02
    for name, value in model.named_parameters():
        assert value.grad.dtype == torch.float32
        error = (value.grad - expected[name]).norm() / expected[name].norm().clamp(min=1e-3)
        assert error < 0.1, name


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_mask_is_made_where_causality_says_it(side, monkeypatch):
    """Padding on the right needs no mask in the decoder, and what is real stays the same."""
    model, masks = make(cross_attention_layers=[]), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watch(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    ids, real = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    cut = slice(None, 4) if side == "left" else slice(-4, None)
    real[1, cut] = 0
    found = model(ids, attention_mask=real).logits[1, real[1].bool()]
    assert all((mask is None) == (side == "right") for mask in masks)
    assert len(masks) == model.config.num_hidden_layers
    torch.testing.assert_close(found, model(ids[1:, real[1].bool()]).logits[0], atol=1e-5, rtol=1e-5)


def shard_and_compare(rank, port, checkpointing):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    plain, sharded = make(key_shift=True).train(), make(key_shift=True).train()
    loss, expected = gradients(plain, **batch(plain))
    if checkpointing:
        sharded.activation_checkpointing_enable()
    mesh = init_device_mesh("cpu", (2,))
    for module in sharded.modules():
        if type(module).__name__ in sharded._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    out = sharded(**batch(sharded)).loss
    out.backward()
    torch.testing.assert_close(out.detach(), loss)
    for name, value in sharded.named_parameters():
        assert value.to_local().numel() <= -(-value.shape[0] // 2) * value[0].numel()  # half of the rows
        torch.testing.assert_close(value.grad.full_tensor(), expected[name], msg=lambda m, n=name: f"{n}: {m}")
    distributed.destroy_process_group()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharded_layer_by_layer(checkpointing):
    """FSDP2 on two processes: layers of decoder and encoder are gathered one at a time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(shard_and_compare, (port, checkpointing), nprocs=2)
