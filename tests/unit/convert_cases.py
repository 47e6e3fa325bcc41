"""Tiny random models written as Megatron would have written them: the inverse of a conversion, stated on its own."""

import io
import pickle
from argparse import Namespace
from pathlib import Path

import torch
from torch.distributed.checkpoint import filesystem, metadata

from retrotune.models import RetroConfig, RetroForCausalLM

VOCABULARY, PADDED = 60, 64


def tiny_model(family="retro", dtype=torch.float32, **changes):
    """Weights are random, norms and biases too."""
    torch.manual_seed(0)
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "chunk_length": 4,
        "retrieved_length": 8,
        "cross_attention_layers": [5] if family == "retro" else [],
    }
    model = RetroForCausalLM(RetroConfig(**(values | changes))).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def arguments(model, **changes):
    """What Megatron keeps of its command line."""
    config = model.config
    retro = bool(config.cross_attention_layers)
    groups = config.num_key_value_heads
    values = {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_dim,
        "group_query_attention": groups != config.num_attention_heads,
        "num_query_groups": groups if groups != config.num_attention_heads else 1,
        "max_position_embeddings": config.max_position_embeddings,
        "position_embedding_type": "rope",
        "use_rotary_position_embeddings": True,
        "add_position_embedding": True,
        "rotary_percent": config.rotary_share,
        "normalization": "LayerNorm" if config.norm == "layernorm1p" else "RMSNorm",
        "norm_epsilon": config.norm_eps,
        "apply_layernorm_1p": config.norm == "layernorm1p",
        "apply_residual_connection_post_layernorm": False,
        "swiglu": True,
        "squared_relu": False,
        "add_bias_linear": False,
        "add_qkv_bias": config.attention_bias,
        "untie_embeddings_and_output_weights": not config.tie_word_embeddings,
        "vocab_size": None,
        "params_dtype": config.dtype,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "retro_add_retriever": retro,
        "retro_encoder_layers": 2,
        "retro_num_retrieved_chunks": 2,
        "retro_attention_gate": 1.0,
    }
    return Namespace(**(values | changes))


def core_tensors(model, effective=0):
    """megatron-core's names of its local layers -> whole tensors; `effective` is added to gammas."""
    config, state, tensors = model.config, dict(model.state_dict()), {}
    padding = torch.full((PADDED - config.vocab_size, config.hidden_size), 7.0).to(model.dtype)
    tensors["embedding.word_embeddings.weight"] = torch.cat([state["model.embed_tokens.weight"], padding])
    if not config.tie_word_embeddings:
        tensors["output_layer.weight"] = torch.cat([state["lm_head.weight"], padding])

    def norm(ours, theirs):
        tensors[f"{theirs}.weight"] = state[f"{ours}.weight"] + effective
        if f"{ours}.bias" in state:
            tensors[f"{theirs}.bias"] = state[f"{ours}.bias"]

    def fused(ours, letters, groups, kind):
        parts = [state[f"{ours}.{letter}_proj.{kind}"].unflatten(0, (groups, -1)) for letter in letters]
        return torch.cat(parts, dim=1).flatten(0, 1)

    def layer(ours, theirs, cross, in_encoder):
        norm(f"{ours}.input_norm", f"{theirs}.input_layernorm")
        groups = config.num_key_value_heads
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            name = f"{theirs}.self_attention.linear_qkv.{kind}"
            tensors[name] = fused(f"{ours}.self_attention", "qkv", groups, kind)
        tensors[f"{theirs}.self_attention.linear_proj.weight"] = state[f"{ours}.self_attention.o_proj.weight"]
        if cross:
            heads = config.num_attention_heads
            norm(f"{ours}.cross_norm", f"{theirs}.pre_cross_attn_layernorm")
            attention = f"{theirs}.cross_attention.attn"
            tensors[f"{attention}.linear_q.weight"] = state[f"{ours}.cross_attention.q_proj.weight"]
            tensors[f"{attention}.linear_kv.weight"] = fused(f"{ours}.cross_attention", "kv", heads, "weight")
            tensors[f"{attention}.linear_proj.weight"] = state[f"{ours}.cross_attention.o_proj.weight"]
        norm(f"{ours}.mlp_norm", f"{theirs}.pre_mlp_layernorm{'.norm' if cross and in_encoder else ''}")
        halves = [state[f"{ours}.mlp.{half}_proj.weight"] for half in ("gate", "up")]
        tensors[f"{theirs}.mlp.linear_fc1.weight"] = torch.cat(halves)
        tensors[f"{theirs}.mlp.linear_fc2.weight"] = state[f"{ours}.mlp.down_proj.weight"]

    crossing = config.cross_attention_layers
    for number in range(config.num_hidden_layers):
        layer(f"model.layers.{number}", f"decoder.layers.{number}", number in crossing, False)
    if crossing:
        owner = f"decoder.layers.{crossing[0]}.cross_attention.encoder.layers"
        for number in range(config.encoder_num_layers):
            layer(f"model.neighbor_encoder.layers.{number}", f"{owner}.{number}", number == 0, True)
    if config.final_norm:
        norm("model.norm", "decoder.final_layernorm")
    return tensors


