"""An exported model in llama.cpp, built from its registry package: the same tokens for a text, the same greedy ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from catalog.errors import UsageError
from catalog.tokenizer import BpeTokenizer, train
from training.config import ModelConfig
from training.export import export
from training.family import Recurrent
from training.folder import write_model
from training.gguf_file import write_gguf
from training.model import Llama

gguf = pytest.importorskip("gguf", reason="writing GGUF needs the package gguf: pip install tamis[gguf]")
TEXTS = ["The cook shakes the sieve.", "  two  spaces,\n\nlines\tand tabs ", "naïve Ærø 漢字 🙂", "it's 1,234.5"]
SHAPE = ModelConfig(
    vocab_size=400,
    context=64,
    num_layers=3,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    rope_theta=5000.0,
)


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def exported(request, tmp_path_factory):
    """A network whose logits are far apart, so that greedy tokens don't hang on the last bit, and its folder."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer_json = folder / "tokenizer.json"
    tokenizer_json.write_text(train(iter(TEXTS * 20), vocab_size=380, length=len(TEXTS) * 20))
    network = Llama(replace(SHAPE, qk_norm=request.param == "qwen3", tied=request.param == "llama"))
    network.initialise(1)
    with torch.no_grad():
        network.model.norm.weight.mul_(8)
    write_model(network, folder / "model", end_of_text=BpeTokenizer(tokenizer_json).end_of_text)
    out = export(folder / "model", tokenizer_json=tokenizer_json, out=folder / "exported", card="")
    return network, tokenizer_json, write_gguf(out, folder / "model.gguf", name="tiny")


def greedy(network, tokens, count):
    tokens = list(tokens)
    for _ in range(count):
        window = torch.tensor([tokens])
        with torch.no_grad():
            tokens.append(int(network(window, torch.zeros_like(window))[0, -1].argmax()))
    return tokens


def test_llama_cpp_splits_texts_and_generates_as_we_do(exported):
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install llama-cpp-python (builds it)")
    network, tokenizer_json, path = exported
    tokenizer = BpeTokenizer(tokenizer_json)
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    for text in TEXTS:
        ids = [tokenizer.end_of_text, *tokenizer.encode([text])[0].tolist()]
        assert model.tokenize(text.encode(), add_bos=True, special=False) == ids
        model.reset()
        model.eval(ids)
        window = torch.tensor([ids])
        with torch.no_grad():
            ours = network(window, torch.zeros_like(window))[0].numpy()
        # its products round through 16 bits on some processors
        np.testing.assert_allclose(np.array(model.scores[: len(ids)]), ours, atol=0.05)
        found = list(ids)
        for token, _ in zip(model.generate(ids, temp=0.0, top_k=1), range(16), strict=False):
            found.append(token)
        assert found == greedy(network, ids, 16)


def test_the_file_says_what_the_config_and_the_tokenizer_say(exported):
    network, tokenizer_json, path = exported
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    kind = "qwen3" if network.config.qk_norm else "llama"
    assert values["general.architecture"] == kind
    assert values[f"{kind}.rope.freq_base"] == 5000.0
    assert values[f"{kind}.attention.head_count_kv"] == 2
    assert values["tokenizer.ggml.pre"] == "gpt-2"
    vocabulary = json.loads(tokenizer_json.read_text())["model"]["vocab"]
    tokens = values["tokenizer.ggml.tokens"]
    assert len(tokens) == 400
    assert all(tokens[index] == token for token, index in vocabulary.items())
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_up.weight"], network.model.layers[1].mlp.up_proj.weight.detach().numpy()
    )
    assert len(tensors) == len(network.state_dict())


def test_a_family_that_llama_cpp_does_not_know_is_refused(tmp_path):
    network = Llama(replace(SHAPE, family=Recurrent()))
    network.initialise(0)
    write_model(network, tmp_path / "model", end_of_text=0)
    with pytest.raises(UsageError, match=r"llama.cpp has no architecture for the family recurrent"):
        write_gguf(tmp_path / "model", tmp_path / "out.gguf", name="x")
