"""Pretrained folders made here: a tiny Llama and a tiny Qwen3, as transformers writes them."""

import pytest
import torch
from tokenizers import Tokenizer

from catalog.errors import BadInput, UsageError
from catalog.tokenizer import train
from training.warm_start import from_pretrained, with_vocabulary

TEXTS = ["the cook shakes the sieve and the flour falls", "a second text about other matters entirely"]
SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(params=["llama", "llama untied", "qwen3"])
def pretrained(request, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    if request.param == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=request.param == "llama"))
    model.eval().save_pretrained(tmp_path / "pretrained")
    return model, tmp_path / "pretrained"


def test_a_pretrained_folder_becomes_our_network_with_its_logits(pretrained):
    theirs, folder = pretrained
    network = from_pretrained(folder)
    tokens = torch.randint(320, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(tokens, torch.zeros_like(tokens)), theirs(tokens).logits, atol=1e-5, rtol=0)


def test_with_its_own_tokenizer_only_the_context_changes(pretrained):
    theirs, folder = pretrained
    text = train(iter(TEXTS * 50), vocab_size=320, length=100)
    tokenizer = Tokenizer.from_str(text)
    network = with_vocabulary(from_pretrained(folder), tokenizer, tokenizer, context=16)
    tokens = torch.randint(tokenizer.get_vocab_size(), (2, 16), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        network(tokens, torch.zeros_like(tokens)),
        theirs(tokens).logits[..., : tokenizer.get_vocab_size()],
        atol=1e-5,
        rtol=0,
    )


def test_a_token_that_they_do_not_know_is_the_mean_of_its_pieces(pretrained):
    _, folder = pretrained
    theirs = Tokenizer.from_str(train(iter(TEXTS[1:] * 50), vocab_size=270, length=50))
    ours = Tokenizer.from_str(train(iter(TEXTS[:1] * 50), vocab_size=280, length=50))
    source = from_pretrained(folder)
    network = with_vocabulary(source, theirs, ours, context=64)
    rows = source.model.embed_tokens.weight
    new = [token for token in ours.get_vocab() if theirs.token_to_id(token) is None]
    assert new
    for token in new:
        index = ours.token_to_id(token)
        pieces = theirs.encode(ours.decode([index]), add_special_tokens=False).ids
        assert len(pieces) > 1
        torch.testing.assert_close(network.model.embed_tokens.weight[index], rows[pieces].mean(0))
    with pytest.raises(UsageError, match="packs of context 65 for a model of 64 positions"):
        with_vocabulary(source, theirs, ours, context=65)


def test_what_our_trunk_does_not_have_is_refused_by_name(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)).save_pretrained(tmp_path / "biased")
    with pytest.raises(BadInput, match="biased has attention_bias True: expected a plain Llama"):
        from_pretrained(tmp_path / "biased")
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="model_type 'gpt2'"):
        from_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="nowhere is not a model that transformers loads"):
        from_pretrained(tmp_path / "nowhere")
