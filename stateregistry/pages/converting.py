"""The page of `convert`: a plan, the two trees side by side with the moves between them, and what executing it wrote.

Verdict, totals, problems with what settles them, the picture, every move, what was checked, what no state carries, the
receipt. Moves can be filtered by class and by problem without a script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stateregistry.pages import flows, markup, parts
from stateregistry.pages.markup import escape, name
from stateregistry.report import folding, planning, spelling

if TYPE_CHECKING:
    from stateregistry.conversion.execution.results import Receipt
    from stateregistry.conversion.planning.plan import Move, Plan

#: Lines of each table.
LINES = 2000
_CLASSES = ("exact", "choice", "lossy", "impossible", "keep", "drop")
_WORDS = {"keep": "kept as the target has it", "drop": "no place in the target"}


def page(
    plan: Plan,
    source: str,
    target: str,
    *,
    receipt: Receipt | None = None,
    written: str = "",
    how: str = "",
    spell: Callable[[str], str] = str,
) -> str:
    """The page.

    Args:
        plan: any plan, whether `ok` or not. source, target: what the sides are called.
        receipt: of its execution. written: one sentence about that. how: the command. spell: how hints are spelled.
    """
    ways = f"{plan.source.dialect or 'unknown'} to {plan.target.dialect or 'unknown'}"
    skip = {"moves": "Moves", "picture": "Picture"}
    word, tone = (
        ("converted", "good") if receipt is not None else ("plan ok", "good") if plan.ok else ("plan not ok", "bad")
    )
    body = list(parts.opening("convert", f"{source} to {target}", word, _sentence(plan, ways, written), tone, skip))
    body += parts.totals(_totals(plan))
    body += _problems(plan, spell)
    body += _picture(plan, source, target)
    body += _moves(plan)
    body += parts.notes(
        "Checked before anything is written", [str(one) for one in plan.conditions][:LINES], "conditions"
    )
    for matters, title in (
        ("evaluation", "What differs and no state carries"),
        ("training", "What matters in training only"),
    ):
        lines = [spell(str(one)) for one in plan.findings if one.matters == matters]
        body += parts.notes(title, lines[:LINES], matters, "odd" if matters == "evaluation" else "")
    body += _receipt(receipt, plan)
    body += parts.closing(how)
    return markup.document(f"{source} to {target}: {word}", body)


def _sentence(plan: Plan, ways: str, written: str) -> str:
    if written:
        return f"{ways}. {written}"
    if plan.ok:
        return f"{ways}. Every entry of both sides is accounted for; nothing is written yet."
    return f"{ways}, {spelling.plural(len(plan.problems), 'problem')}. Nothing is written."


def _cls(move: Move) -> str:
    return move.op if move.op in _WORDS else move.cls


def _totals(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    parameters, buffers = planning.by_kind(plan)
    yield "trainable", "elements in parameters", spelling.number(parameters.elements), parts.told(parameters)
    yield "buffer", "elements in buffers", spelling.number(buffers.elements), parts.told(buffers)
    made = [move for move in plan.moves if move.op not in _WORDS]
    laid = sum(_laid(plan, move) for move in made)
    others = Counter(move.cls for move in made if move.cls != "exact")
    told = ", ".join(f"{count} {cls}" for cls, count in others.items()) or "all of them exact"
    yield "renamed", "moves", spelling.number(len(made)), f"{told}, {laid} with another layout"
    left = [move for move in plan.moves if move.op == "drop"]
    kept = sum(bool(move.residual) for move in left)
    told = f"{kept} kept in the residual for the way back" if left else "nothing is left out"
    yield "missing", "entries without a place", spelling.number(len(left)), told


def _laid(plan: Plan, move: Move) -> bool:
    """Whether values are laid out otherwise: not a copy under another name."""
    return any(feed.axes != move.axes for feed in move.sources) or len(move.sources) > 1


def _problems(plan: Plan, spell: Callable[[str], str]) -> Iterator[str]:
    if not plan.problems:
        return
    counts = Counter(problem.problem for problem in plan.problems)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    yield f'<section class="notes bad" aria-labelledby="problems"><h2 id="problems">Problems: {escape(told)}</h2><ul>'
    for problem in planning.problems(plan, spell, arrow=" → ")[:LINES]:
        hint = f'<br><span class="how">{escape(problem.hint)}</span>' if problem.hint else ""
        where = f"<code>{name(problem.keys)}</code>: " if problem.keys else ""
        yield f'<li><span class="tag">{escape(problem.problem)}</span> {where}{escape(problem.text)}{hint}</li>'
    yield "</ul></section>"


def _touched(plan: Plan) -> frozenset[str]:
    return frozenset(key for problem in plan.problems for key in problem.keys)


def _picture(plan: Plan, source: str, target: str) -> Iterator[str]:
    bad = _touched(plan)
    drawn = []
    for move in plan.moves:
        classes = [_cls(move)]
        if _laid(plan, move) and move.op not in _WORDS:
            classes.append("moved")
        if bad.intersection(move.keys):
            classes.append("problem")
        if move.op == "drop" and move.residual:
            classes.append("kept")
        sources = tuple(dict.fromkeys(feed.key for feed in move.sources))
        drawn.append(flows.Flow(sources, move.target, " ".join(classes), spelling.printable(str(move))))
    yield '<section id="picture" aria-labelledby="picture-title"><h2 id="picture-title">What goes where</h2>'
    yield from _filters(plan)
    yield '<ul class="legend flow-legend">'
    for cls, word in (
        ("", "same layout"),
        ("moved", "axes moved, parts joined or split"),
        ("choice", "a choice"),
        ("lossy", "lossy"),
    ):
        if not cls or any(cls in flow.classes.split() for flow in drawn):
            line = f'<svg class="flows" aria-hidden="true" width="26" height="8"><path class="flow {cls}" d="M0 4H26"/></svg>'
            yield f"<li>{line}{word}</li>"
    yield "</ul>"
    yield '<div class="plan" tabindex="0" role="group" aria-label="The two sides and the moves between them"><div>'
    yield '<div class="sides">'
    for title, side in ((source, plan.source), (target, plan.target)):
        count = spelling.plural(len(side.entries), "entry")
        yield f"<span><b>{name(title)}</b> {escape(side.dialect or 'unknown')}, {count}</span>"
    yield "</div>"
    yield from flows.drawn(plan.source.entries, plan.target.entries, drawn, bad - _paired(plan))
    yield "</div></div></section>"


def _paired(plan: Plan) -> frozenset[str]:
    return frozenset(key for move in plan.moves for key in move.keys)


def _filters(plan: Plan) -> Iterator[str]:
    counts = Counter(_cls(move) for move in plan.moves)
    bad = _touched(plan)
    yield '<fieldset class="filters"><legend>Show</legend>'
    for cls in _CLASSES:
        if counts[cls]:
            word = _WORDS.get(cls, cls)
            yield (
                f'<label><input type="checkbox" id="c-{cls}" checked autocomplete="off"> {word} '
                f'<span class="how">{spelling.number(counts[cls])}</span></label>'
            )
    if any(bad.intersection(move.keys) for move in plan.moves):
        yield '<label><input type="checkbox" id="c-problem" autocomplete="off"> only what a problem is about</label>'
    yield "</fieldset>"


def _moves(plan: Plan) -> Iterator[str]:
    bad = _touched(plan)
    rows = []
    for move in sorted(plan.moves, key=lambda move: move.op == "drop"):  # stable: as they are, what is left out last
        problem = "problem" if bad.intersection(move.keys) else ""
        rows.append((*planning.row(plan, move), _cls(move), problem))
    folded = folding.rows(rows)
    yield '<section id="moves" aria-labelledby="moves-title"><h2 id="moves-title">Every move</h2>'
    yield '<div class="wide" tabindex="0" role="group" aria-label="Every move"><table><thead><tr>'
    remarked = any(remarks or cls != "exact" for *_, remarks, cls, _ in folded)
    heads = ("target", "from", "how", "kind", *(("remarks",) if remarked else ()))
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for target, origin, how, kind, remarks, cls, problem in folded[:LINES]:
        tag = f'<span class="tag {cls}">{cls}</span> ' if cls != "exact" and cls not in _WORDS else ""
        last = f'<td class="how">{tag}{escape(remarks)}</td>' if remarked else ""
        yield (
            f'<tr class="{cls} {problem}"><th scope="row">{name(target)}</th><td class="from">{name(origin)}</td>'
            f'<td class="how">{escape(how)}</td><td><span class="kind {kind}">{escape(kind)}</span></td>'
            f"{last}</tr>"
        )
    yield "</tbody></table></div>"
    if len(folded) > LINES:
        yield f'<p class="note">and {spelling.number(len(folded) - LINES)} more: convert --all, or --plan FILE.json</p>'
    yield "</section>"


def _receipt(receipt: Receipt | None, plan: Plan) -> Iterator[str]:
    yield '<section aria-labelledby="receipt"><h2 id="receipt">Receipt</h2>'
    if receipt is None:
        yield f'<p class="note">Not executed. The plan has the digest <code>{escape(plan.digest())}</code>.</p></section>'
        return
    rows: list[tuple[str, Mapping[str, str]]] = [
        ("written, sha256", receipt.files), ("read, xxh3_128", receipt.source_files),
        ("made with", {"stateregistry": receipt.version, "numpy": receipt.numpy, "plan, sha256": receipt.plan}),
    ]  # fmt: skip
    yield from _pairs(
        "Files and versions", [(head, key, value) for head, found in rows for key, value in found.items()]
    )
    count = spelling.plural(len(receipt.digests), "value")
    yield f"<details><summary>xxh3_128 of {count} written</summary>"
    yield from _pairs("Digests", [("", key, value) for key, value in list(receipt.digests.items())[:LINES]])
    yield "</details>"
    yield from _rules(receipt.rules)
    yield "</section>"


def _pairs(label: str, rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    yield f'<div class="wide" tabindex="0" role="group" aria-label="{label}"><table class="digests"><tbody>'
    for head, key, value in rows:
        yield f'<tr><td class="how">{escape(head)}</td><th scope="row">{name(key)}</th><td>{escape(value)}</td></tr>'
    yield "</tbody></table></div>"


def _rules(rules: Mapping[str, Any]) -> Iterator[str]:
    import json

    if any(rules.values()):
        text = json.dumps(rules, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        yield f"<details><summary>The rules</summary><pre><code>{escape(text, lines=True)}</code></pre></details>"
