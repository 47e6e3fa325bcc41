"""Base models. Importing this package registers RETRO with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.modeling import RetroForCausalLM, RetroModel

__all__ = ["RetroConfig", "RetroForCausalLM", "RetroModel"]

AutoConfig.register(RetroConfig.model_type, RetroConfig, exist_ok=True)
AutoModel.register(RetroConfig, RetroModel, exist_ok=True)
AutoModelForCausalLM.register(RetroConfig, RetroForCausalLM, exist_ok=True)
