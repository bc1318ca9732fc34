"""An export is a plain Llama: it loads without this project and computes the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import BadInput
from catalog.tokenizer import BpeTokenizer, train
from training.config import ModelConfig
from training.export import export
from training.folder import write_model
from training.generate import Sampling, generate
from training.model import Llama

TEXTS = [
    "The derivative of a polynomial is a polynomial, of lower degree.\n",
    "Über 100 漢字 and <|endoftext|> 😀",
] * 40

LOAD = """
import json, sys
sys.path = [p for p in sys.path if p != ROOT]
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
assert not any(name in sys.modules for name in ("catalog", "training", "dataops", "clusters"))
print(json.dumps({"class": type(model).__name__, "ids": ids, "text": tokenizer.decode(ids[1:]),
                  "logits": logits.tolist(), "tokens": len(tokenizer)}))
""".replace("ROOT", repr(str(Path(__file__).parents[2])))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train(iter(TEXTS), vocab_size=400, length=len(TEXTS)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> tuple[Llama, Path]:
    bpe = BpeTokenizer(tokenizer)
    shape = ModelConfig(
        vocab_size=bpe.vocab_size,
        context=64,
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=48,
    )
    network = Llama(shape)
    network.initialise(3)
    folder = tmp_path_factory.mktemp("model")
    write_model(network, folder, end_of_text=bpe.end_of_text)
    return network, folder


def test_a_process_without_this_project_loads_it_with_equal_logits_and_tokens(tmp_path, model, tokenizer):
    network, folder = model
    out = export(folder, tokenizer_json=tokenizer, out=tmp_path / "export", card="# a card\n")
    text = TEXTS[1]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(out), text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs = json.loads(ran.stdout)
    bpe = BpeTokenizer(tokenizer)
    tokens = torch.tensor([theirs["ids"]])
    with torch.no_grad():
        ours = network(tokens, torch.zeros_like(tokens))[0].numpy()
    assert theirs["class"] == "LlamaForCausalLM"
    assert theirs["tokens"] == bpe.vocab_size
    assert theirs["ids"][0] == bpe.end_of_text
    assert np.abs(ours - np.array(theirs["logits"])).max() < 1e-5


def test_the_exported_tokenizer_adds_nothing_but_end_of_text_in_front(tmp_path, model, tokenizer):
    from transformers import AutoTokenizer

    out = export(model[1], tokenizer_json=tokenizer, out=tmp_path / "export", card="")
    bpe = BpeTokenizer(tokenizer)
    plain = "The degree of a polynomial 😀"
    assert AutoTokenizer.from_pretrained(out)(plain)["input_ids"] == [bpe.end_of_text, *bpe.encode([plain])[0].tolist()]


def test_an_export_replaces_an_older_one_as_a_whole(tmp_path, model, tokenizer):
    out = tmp_path / "export"
    export(model[1], tokenizer_json=tokenizer, out=out, card="old")
    (out / "left over").write_text("x")
    export(model[1], tokenizer_json=tokenizer, out=out, card="new")
    assert (out / "README.md").read_text() == "new"
    assert not (out / "left over").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path, model, tokenizer):
    other = tmp_path / "other.json"
    words = [f"{number} is written {number:b} and {number:x}" for number in range(3000)]
    other.write_text(train(iter(words), vocab_size=2000, length=len(words)))
    with pytest.raises(BadInput, match="vocabulary is"):
        export(model[1], tokenizer_json=other, out=tmp_path / "export", card="")


def test_greedy_generation_takes_the_likeliest_token_each_time(model, tokenizer):
    network, folder = model
    bpe = BpeTokenizer(tokenizer)
    prompt = "The derivative"
    text = generate(folder, prompt, tokenizer_json=tokenizer, sampling=Sampling(max_tokens=8, temperature=0))
    tokens = [bpe.end_of_text, *bpe.encode([prompt])[0].tolist()]
    begin = len(tokens)
    for _ in range(8):
        row = torch.tensor([tokens])
        with torch.no_grad():
            tokens.append(int(network(row, torch.zeros_like(row))[0, -1].argmax()))
        if tokens[-1] == bpe.end_of_text:
            break
    assert text == bpe.decode(tokens[begin:])


def test_equal_seeds_give_equal_texts_and_other_seeds_others(model, tokenizer):
    def sample(seed: int) -> str:
        sampling = Sampling(max_tokens=40, temperature=1.0, top_p=1.0, seed=seed)
        return generate(model[1], "A", tokenizer_json=tokenizer, sampling=sampling)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
