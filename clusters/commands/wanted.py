"""The options that say what to specialize: one source for the commands that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from clusters.commands.options import (
    CellsOption,
    ContextOption,
    DeviceOption,
    DomainColumnOption,
    IdColumnOption,
    MinutesOption,
    ParamsOption,
    PoolOption,
    SelectorOption,
    TargetOption,
    TextColumnOption,
    TokensOption,
    VocabSizeOption,
    absolute,
)
from clusters.registry import SELECTOR

if TYPE_CHECKING:
    from clusters.specialize import Request


def wanted(
    pool: PoolOption,
    target: TargetOption,
    tokens: TokensOption = None,
    params: ParamsOption = 1_000_000,
    minutes: MinutesOption = 5.0,
    cells: CellsOption = 64,
    context: ContextOption = 256,
    vocab_size: VocabSizeOption = 4096,
    selector: SelectorOption = SELECTOR,
    device: DeviceOption = "cpu",
    text_column: TextColumnOption = "text",
    id_column: IdColumnOption = None,
    domain_column: DomainColumnOption = None,
) -> Request:
    """What these options ask for."""
    from clusters.specialize import Request, columns

    return Request(
        pool=absolute(pool),
        target=absolute(target),
        tokens=tokens,
        params=params,
        minutes=minutes,
        cells=cells,
        context=context,
        vocab_size=vocab_size,
        selector=selector,
        device=device,
        columns=columns(text=text_column, identity=id_column, domain=domain_column),
    )


def of_what_is_wanted(command: Callable[..., None]) -> Callable[..., None]:
    """`command(request, ...)` as typer should see it: with the options of `wanted` in the place of the request."""
    _, *own = _parameters(command)
    options = _parameters(wanted)

    @wraps(command)
    def asked(**given: Any) -> None:
        request = wanted(**{option.name: given.pop(option.name) for option in options})
        command(request, **given)

    both = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (*options, *own)]
    asked.__annotations__ = {each.name: each.annotation for each in both}
    asked.__signature__ = Signature(both)  # type: ignore[attr-defined]
    return asked


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Its parameters with their types; a Request need not be known: its import takes longer than any help text."""
    types = get_type_hints(function, localns={"Request": Any}, include_extras=True)
    return [each.replace(annotation=types[each.name]) for each in signature(function).parameters.values()]
