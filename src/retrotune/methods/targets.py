"""Which modules of a decoder the methods change: the self-attention and the MLP of every numbered layer.

The names cover this package's own models (decoder and neighbor encoder alike) and the decoders of the model hub. The
cross-attention, to neighbors or to chunks, is no target: the authors leave it as it is.
"""

import re

from torch import nn

from retrotune.errors import MethodError

_LAYER = r".*\.\d+\."
SELF_ATTENTION = _LAYER + r"(?:self_attention|self_attn|attention|attn)"
"""Full name of a layer's self-attention, as a regular expression."""
MLP = _LAYER + r"(?:mlp|feed_forward)"
"""Full name of a layer's MLP, as a regular expression."""
QUERY_KEY_VALUE = SELF_ATTENTION + r"(?:\.attention)?\.(?:[qkv]_proj|query_key_value|qkv_proj|c_attn|Wqkv)"
"""Full names of a self-attention's query, key and value projections, or of its fused one."""
NEIGHBOR_ENCODER = "neighbor_encoder"
"""The part of a module's name that says that it belongs to RETRO's neighbor encoder."""


def in_encoder(name: str) -> bool:
    """Whether a module's full name lies in the neighbor encoder."""
    return NEIGHBOR_ENCODER in name.split(".")


def find(model: nn.Module, pattern: str, what: str, method: str) -> list[str]:
    """Names of `model`'s modules that match `pattern` as a whole; `MethodError` if there is none."""
    names = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if not names:
        parts = sorted(
            {match[1] for name, _ in model.named_modules() if (match := re.fullmatch(_LAYER + "(.+)", name))}
        )
        raise MethodError(
            f"{method}: no {what} found in {type(model).__name__}, whose layers hold {', '.join(parts) or 'nothing'}; "
            f"add its name to the patterns in {__name__}"
        )
    return names
