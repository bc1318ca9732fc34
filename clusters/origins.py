"""What a model was made with, found in its lineage: target, pool, cells, validation, and what was held out to judge it.

Steps are known by name here, because a recipe may have made the model that is not `tamis specialize`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from catalog.tables import read_live
from catalog.takedown import RULE
from clusters.recipes import Stated
from clusters.registry import STEPS

WEIGHING = tuple(verb for verb in STEPS if verb.split("-")[0] == "weigh")
# To find the target: from what a step made, the input that leads to it.
TOWARDS = {
    **dict.fromkeys(("finetune", "pretrain", "pack", "blend", "combine"), 0),
    **dict.fromkeys(("project", "resample", "remix"), 1),
    **dict.fromkeys(WEIGHING, 1),
}
# Of a text's steps those that judge a document by itself or among its like: new text goes through them too.
CURATING = ("exact-dedup", "fuzzy-dedup", "quality-filter", "classify")
NEWEST = {"append": 1, "join": -1}  # the input that came last; of other steps the first


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What `model` was made with.

    `pool` is that of its mixture; without one, where its cells were fitted. `held_out` are documents of the target that
    no training saw, not even to stop; where it was never evaluated on such text, the validation documents.
    """

    model: Snapshot
    target: Snapshot
    pool: Snapshot
    fitted: Snapshot
    tokenizer: Snapshot
    validation: Snapshot
    held_out: tuple[Snapshot, ...]
    tuned: Snapshot  # itself or what it was before, as `finetune` made it
    mixture: tuple[Snapshot, ...]  # the last, or none


def origins_of(catalog: Catalog, reference: str) -> Origins:
    """The origins of a model. Raises UsageError saying what its lineage lacks."""
    model = catalog.current(catalog.snapshot(reference)).require("model")
    behind = list(_behind(catalog, model))
    target = _target(catalog, model)
    fits = all_made_by(catalog, target, "assign-cells")
    if not fits:
        raise UsageError(f"{model.ref}: its target {target.ref} was put into cells by no `assign-cells`")
    fitted = inputs_of(catalog, fits[0])[1]
    tokenized = last_made_by(catalog, fits[0], "tokenize")
    mixed = [each for each in behind if made_by(catalog, each) in WEIGHING]
    tuned = [each for each in behind if made_by(catalog, each) == "finetune"]
    if not tuned:
        raise UsageError(f"{model.ref} was never fine-tuned, so no validation text of its target is known: finetune it")
    validation = inputs_of(catalog, tuned[0])[1]
    return Origins(
        model=model,
        target=target,
        pool=inputs_of(catalog, mixed[0])[0] if mixed else fitted,
        fitted=fitted,
        tokenizer=inputs_of(catalog, tokenized)[1],
        validation=validation,
        tuned=tuned[0],
        mixture=tuple(each for each in behind if each.contents.kind == "mixture")[:1],
        held_out=_held_out(catalog, model, target, tuned) or (validation,),
    )


def inputs_of(catalog: Catalog, snapshot: Snapshot) -> list[Snapshot]:
    """What its step read, or what took that's place after a takedown."""
    while catalog.runs[snapshot.run].step == RULE:
        snapshot = catalog.snapshot(snapshot.inputs[0])
    return [catalog.current(each) for each in catalog.inputs(snapshot)]


def made_by(catalog: Catalog, snapshot: Snapshot) -> str:
    """The verb of the step that made it."""
    return catalog.computed_by(snapshot).step


def settings_of(catalog: Catalog, snapshot: Snapshot) -> dict[str, Any]:
    """The settings of that step, as a recipe states them."""
    return catalog.computed_by(snapshot).settings


def last_made_by(catalog: Catalog, text: Snapshot, verb: str) -> Snapshot:
    """The newest snapshot on the way from files to `text` that the step made. Raises UsageError."""
    for each in all_made_by(catalog, text, verb):
        return each
    raise UsageError(f"{text.ref} did not go through {verb}: new text can't be treated like it")


def all_made_by(catalog: Catalog, text: Snapshot, verb: str) -> list[Snapshot]:
    """What the step made on the way from files to `text`, the newest first."""
    return [each for each in _texts(catalog, text) if made_by(catalog, each) == verb]


