"""Every family against slower truths: loops for scans, explicit sums for banks, modules for counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from tests.training.conftest import CONTEXT, VOCABULARY
from tests.training.ranks import on_ranks
from training.config import ModelConfig, TrainConfig
from training.expert import Experts, grown, one_expert, project
from training.family import FAMILIES, Decoder, Mixture, Projected, Recurrent, Soup
from training.folder import hf_config, read_model, read_network, write_mixture, write_model
from training.model import Llama, layout, targets
from training.optim import adamw, set_rate
from training.pretrain import pretrain
from training.projected import ProjectedMLP
from training.recurrent import _Scan, no_state, scan, step
from training.telemetry import read_metrics

CELLS = 4
TRAINED_WHOLE = {
    "decoder": Decoder(),
    "recurrent": Recurrent(),
    "projected": Projected(experts=CELLS, banks=2, cells=CELLS),
    "soup": Soup(experts=CELLS, banks=2, cells=CELLS),
}


def network_of(shape, family, seed=3):
    network = Llama(replace(shape, num_layers=3, family=family))
    network.initialise(seed)
    return network


def shaken(network):
    """Experts and banks that are far from equal, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("experts", "mixing", "_banks")):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


def some_tokens(rows=5):
    return torch.randint(VOCABULARY, (rows, CONTEXT), generator=torch.Generator().manual_seed(0))


def test_every_family_is_registered_under_its_kind():
    assert list(FAMILIES) == ["decoder", "recurrent", "projected", "soup", "mixture"]
    for kind, family in {**TRAINED_WHOLE, "mixture": Mixture(experts=2, cells=CELLS)}.items():
        assert FAMILIES[kind] is type(family)
        assert family.kind == kind


@pytest.mark.parametrize("kind", TRAINED_WHOLE)
@pytest.mark.parametrize("options", [{}, {"tied": False, "num_layers": 5}])
def test_registered_parameter_counts_are_those_of_the_modules(shape, kind, options):
    config = replace(shape, family=TRAINED_WHOLE[kind], **options)
    assert config.num_parameters == sum(p.numel() for p in Llama(config).parameters())


@pytest.mark.parametrize("kind", TRAINED_WHOLE)
def test_registered_flops_are_those_that_torch_counts(shape, kind):
    """Forward and backward are three times the forward products; attention is counted causal, so at half."""
    from torch.utils.flop_counter import FlopCounterMode

    family = TRAINED_WHOLE[kind]
    config = replace(shape, num_layers=3, num_kv_heads=4, family=family)
    network, tokens = network_of(config, family), some_tokens(1)
    with FlopCounterMode(display=False) as counter:
        network(tokens, torch.zeros_like(tokens), cells_B=np.zeros(1, np.int64))
    whole = 3 * counter.get_total_flops()
    attention = 0 if kind == "recurrent" else 6 * 3 * config.hidden_size * CONTEXT * CONTEXT
    scan_flops = 12 * 3 * config.hidden_size * CONTEXT if kind == "recurrent" else 0
    counted = config.flops_per_token * CONTEXT + config.flops_per_projection
    assert counted == pytest.approx(whole - attention + scan_flops, rel=0.02)


def test_a_projected_network_run_as_an_expert_equals_its_projection(shape):
    network, tokens = shaken(network_of(shape, TRAINED_WHOLE["projected"])), some_tokens()
    segments = torch.zeros_like(tokens)
    outputs = []
    for expert in range(CELLS):
        plain = project(network, one_expert(expert, CELLS))
        assert plain.config.family == Decoder()
        ours = network(tokens, segments, cells_B=np.full(len(tokens), expert))
        torch.testing.assert_close(ours, plain(tokens, segments), atol=1e-4, rtol=0)
        outputs.append(ours)
    assert all((outputs[0] - other).abs().max() > 1e-2 for other in outputs[1:])