LEGACY = [
    ("cross_attention.encoder.", "retriever."),
    ("decoder.final_layernorm", "encoder.final_norm"),
    ("decoder.", "encoder."),
    ("input_layernorm", "input_norm"),
    ("self_attention.linear_qkv", "self_attention.query_key_value"),
    ("self_attention.linear_proj", "self_attention.dense"),
    ("cross_attention.attn.linear_q.", "inter_attention.query."),
    ("cross_attention.attn.linear_kv", "inter_attention.key_value"),
    ("cross_attention.attn.linear_proj", "inter_attention.dense"),
    ("pre_cross_attn_layernorm", "post_attention_norm"),
    ("linear_fc1", "dense_h_to_4h"),
    ("linear_fc2", "dense_4h_to_h"),
]


def legacy_tensors(model, effective=0):
    """Legacy Megatron's names -> whole tensors."""
    tensors = {}
    for name, tensor in core_tensors(model, effective).items():
        owner = name[: name.find("pre_mlp_layernorm")]
        crosses = "pre_mlp_layernorm.norm" in name or f"{owner}pre_cross_attn_layernorm.weight" in core_names(model)
        after = "post_inter_attention_norm" if crosses else "post_attention_norm"
        name = name.replace("pre_mlp_layernorm.norm", after).replace("pre_mlp_layernorm", after)
        for core, legacy in LEGACY:
            name = name.replace(core, legacy)
        tensors[name] = tensor
    return tensors


def core_names(model):
    return {f"decoder.layers.{layer}.pre_cross_attn_layernorm.weight" for layer in model.config.cross_attention_layers}


def rank_tensors(tensors, rank, size):
    """The part of whole tensors that one tensor-parallel rank holds."""
    part = {}
    for name, tensor in tensors.items():
        if "norm" in name:
            part[name] = tensor.clone()
        elif name.endswith(("dense.weight", "dense_4h_to_h.weight", "linear_proj.weight", "linear_fc2.weight")):
            part[name] = tensor.chunk(size, dim=1)[rank].clone()
        elif "dense_h_to_4h" in name or "linear_fc1" in name:
            part[name] = torch.cat([half.chunk(size)[rank] for half in tensor.chunk(2)])
        else:
            part[name] = tensor.chunk(size)[rank].clone()
    return part


def nested(tensors):
    """Legacy Megatron's nesting of names."""
    return {
        "language_model": {
            "embedding": {"word_embeddings": {"weight": tensors["embedding.word_embeddings.weight"]}},
            "encoder": {
                name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")
            },
            "output_layer": {"weight": tensors["output_layer.weight"]} if "output_layer.weight" in tensors else {},
        }
    }


def shard_path(folder, rank):
    return Path(folder) / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"


def save_shard(folder, rank, state, args, **more):
    path = shard_path(folder, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": state, **more}, path)
    return path


def save_legacy(folder, model, size=1, tensors=None, more=None, **changes):
    """A legacy folder of `size` tensor-parallel ranks."""
    whole = legacy_tensors(model) if tensors is None else tensors
    args = arguments(model, tensor_model_parallel_size=size, **changes)
    for rank in range(size):
        save_shard(folder, rank, nested(rank_tensors(whole, rank, size)), args, **(more or {}))
    (Path(folder) / "latest_checkpointed_iteration.txt").write_text("1")
    return Path(folder)


def save_distributed(folder, tensors, args, size=1):
    """A `torch_dist` folder: matrices in `size` parts by rows, one file for all, described as torch describes it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described, places = {}, {}
    with open(folder / "__0_0.distcp", "wb") as file:
        for name, tensor in tensors.items():
            chunks, row = [], 0
            for part in tensor.chunk(size if tensor.dim() > 1 else 1):
                start = torch.Size((row, *(0,) * (tensor.dim() - 1)))
                row += len(part)
                data = io.BytesIO()
                torch.save(part.clone(), data)
                info = filesystem._StorageInfo("__0_0.distcp", file.tell(), len(data.getvalue()))
                places[metadata.MetadataIndex(name, start)] = info
                chunks.append(metadata.ChunkStorageMetadata(start, part.shape))
                file.write(data.getvalue())
            properties = metadata.TensorProperties(dtype=tensor.dtype)
            described[name] = metadata.TensorStorageMetadata(properties, tensor.shape, chunks)
    description = metadata.Metadata(described, storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(description))
    torch.save({"args": args, "iteration": 1, "checkpoint_version": 3.0}, folder / "common.pt")
    return folder
