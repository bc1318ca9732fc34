"""An exported folder in a process that has transformers but none of our packages."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from catalog.errors import BadInput
from catalog.tokenizer import END_OF_TEXT, train
from training.config import ModelConfig
from training.export import export
from training.folder import model_config, read_model, write_model
from training.generate import Sampling, generate, pick
from training.model import Llama

TEXTS = ["The cook shakes the sieve.", "  two  spaces,\n\nlines\tand tabs ", "naïve Ærø 漢字 🙂", "", "it's 1,234.5"]
VOCABULARY = 320


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train(iter(TEXTS * 20), vocab_size=VOCABULARY, length=len(TEXTS) * 20))
    return path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    shape = ModelConfig(
        vocab_size=VOCABULARY,
        context=24,
        num_layers=3,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=64,
        rope_theta=5000.0,
    )
    network = Llama(shape)
    network.initialise(1)
    folder = tmp_path_factory.mktemp("model") / "m"
    write_model(network, folder, end_of_text=0)
    return folder


CHILD = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("catalog", "dataops", "training", "clusters"):
            raise ImportError(name + " belongs to the project that exported the model")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
model.eval()
out = []
for text in texts:
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].tolist()
    bare = tokenizer.encode(text, add_special_tokens=False)
    out.append({"ids": ids, "bare": bare, "decoded": tokenizer.decode(bare), "logits": logits})
greedy = model.generate(torch.tensor([[0, 5, 6]]), max_new_tokens=8, do_sample=False)[0].tolist()
kind = type(model).__name__
print("RESULT" + json.dumps({"out": out, "greedy": greedy, "kind": kind, "special": tokenizer.all_special_tokens}))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, tokenizer_json, model_dir):
    folder = tmp_path_factory.mktemp("elsewhere")
    out = export(model_dir, tokenizer_json=tokenizer_json, out=folder / "exported", card="# A card\n")
    child = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, str(out), json.dumps(TEXTS)], cwd=folder, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return out, json.loads(child.stdout.split("RESULT")[1])


def test_plain_transformers_computes_our_logits(elsewhere, model_dir):
    network, found = read_model(model_dir, device=torch.device("cpu")), elsewhere[1]
    assert found["kind"] == "LlamaForCausalLM"
    for each in found["out"]:
        tokens = torch.tensor([each["ids"]])
        ours = network(tokens, torch.zeros_like(tokens))[0].detach().numpy()
        np.testing.assert_allclose(ours, np.array(each["logits"], np.float32), atol=1e-5)


def test_the_tokenizer_round_trips_and_adds_only_a_leading_end_of_text(elsewhere, tokenizer_json):
    ours = Tokenizer.from_file(str(tokenizer_json))
    for text, each in zip(TEXTS, elsewhere[1]["out"], strict=True):
        assert each["bare"] == ours.encode(text, add_special_tokens=False).ids
        assert each["ids"] == [0, *each["bare"]]
        assert each["decoded"] == text
    assert elsewhere[1]["special"] == [END_OF_TEXT]


def test_our_greedy_tokens_are_those_of_transformers(elsewhere, model_dir):
    network = read_model(model_dir, device=torch.device("cpu"))
    tokens = [0, 5, 6]
    while len(tokens) < len(elsewhere[1]["greedy"]):
        window = torch.tensor([tokens])
        tokens.append(pick(network(window, torch.zeros_like(window))[0, -1].detach(), Sampling(temperature=0), None))
    assert tokens == elsewhere[1]["greedy"]


def test_the_folder_holds_every_file_and_the_card(elsewhere):
    assert {path.name for path in elsewhere[0].iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (elsewhere[0] / "README.md").read_text() == "# A card\n"
    assert model_config(elsewhere[0]).rope_theta == 5000.0


def test_a_tokenizer_with_another_end_of_text_is_refused(tmp_path, tokenizer_json, model_dir):
    described = json.loads(tokenizer_json.read_text())
    described["added_tokens"][0]["content"] = "<s>"
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(described))
    with pytest.raises(BadInput, match="the model wants only"):
        export(model_dir, tokenizer_json=other, out=tmp_path / "out", card="")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, model_dir):
    words = [f"{number} is written {number:b} and {number:x}" for number in range(3000)]
    other = tmp_path / "tokenizer.json"
    other.write_text(train(iter(words), vocab_size=VOCABULARY + 1, length=len(words)))
    with pytest.raises(BadInput, match=f"has {VOCABULARY + 1} tokens, the model's vocabulary is {VOCABULARY}"):
        export(model_dir, tokenizer_json=other, out=tmp_path / "out", card="")


def test_an_export_replaces_an_older_one_as_a_whole(tmp_path, model_dir, tokenizer_json):
    out = tmp_path / "out"
    export(model_dir, tokenizer_json=tokenizer_json, out=out, card="old")
    (out / "left over").write_text("x")
    export(model_dir, tokenizer_json=tokenizer_json, out=out, card="new")
    assert (out / "README.md").read_text() == "new"
    assert not (out / "left over").exists()


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path} is not a model folder"):
        model_config(tmp_path)


def test_generation_is_a_function_of_the_seed_and_slides_past_the_context(model_dir, tokenizer_json, local):
    def text(seed):
        sampling = Sampling(max_tokens=40, temperature=1.0, top_p=1.0, seed=seed)
        return generate(model_dir, "The cook", tokenizer_json=tokenizer_json, sampling=sampling, context=local)

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_top_k_and_top_p_keep_the_tokens_they_should():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def seen(**settings):
        return {pick(logits, Sampling(**{"temperature": 1.0, "top_p": 1.0, **settings}), generator) for _ in range(300)}

    assert seen() == {0, 1, 2, 3}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.6) == {0, 1}
    assert seen(top_p=0.4) == {0}
    assert seen(temperature=0.0) == {0}
