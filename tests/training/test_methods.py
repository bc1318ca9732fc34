"""Low rank and teachers against slower truths: peft's own forward pass, whole distributions, autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalog.errors import UsageError
from catalog.pack import Packs
from training.config import EarlyStopping
from training.distill import FromLessons, FromTeacher, Lessons, below_the_top_as_one, write_lessons
from training.evaluate import evaluate, summarise
from training.finetune import finetune
from training.folder import hf_config, read_model, write_model
from training.lora import adapt, merged
from training.methods import Full, Lora, Taught
from training.model import IGNORED, Llama, layout, targets
from training.objective import MicroBatch, next_token


@pytest.fixture(scope="module")
def settings(settings):
    """Those of fine-tuning, whose optimiser is AdamW."""
    return replace(settings, optimizer="adamw")


def drawn(shape, seed):
    network = Llama(shape)
    network.initialise(seed)
    return network


@pytest.fixture(scope="module")
def start(tmp_path_factory, shape):
    folder = tmp_path_factory.mktemp("start") / "model"
    write_model(drawn(shape, 0), folder, end_of_text=0)
    return folder


@pytest.fixture(scope="module")
def batch(pack):
    packs, rows = Packs([pack]), np.array([4, 11, 37, 50])
    tokens, segments = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
    return MicroBatch(
        tokens_BT=tokens, targets_BT=targets(tokens, segments), where=layout(segments), rows_B=rows
    ), segments


def with_products(network, rank=4):
    """peft begins with a product of zero; this one is not."""
    adapt(network, rank=rank, seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return network


def test_low_rank_logits_are_those_of_peft_on_hf_llama_and_of_the_merged_model(shape, batch):
    pytest.importorskip("peft")
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = batch[0].tokens_BT
    ours = with_products(drawn(shape, 1))
    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(shape, end_of_text=0))).eval()
    matrices = [f"{each}_proj" for each in ("q", "k", "v", "o", "gate", "up", "down")]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=matrices), theirs)
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert found.missing_keys == ["lm_head.weight"]
    assert not found.unexpected_keys
    theirs.tie_weights()
    logits = ours(tokens, torch.zeros_like(tokens))
    torch.testing.assert_close(logits, theirs(tokens).logits, atol=1e-5, rtol=0)
    plain = merged(ours)
    assert set(plain.state_dict()) == set(Llama(shape).state_dict())
    torch.testing.assert_close(logits, plain(tokens, torch.zeros_like(tokens)), atol=1e-5, rtol=0)


def test_low_rank_tuning_learns_without_touching_what_is_frozen_and_resumes_to_its_bytes(
    tmp_path, pack, settings, local, documents, start
):
    pytest.importorskip("peft")
    run = {
        "model_dir": start,
        "train": settings,
        "validation": documents,
        "stopping": EarlyStopping(evaluate_every=5, patience=9),
        "context": local,
        "method": Lora(rank=4),
    }

    def stop(progress):
        if progress.step == 14:
            raise InterruptedError

    whole = finetune([pack], **run, run_dir=tmp_path / "whole")
    with pytest.raises(InterruptedError):
        finetune([pack], **run, run_dir=tmp_path / "cut", on_progress=stop)
    resumed = finetune([pack], **run, run_dir=tmp_path / "cut")
    one, other = ((each.model_dir / "model.safetensors").read_bytes() for each in (whole, resumed))
    assert one == other
    before, after = (read_model(each, device=torch.device("cpu")).state_dict() for each in (start, whole.model_dir))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    moved = after["model.layers.0.mlp.up_proj.weight"] - before["model.layers.0.mlp.up_proj.weight"]
    assert torch.linalg.matrix_rank(moved, tol=1e-5) <= 4
    scores = [summarise(evaluate(each, documents, context=local)).bits_per_byte for each in (start, whole.model_dir)]
    assert scores[1] < scores[0] - 0.05


def plain_taught_loss(student, teacher_shares, batch, segments, label_share):
    """The formula of the module's docstring, by autograd over whole logits."""
    log_shares = F.log_softmax(student(batch.tokens_BT, segments), -1)
    labels = F.nll_loss(log_shares.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORED, reduction="sum")
    counted = batch.targets_BT != IGNORED
    taught = -(teacher_shares * log_shares).sum(-1)[counted].sum()
    return label_share * labels + (1 - label_share) * taught