def test_rows_of_a_projected_network_run_together_each_under_its_own_expert(shape):
    network, tokens = shaken(network_of(shape, TRAINED_WHOLE["projected"])), some_tokens()
    cells = np.array([3, 0, 3, 1, 2])
    together = network(tokens, torch.zeros_like(tokens), cells_B=cells)
    for row, cell in enumerate(cells):
        plain = project(network, one_expert(cell, CELLS))
        alone = plain(tokens[row : row + 1], torch.zeros_like(tokens[:1]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


def test_a_soup_runs_every_four_rows_under_their_histogram(shape):
    network, tokens = shaken(network_of(shape, TRAINED_WHOLE["soup"])), some_tokens(6)
    together = network(tokens, torch.zeros_like(tokens), cells_B=np.array([1, 0, 2, 1, 3, 0]))
    for rows, histogram in [(slice(0, 4), [0.25, 0.5, 0.25, 0]), (slice(4, 6), [0.5, 0, 0, 0.5])]:
        alone = project(network, np.array(histogram))(tokens[rows], torch.zeros_like(tokens[rows]))
        torch.testing.assert_close(together[rows], alone, atol=1e-4, rtol=0)


def test_a_row_of_no_cell_of_the_model_is_refused(shape):
    network, tokens = network_of(shape, TRAINED_WHOLE["projected"]), some_tokens(1)
    for cells in (np.zeros(0, np.int64), np.array([CELLS])):
        with pytest.raises(ValueError, match=f"for a model of {CELLS} cells"):
            network(tokens, torch.zeros_like(tokens), cells_B=cells)


def test_the_sum_of_banks_is_the_formula_and_so_is_its_gradient(shape):
    network = shaken(network_of(shape, TRAINED_WHOLE["projected"]))
    block = next(module for module in network.modules() if isinstance(module, ProjectedMLP))
    embedding = network.model.experts[2]
    gate, up, down = (each[0] for each in block.matrices(embedding[None]))
    for number, (made, banks) in enumerate([(gate, block.gate_banks), (up, block.up_banks), (down, block.down_banks)]):
        explicit = sum(
            embedding[q] * block.mixing[number, q, r] * banks[r] for q in range(CELLS) for r in range(len(banks))
        )
        torch.testing.assert_close(made, explicit)
        probe = torch.randn(made.shape, generator=torch.Generator().manual_seed(number))
        wanted = torch.autograd.grad((explicit * probe).sum(), (banks, block.mixing), retain_graph=True)
        found = torch.autograd.grad((made * probe).sum(), (banks, block.mixing), retain_graph=True)
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["projected", "soup"])
def test_every_expert_begins_as_the_decoder_of_that_seed_and_has_a_bank_of_its_own(shape, kind):
    family = TRAINED_WHOLE[kind]
    plain, network = network_of(shape, Decoder(), seed=5), network_of(shape, family, seed=5)
    for number in range(CELLS):
        expert = project(network, one_expert(number, CELLS)).state_dict()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(expert[name], tensor, atol=1e-6, rtol=0)
    block = next(module for module in network.modules() if isinstance(module, ProjectedMLP))
    assert block.mixing[:, 1].argmax(-1).tolist() == [1, 1, 1]
    torch.testing.assert_close(block.mixing.sum(-1), torch.ones(3, CELLS))


def test_a_grown_network_is_its_decoder_in_every_expert(shape):
    plain = network_of(shape, Decoder(), seed=5)
    network = grown(plain, replace(plain.config, family=TRAINED_WHOLE["projected"]))
    for number in range(CELLS):
        expert = project(network, one_expert(number, CELLS)).state_dict()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(expert[name], tensor, atol=1e-6, rtol=0)


def test_what_mixes_experts_is_not_decayed(shape):
    network = network_of(shape, TRAINED_WHOLE["projected"])
    optimizer = adamw(network, TrainConfig(tokens=1, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    free = {name for name, p in network.named_parameters() if id(p) not in decayed}
    assert all(name.endswith(("norm.weight", "experts", "mixing")) or "layernorm" in name for name in free)
    assert {name.rpartition(".")[2] for name in free} == {"weight", "experts", "mixing"}


@pytest.mark.parametrize("kind", [kind for kind in TRAINED_WHOLE if kind != "decoder"])
def test_every_family_learns_and_an_interrupted_run_resumes_to_its_bytes(tmp_path, pack, shape, local, kind):
    settings = TrainConfig(
        tokens=24 * 8 * CONTEXT,
        batch_rows=8,
        micro_batch_rows=4,
        learning_rate=1e-2,
        checkpoint_every=6,
        precision="fp32",
    )
    run = {
        "weights": None,
        "model": replace(shape, num_layers=3, family=TRAINED_WHOLE[kind]),
        "train": settings,
        "context": local,
    }

    def stop(progress):
        if progress.step == 9:
            raise InterruptedError

    whole = pretrain([pack], **run, run_dir=tmp_path / "whole")
    with pytest.raises(InterruptedError):
        pretrain([pack], **run, run_dir=tmp_path / "cut", on_progress=stop)
    resumed = pretrain([pack], **run, run_dir=tmp_path / "cut")
    one, other = ((each.model_dir / "model.safetensors").read_bytes() for each in (whole, resumed))
    assert one == other
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 1
    assert read_network(whole.model_dir, device=torch.device("cpu")).config == run["model"]


@pytest.mark.parametrize("kind", ["projected", "soup"])
def test_one_and_two_ranks_see_the_same_experts_and_give_the_same_bytes(tmp_path, pack, shape, kind):
    settings = TrainConfig(
        tokens=6 * 8 * CONTEXT, batch_rows=8, micro_batch_rows=4, precision="fp32", determinism="bitwise"
    )
    config = replace(shape, num_layers=3, family=TRAINED_WHOLE[kind])
    made = []
    for ranks in (1, 2):
        folder = tmp_path / f"{ranks}"
        folder.mkdir()
        run = {"weights": None, "model": config, "train": settings, "run_dir": folder}
        made.append(on_ranks(ranks, lambda rank, run=run: pretrain([pack], **run, context=rank))[0].model_dir)
    assert len({(folder / "model.safetensors").read_bytes() for folder in made}) == 1


def test_a_batch_that_would_cut_a_micro_batch_of_a_soup_is_refused(tmp_path, pack, shape, local, settings):
    config = replace(shape, family=TRAINED_WHOLE["soup"])
    with pytest.raises(UsageError, match="8 rows a batch, 3 a micro-batch"):
        pretrain([pack], weights=None, model=config, train=settings, run_dir=tmp_path / "run", context=local)


def test_fewer_experts_than_cells_share_neighbours():
    family = Projected(experts=2, banks=1, cells=5)
    assert family.histogram(np.array([1, 1, 1, 0, 1])).tolist() == [0.75, 0.25]
    assert family.histograms(np.array([0, 2, 3, 4])).argmax(1).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="6 experts for 5 cells"):
        Projected(experts=6, banks=1, cells=5)


def test_a_mixture_holds_its_experts_whole_and_the_rules_choose_among_them(tmp_path, pack, shape):
    packs, folders = Packs([pack]), []
    for number in range(CELLS):
        network = Llama(shape)
        network.initialise(number)
        if number == 1:  # the one that has learned the packs
            optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
            rows = np.arange(len(packs))
            tokens, segments = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
            for _ in range(10):
                network.loss(tokens, targets(tokens, segments), layout(segments), torch.float32).div(2000).backward()
                optimizer.step()
                optimizer.zero_grad()
        folders.append(tmp_path / str(number))
        write_model(network, folders[-1], end_of_text=0)
    config = replace(shape, family=Mixture(experts=CELLS, cells=CELLS))
    write_mixture(folders, tmp_path / "mixture", config=config, end_of_text=0)
    experts = Experts(tmp_path / "mixture")
    for number, folder in enumerate(folders):
        alone = read_model(folder, device=torch.device("cpu")).state_dict()
        held = experts.plain(one_expert(number, CELLS)).state_dict()
        assert all(torch.equal(alone[name], held[name]) for name in alone)
    assert experts.chosen(packs, "lowest-loss").tolist() == [0, 1, 0, 0]
    assert experts.chosen(packs, "most-frequent").tolist() == [1, 0, 0, 0]
    assert experts.chosen(packs, "histogram") == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    with pytest.raises(UsageError, match="can't be summed"):
        experts.plain(experts.chosen(packs, "histogram"))
    with pytest.raises(UsageError, match="mixture is a mixture model of 4 experts where one model was expected"):
        read_model(tmp_path / "mixture", device=torch.device("cpu"))


def test_the_scan_and_its_gradient_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(2, 13, 3, generator=generator, requires_grad=True)
    add = torch.randn(2, 13, 3, generator=generator, requires_grad=True)
    state, states = torch.zeros(2, 3), []
    for t in range(13):
        state = keep[:, t] * state + add[:, t]
        states.append(state)
    slow, probe = torch.stack(states, 1), torch.randn(2, 13, 3, generator=generator)
    torch.testing.assert_close(scan(keep, add), slow)
    wanted = torch.autograd.grad((slow * probe).sum(), (keep, add))
    found = torch.autograd.grad((_Scan.apply(keep, add) * probe).sum(), (keep, add))
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_recurrent_generation_step_by_step_equals_the_parallel_form(shape):
    network, tokens = network_of(shape, Recurrent()), some_tokens(3)
    together = network(tokens, torch.zeros_like(tokens))
    states = no_state(network, 3)
    for t in range(CONTEXT):
        logits, states = step(network, tokens[:, t], states)
        torch.testing.assert_close(logits, together[:, t], atol=1e-5, rtol=0)


def test_packed_documents_do_not_share_a_recurrent_state(shape):
    network, tokens = network_of(shape, Recurrent()), some_tokens(1)
    segments = torch.cat([torch.zeros(1, 11), torch.ones(1, CONTEXT - 11)], 1).long()
    together = network(tokens, segments)
    alone = network(tokens[:, 11:], torch.zeros_like(tokens[:, 11:]))
    torch.testing.assert_close(together[:, 11:], alone, atol=1e-5, rtol=0)


def test_qk_norm_and_an_untied_head_are_those_of_hf_qwen3(shape):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = replace(shape, qk_norm=True, tied=False, head_width=12)
    network = Llama(config)
    network.initialise(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    theirs = Qwen3ForCausalLM(Qwen3Config(**hf_config(config, end_of_text=0))).eval()
    found = theirs.load_state_dict(network.state_dict(), strict=True)
    assert not found.missing_keys
    tokens = some_tokens(2)
    torch.testing.assert_close(network(tokens, torch.zeros_like(tokens)), theirs(tokens).logits, atol=1e-5, rtol=0)


def _stream_size(width: int, mup_width: int) -> float:
    """Mean size of the residual stream after the last block, after five steps at one learning rate."""
    config = ModelConfig(
        vocab_size=128,
        context=32,
        num_layers=2,
        hidden_size=width,
        num_heads=width // 32,
        num_kv_heads=width // 32,
        intermediate_size=2 * width,
        mup_width=mup_width,
    )
    network = Llama(config)
    network.initialise(0)
    optimizer = adamw(network, TrainConfig(tokens=1, weight_decay=0.0), width_scale=config.width_scale)
    set_rate(optimizer, 5e-3)
    tokens = torch.randint(128, (8, 32), generator=torch.Generator().manual_seed(0))
    segments, sizes = torch.zeros_like(tokens), []
    last = network.model.layers[-1]
    last.register_forward_hook(lambda module, given, out: sizes.append(out.detach().abs().mean().item()))
    for _ in range(6):
        (network.loss(tokens, targets(tokens, segments), layout(segments), torch.float32) / tokens.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sizes[-1]


def test_coordinate_check_activations_are_as_large_at_every_width_with_mup_and_grow_without():
    widths = (64, 128, 256)
    growth = {
        mup_width: float(np.polyfit(np.log(widths), [np.log(_stream_size(w, mup_width)) for w in widths], 1)[0])
        for mup_width in (64, 0)
    }
    assert abs(growth[64]) < 0.05, growth
    assert growth[0] > 0.4, growth
