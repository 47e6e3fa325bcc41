"""Records of methods: what follows from them, and what they are refused for before anything is trained."""

import subprocess
import sys
from dataclasses import replace
from typing import Literal

import pytest
import torch
from methods_cases import ADAPTER, FULL, LORA, PTUNING, method_id, perturb, tiny_model
from peft import IA3Config, LoraConfig, get_peft_model

from retrotune import methods
from retrotune.errors import ConfigError, MethodError
from retrotune.methods import METHODS, Method, MethodSchema, Shape, TrainedMethod, attach, fingerprint, storage
from retrotune.methods.base import FinetuningOverride
from retrotune.study.config import Config, Finetuning, ZeroshotMethod


class OddMethod(TrainedMethod):
    """A method that tests register for themselves."""

    kind: Literal["odd"]
    more: bool = False


ODD = OddMethod(kind="odd")


def wrapped(model, entry):
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))


def odd(**changes):
    values = {"schema": OddMethod, "attach": wrapped, "saves": "adapter", "peft_type": "LORA", "prefix": "lora_"}
    return Method(**(values | changes))


@pytest.fixture
def register(monkeypatch):
    return lambda record: monkeypatch.setitem(METHODS, record.kind, record)


@pytest.mark.parametrize("module", ["retrotune.study.config", "retrotune.methods", "retrotune.study.cells"])
def test_records_import_nothing_heavy(module):
    heavy = ["torch", "peft", "transformers", "pandas", "safetensors", "numpy"]
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_storage_makes_peft_know_every_method():
    script = (
        "import retrotune.methods.storage; from retrotune.methods import METHODS; from peft import PeftType; "
        "print([r.kind for r in METHODS.values() if r.peft_type and r.peft_type not in list(PeftType)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_schema_of_a_study_lists_every_record():
    kinds = Config.model_json_schema()["properties"]["methods"]["patternProperties"].values()
    assert [list(kind["discriminator"]["mapping"]) for kind in kinds] == [sorted(METHODS)]
    assert all(METHODS[kind].kind == kind for kind in METHODS)


def test_names_of_the_package_resolve():
    assert all(getattr(methods, name) is not None for name in methods.__all__)
    with pytest.raises(AttributeError, match="no attribute 'attatch'"):
        _ = methods.attatch


@pytest.mark.parametrize("family", ["llama", "gpt", "retro"])
@pytest.mark.parametrize("entry", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_formulas_give_what_is_trained(family, entry):
    model = tiny_model(family, **({} if family == "llama" else {"num_key_value_heads": 2, "head_dim": 6}))
    shape = Shape.of(model.config)
    assert methods.count_parameters(attach(model, entry))[0] == METHODS[entry.kind].num_parameters(entry, shape)


def test_overrides_follow_the_recipe():
    fields, overrides = Finetuning.model_fields, FinetuningOverride.model_fields
    assert list(overrides) == list(fields)
    assert all(overrides[name].description == fields[name].description for name in fields)
    assert FinetuningOverride().model_dump(exclude_none=True) == {}
    schema = FinetuningOverride.model_json_schema()["properties"]
    for name, plain in Finetuning.model_json_schema()["properties"].items():
        options = [option for option in plain.get("anyOf", [plain]) if option.get("type") != "null"]
        constraints = [{k: v for k, v in o.items() if k not in ("default", "description", "title")} for o in options]
        assert schema[name]["anyOf"] == [*constraints, {"type": "null"}]
    for wrong in ({"learning_rate": 0}, {"batch_size": 0}, {"beta1": 1.5}, {"max_steps": 0}, {"learning_rte": 1}):
        with pytest.raises(ValueError, match="FinetuningOverride"):
            FinetuningOverride(**wrong)


def test_recipes():
    defaults = Finetuning(batch_size=3)
    assert OddMethod(kind="odd", finetuning={"epochs": 9}).recipe(defaults) == Finetuning(batch_size=3, epochs=9)
    assert ZeroshotMethod(kind="zeroshot").recipe(defaults) is None
    assert [entry.trained for entry in (ODD, FULL, ZeroshotMethod(kind="zeroshot"))] == [True, True, False]
    raw = {"study": "s", "datasets": {}, "retrievals": {}, "models": {}, "grid": [{"retrievals": ["none"]}]}
    config = Config.model_validate({**raw, "methods": {"z": {"kind": "zeroshot"}}})
    with pytest.raises(ConfigError, match=r"methods\.z is zeroshot and is not trained"):
        config.finetuning_of("z")


class Nameless(TrainedMethod):
    """A schema that has forgotten its kind."""


class Untrained(MethodSchema):
    """A schema of a method that trains nothing."""

    kind: Literal["odd"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": None}, "odd: an adapter needs a peft_type; add it to the method's record"),
        ({"prefix": None}, "odd: an adapter needs a prefix; add it"),
        ({"prefix": ""}, "odd: an adapter needs a prefix; add it"),
        ({"prefix": "lora"}, "odd: prefix 'lora' must end in _"),
        ({"prefix": "a.b_"}, r"odd: prefix 'a\.b_' must end in _ and hold no dot"),
        ({"saves": "model"}, "odd: a peft_type, prefix or extension is an adapter's; remove it"),
        ({"saves": "nothing"}, "odd: saves 'nothing'; derive OddMethod from MethodSchema"),
        ({"schema": Untrained}, "odd: saves 'adapter'; derive Untrained from TrainedMethod"),
        ({"schema": Nameless}, "Nameless: names no method; give it `kind: Literal"),
    ],
)
def test_records_that_lack_something(changes, message):
    with pytest.raises(MethodError, match=message):
        odd(**changes)


def trains_nothing(model, entry):
    return wrapped(model, entry).requires_grad_(False)


def trains_the_base_too(model, entry):
    attached = wrapped(model, entry)
    attached.get_base_model().get_input_embeddings().requires_grad_(True)
    return attached


def plain(model, entry):
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "odd: attach made LORA, but the record's peft_type is IA3; correct one of them"),
        ({"attach": trains_nothing}, "odd: trains nothing; unfreeze its weights in attach"),
        ({"attach": trains_the_base_too}, r"odd: trains .*embed_tokens\.weight, whose name does not carry .* lora_"),
        ({"prefix": "mine_"}, r"odd: trains .*lora_A.*, whose name does not carry the prefix mine_"),
        ({"prefix": "embed_"}, r"odd: model\.embed_tokens\.weight of the base model is named like the method's own"),
        ({"attach": plain}, "odd: attach returned LlamaForCausalLM, but the record saves 'adapter'"),
        (
            {"saves": "model", "peft_type": None, "prefix": None},
            "odd: attach returned PeftModelForCausalLM, but the record saves 'model'",
        ),
    ],
)
def test_attaching_refuses_what_could_not_be_saved(register, changes, message):
    register(odd(**changes))
    with pytest.raises(MethodError, match=message):
        attach(tiny_model("llama"), ODD)


