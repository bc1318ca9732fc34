"""An exported folder in a process that has transformers but none of our packages."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from catalog.errors import BadInput, UsageError
from catalog.tokenizer import END_OF_TEXT, train
from training.config import ModelConfig
from training.expert import project
from training.export import export
from training.family import Projected, Recurrent
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


SHAPE = ModelConfig(
    vocab_size=VOCABULARY,
    context=24,
    num_layers=3,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
    rope_theta=5000.0,
)
MANY = Projected(experts=3, banks=2, cells=3)


def network_of(kind: str) -> Llama:
    """An expert of a projected network, far from its start; a Qwen3 decoder with an untied head; ..."""
    shapes = {
        "llama": SHAPE,
        "qwen3": replace(SHAPE, qk_norm=True, tied=False, head_width=16),
        "mup": replace(SHAPE, mup_width=16),
        "expert": replace(SHAPE, family=MANY),
        "recurrent": replace(SHAPE, family=Recurrent()),
    }
    network = Llama(shapes[kind])
    network.initialise(1)
    if kind != "expert":
        return network
    with torch.no_grad():
        network.model.experts.normal_(generator=torch.Generator().manual_seed(0))
    return project(network, np.array([0.2, 0.7, 0.1]))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    write_model(network_of("llama"), folder, end_of_text=0)
    return folder


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mup": "LlamaForCausalLM",
    "expert": "LlamaForCausalLM",
    "recurrent": "TamisRecurrentForCausalLM",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tokenizer_json, elsewhere):
    """Every kind exported, and what a process elsewhere finds in its folder."""
    folder, found = tmp_path_factory.mktemp("exported"), {}
    for kind in ARCHITECTURES:
        write_model(network_of(kind), folder / "models" / kind, end_of_text=0)
        export(folder / "models" / kind, tokenizer_json=tokenizer_json, out=folder / kind, card="# A card\n")
        found[kind] = elsewhere.load(folder / kind, TEXTS, own_code=kind == "recurrent")
    return folder, found


@pytest.fixture(scope="module")
def llama(loaded):
    folder, found = loaded
    return folder / "llama", found["llama"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_transformers_without_this_project_computes_our_logits(loaded, kind):
    folder, found = loaded[0], loaded[1][kind]
    assert found["class"] == ARCHITECTURES[kind]
    network = network_of(kind)
    for each in found["out"]:
        tokens = torch.tensor([each["ids"]])
        ours = network(tokens, torch.zeros_like(tokens))[0].detach().numpy()
        np.testing.assert_allclose(ours, np.array(each["logits"], np.float32), atol=1e-5)
    assert "tamis" not in json.loads((folder / kind / "config.json").read_text()) or kind == "recurrent"


def test_a_model_of_several_experts_is_not_exported(tmp_path, tokenizer_json):
    network = Llama(replace(SHAPE, family=MANY))
    network.initialise(0)
    write_model(network, tmp_path / "many", end_of_text=0)
    with pytest.raises(UsageError, match="a projected model is several: choose one with `tamis step project`"):
        export(tmp_path / "many", tokenizer_json=tokenizer_json, out=tmp_path / "out", card="")


def test_the_tokenizer_round_trips_and_adds_only_a_leading_end_of_text(llama, tokenizer_json):
    ours = Tokenizer.from_file(str(tokenizer_json))
    for text, each in zip(TEXTS, llama[1]["out"], strict=True):
        assert each["bare"] == ours.encode(text, add_special_tokens=False).ids
        assert each["ids"] == [0, *each["bare"]]
        assert each["decoded"] == text
    assert llama[1]["special"] == [END_OF_TEXT]


def test_our_greedy_tokens_are_those_of_transformers(llama, model_dir):
    network = read_model(model_dir, device=torch.device("cpu"))
    tokens = [0, 5, 6]
    while len(tokens) < len(llama[1]["greedy"]):
        window = torch.tensor([tokens])
        tokens.append(pick(network(window, torch.zeros_like(window))[0, -1].detach(), Sampling(temperature=0), None))
    assert tokens == llama[1]["greedy"]


def test_the_folder_holds_every_file_and_the_card(llama):
    assert {path.name for path in llama[0].iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (llama[0] / "README.md").read_text() == "# A card\n"
    assert model_config(llama[0]).rope_theta == 5000.0


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


def test_a_recurrent_model_generates_from_its_state_what_it_would_from_the_whole_text(tmp_path, tokenizer_json, local):
    network = network_of("recurrent")
    write_model(network, tmp_path / "model", end_of_text=0)
    sampling = Sampling(max_tokens=12, temperature=0)
    text = generate(tmp_path / "model", "The cook", tokenizer_json=tokenizer_json, sampling=sampling, context=local)
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokens = [0, *tokenizer.encode("The cook", add_special_tokens=False).ids]
    begin = len(tokens)
    for _ in range(12):
        window = torch.tensor([tokens])
        tokens.append(int(network(window, torch.zeros_like(window))[0, -1].argmax()))
        if tokens[-1] == 0:
            break
    assert text == tokenizer.decode(tokens[begin:])


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
