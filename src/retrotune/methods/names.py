"""Names of the methods that peft does not have: their peft types, and what the names of their weights begin with.

A peft that does not know a type names it in its error; so it says what to import (`peft_extension.py`).
"""

ADAPTER_TYPE, ADAPTER_PREFIX = "ADAPTER__IMPORT_RETROTUNE_METHODS", "bottleneck_"
PTUNING_TYPE, PTUNING_PREFIX = "PTUNING__IMPORT_RETROTUNE_METHODS", "ptuning_"