def test_a_method_that_saves_nothing_must_train_nothing(register):
    register(replace(METHODS["zeroshot"], attach=plain))
    with pytest.raises(MethodError, match=r"zeroshot: trains .* but saves nothing; freeze it in attach"):
        attach(tiny_model("llama"), ZeroshotMethod(kind="zeroshot"))


def test_whole_models_must_train_something(register):
    register(replace(METHODS["full"], attach=lambda model, entry: model.requires_grad_(False)))
    with pytest.raises(MethodError, match="full: trains nothing"):
        attach(tiny_model("llama"), FULL)


def test_two_methods_of_one_peft_type_keep_their_names(register, tmp_path):
    register(odd())
    model = attach(tiny_model("llama"), ODD)
    perturb(model)
    storage.save_trained(model, tmp_path / "adapter")
    loaded = storage.load_trained(tiny_model("llama"), tmp_path / "adapter")
    storage.save_trained(loaded, tmp_path / "again")
    manifests = [(tmp_path / folder / "retrotune.json").read_text() for folder in ("adapter", "again")]
    assert '"odd"' in manifests[0]
    assert manifests[0] == manifests[1]


def test_a_part_of_the_weights_can_be_what_is_trained(register, tmp_path):
    def last_layer(model, entry):
        model.requires_grad_(False).model.layers[-1].requires_grad_(True)
        return model

    register(odd(attach=last_layer, saves="model", peft_type=None, prefix=None))
    model = attach(tiny_model("llama"), ODD)
    storage.save_trained(model, tmp_path / "adapter")
    loaded = storage.load_trained(tiny_model("llama"), tmp_path / "adapter")
    assert all(torch.equal(*both) for both in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_new_prefix_leaves_fingerprints_as_they_are(register):
    before = [fingerprint(tiny_model("llama")), fingerprint(attach(tiny_model("llama"), LORA))]
    register(odd(peft_type="IA3", prefix="embed_"))
    assert [fingerprint(tiny_model("llama")), fingerprint(attach(tiny_model("llama"), LORA))] == before
    assert before[0] == before[1]


def test_saving_and_loading_know_the_registered_methods_only(register, tmp_path):
    with pytest.raises(MethodError, match="LlamaForCausalLM has no method of this package: make it with attach"):
        storage.save_trained(tiny_model("llama"), tmp_path / "adapter")
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    with pytest.raises(MethodError, match="has no method of this package"):
        storage.save_trained(get_peft_model(tiny_model("llama"), config), tmp_path / "adapter")
    storage.save_trained(attach(tiny_model("llama"), LORA), tmp_path / "adapter")
    manifest = tmp_path / "adapter" / "retrotune.json"
    manifest.write_text(manifest.read_text().replace('"lora"', '"lorra"'))
    with pytest.raises(MethodError, match="trained by the unknown method 'lorra'; known: zeroshot, lora"):
        storage.load_trained(tiny_model("llama"), tmp_path / "adapter")
