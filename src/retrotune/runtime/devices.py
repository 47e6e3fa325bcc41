"""GPUs of this computer, and the devices that torch works on. The one place that looks for them."""

import os
import re
from pathlib import Path

from retrotune.runtime.log import logger


def visible_gpus() -> int:
    """GPUs of NVIDIA or AMD that this process may use. No library is asked, which would take some of their memory."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        visible = os.environ.get(variable)
        if visible is not None:
            return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    nvidia = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if nvidia or not Path("/dev/kfd").exists():
        return len(nvidia)
    return len(list(Path("/dev/dri").glob("renderD*")))


def torch_devices() -> list[str]:
    """Every GPU that torch can use, by name; without any, the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def gpu_uuid(number: int) -> str:
    """The UUID, as NVIDIA's driver writes it, of the GPU to which torch gives this number."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(number).uuid}"


def device_name(device: str) -> str:
    """A device as records name it: `cpu`, or the GPU's name."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def torch_facts(device: str, dtype: str) -> dict[str, str | int]:
    """What a log says of how torch computes: the device by its name, the type of weights, CPU threads."""
    import torch

    name = device_name(device).replace(" ", "-")
    return {"device": name, "dtype": dtype, "threads": torch.get_num_threads()}


def torch_device() -> str:
    """Where torch computes: `cuda` if it can use a GPU, else `cpu`. GPUs that it cannot use are named in the log."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if gpus := visible_gpus():
        logger.warning(
            "%d GPUs are in sight, but torch %s cannot use them and works on the CPU: install torch for this driver "
            "(envs/gpu.yaml)",
            gpus,
            torch.__version__,
        )
    return "cpu"