@pytest.mark.parametrize("label_share", [0.0, 0.3, 1.0])
def test_a_teachers_loss_and_gradient_are_the_formula(shape, batch, label_share):
    given, segments = batch
    student, teacher = drawn(shape, 1), drawn(shape, 2)
    with torch.no_grad():
        shares = torch.softmax(teacher(given.tokens_BT, segments), -1)
    slow = plain_taught_loss(student, shares, given, segments, label_share)
    slow.backward()
    expected = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()
    fast = FromTeacher(teacher=teacher, label_share=label_share)(student, given, torch.float32)
    fast.backward()
    torch.testing.assert_close(fast, slow)
    for name, p in student.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-3)
    if label_share == 1:
        torch.testing.assert_close(fast, next_token(student, given, torch.float32))


def test_stored_lessons_of_the_whole_vocabulary_teach_as_the_teacher_does(tmp_path, shape, pack, batch):
    packs, student, teacher = Packs([pack]), drawn(shape, 1), drawn(shape, 2)
    assert write_lessons(teacher, packs, tmp_path / "lessons.arrow", top=shape.vocab_size) == len(packs)
    lessons = Lessons([tmp_path / "lessons.arrow"], context=packs.format.context)
    online = FromTeacher(teacher=teacher, label_share=0.5)(student, batch[0], torch.float32)
    offline = FromLessons(lessons=lessons, label_share=0.5)(student, batch[0], torch.float32)
    torch.testing.assert_close(online, offline, atol=0, rtol=2e-3)  # shares are stored as float16


def test_what_lies_below_the_top_counts_as_one_event():
    logits = torch.randn(5, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    taught = torch.softmax(torch.randn(5, 20, generator=torch.Generator().manual_seed(1)), -1)
    shares, tokens = taught.topk(6, -1)
    student = torch.softmax(logits, -1)
    top = student.gather(1, tokens)
    slow = -(shares * top.log()).sum(1) - (1 - shares.sum(1)) * (1 - top.sum(1)).log()
    (expected,) = torch.autograd.grad(slow.sum(), logits)
    target, loss = below_the_top_as_one(tokens, shares, student.detach())
    torch.testing.assert_close(loss, slow.detach())
    torch.testing.assert_close(student.detach() - target, expected)


def test_a_student_comes_nearer_to_its_teacher_than_labels_alone_bring_it(
    tmp_path, pack, shape, settings, local, documents, start
):
    teacher = tmp_path / "teacher"
    write_model(drawn(replace(shape, hidden_size=64, intermediate_size=128), 5), teacher, end_of_text=0)
    run = {
        "model_dir": start,
        "train": settings,
        "validation": documents,
        "stopping": EarlyStopping(evaluate_every=10, patience=9),
        "context": local,
    }
    lessons = tmp_path / "lessons.arrow"
    write_lessons(read_model(teacher, device=torch.device("cpu")), Packs([pack]), lessons, top=48)
    ways = {
        "labels": Full(),
        "online": Taught(teacher_dir=teacher, lessons=(), label_share=0.2),
        "offline": Taught(teacher_dir=None, lessons=(lessons,), label_share=0.2),
    }
    packs, rows = Packs([pack]), np.arange(60)
    tokens, segments = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
    with torch.no_grad():
        wanted = torch.softmax(read_model(teacher, device=torch.device("cpu"))(tokens, segments), -1)
    gaps = {}
    for name, way in ways.items():
        made = finetune([pack], **run, method=way, run_dir=tmp_path / name).model_dir
        with torch.no_grad():
            found = torch.log_softmax(read_model(made, device=torch.device("cpu"))(tokens, segments), -1)
        gaps[name] = float((wanted * (wanted.clamp_min(1e-30).log() - found)).sum(-1).mean())
    assert gaps["online"] < gaps["labels"] / 4
    assert gaps["offline"] < gaps["labels"] / 2


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path, pack, shape, settings, local, documents, start):
    write_model(drawn(replace(shape, vocab_size=50), 0), tmp_path / "teacher", end_of_text=0)
    with pytest.raises(UsageError, match="the teacher has vocabulary 50 and context 32, the student 96 and 32"):
        finetune(
            [pack],
            model_dir=start,
            train=settings,
            validation=documents,
            stopping=EarlyStopping(),
            run_dir=tmp_path / "run",
            context=local,
            method=Taught(teacher_dir=tmp_path / "teacher", lessons=(), label_share=0.5),
        )