def curation(catalog: Catalog, text: Snapshot) -> list[Stated]:
    """The curating steps from files to `text`, in order, each named by its verb: inputs are those after documents."""
    found: list[Stated] = []
    for each in list(_texts(catalog, text))[::-1]:
        verb = made_by(catalog, each)
        if verb in CURATING:
            others = tuple(other.ref for other in inputs_of(catalog, each)[1:])
            again = sum(step.step == verb for step in found)
            name = f"{verb}-{again + 1}" if again else verb
            found.append(Stated(name=name, step=verb, inputs=others, settings=settings_of(catalog, each)))
    return found


def undone_before(catalog: Catalog, text: Snapshot) -> list[Snapshot]:
    """What decided on documents on the way from files to `text`, by steps that do not curate: the newest first."""
    way = list(_texts(catalog, text))
    return [
        each
        for each, before in pairwise(way)
        if made_by(catalog, each) not in (*CURATING, *NEWEST)
        and set(each.contents.layers) - set(before.contents.layers) - {RULE}
    ]


def _texts(catalog: Catalog, text: Snapshot) -> Iterator[Snapshot]:
    """`text` and the documents that it was made of, back to the files that came last."""
    while True:
        yield text
        inputs = inputs_of(catalog, text)
        if not inputs:
            return
        text = inputs[NEWEST.get(made_by(catalog, text), 0)]


def _behind(catalog: Catalog, model: Snapshot) -> Iterator[Snapshot]:
    """The model and what led to it, the nearest first: of two mixtures the one of the last training comes first."""
    found = {model.ref: model}
    waiting = deque([model])
    while waiting:
        each = waiting.popleft()
        yield each
        for needed in inputs_of(catalog, each):
            if needed.ref not in found:
                found[needed.ref] = needed
                waiting.append(needed)


def _target(catalog: Catalog, model: Snapshot) -> Snapshot:
    """The documents in cells that a model was turned towards."""
    node = model
    while (verb := made_by(catalog, node)) in TOWARDS:
        node = inputs_of(catalog, node)[TOWARDS[verb]]
    if node.contents.kind != "documents" or verb == "fit-cells":
        raise UsageError(
            f"{model.ref} was not made for a target: its lineage ends at {node.ref}, which {verb} made; expected a "
            "model that learned from packs of a target or by a mixture"
        )
    return node.require("documents", "tokens", "cells")


def _held_out(catalog: Catalog, model: Snapshot, target: Snapshot, tuned: list[Snapshot]) -> tuple[Snapshot, ...]:
    """Text of the target on which the model was evaluated, without what any fine-tuning saw, oldest first."""
    texts = _files(target)
    validations = [inputs_of(catalog, each)[1] for each in tuned]
    looked_at = {part.id for each in validations for part in _parts(catalog, each)}
    seen = _ids(catalog, target, *validations, *(text for each in tuned for text in _learned(catalog, each)))
    found: dict[str, Snapshot] = {}
    for evaluation in catalog.history:
        if made_by(catalog, evaluation) != "evaluate" or not catalog.is_live(evaluation):
            continue
        documents, *models = inputs_of(catalog, evaluation)
        if model.id in {each.id for each in models}:
            for part in _parts(catalog, documents):
                if part.id in looked_at or part.id in found or not _files(part) <= texts:
                    continue
                if seen.isdisjoint(_ids(catalog, part)):  # else training or validation read some of it
                    found[part.id] = part
    return tuple(found.values())


def _learned(catalog: Catalog, tuned: Snapshot) -> list[Snapshot]:
    """The documents behind the packs of a fine-tuning, of all packs of a blend."""
    waiting, found = [inputs_of(catalog, tuned)[0]], []
    while waiting:
        each = waiting.pop()
        if each.contents.kind == "documents":
            found.append(each)
        elif each.contents.kind == "packs":
            waiting += inputs_of(catalog, each)
    return found


def _parts(catalog: Catalog, documents: Snapshot) -> list[Snapshot]:
    """The snapshots that it joins, or itself."""
    if made_by(catalog, documents) != "join":
        return [documents]
    return [part for each in inputs_of(catalog, documents) for part in _parts(catalog, each)]


def _ids(catalog: Catalog, *snapshots: Snapshot) -> set[str]:
    """Ids of the live documents."""
    return {
        name
        for each in snapshots
        for shard in each.contents.shards
        for name in read_live(catalog.store, shard, each.contents.layers, ["id"])["id"].to_pylist()
    }


def _files(documents: Snapshot) -> set[str]:
    return {shard.tables["documents"].sha256 for shard in documents.contents.shards}
