"""The results of a batch as a report: text, Markdown, CSV, HTML, JUnit; and what has changed between two of them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from parlant_sync import ConfigurationError
from parlant_sync.batch.journal import LineFile
from parlant_sync.batch.progress import summary_lines
from parlant_sync.batch.results import EMPTY, GOOD, Result, Summary, Tally
from parlant_sync.batch.rows import Row

_BINS = 20
_SHOWN_IDS = 10
# XML 1.0 cannot hold these at all.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Report:
    """The results of a file, one for each row, by id: the last one of an id counts."""

    name: str
    results: tuple[Result, ...]

    @property
    def summary(self) -> Summary:
        tally = Tally(len(self.results))
        for result in self.results:
            tally.add(result)
        return tally.summary(0.0)

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """The rows that did not go well, by their problem, the most frequent first."""
        found: dict[str, list[str]] = {}
        for result in self.results:
            if result.problem:
                found.setdefault(result.problem, []).append(result.id)
        return sorted(found.items(), key=lambda item: -len(item[1]))

    @property
    def durations(self) -> list[float]:
        """Seconds of all turns that were answered, sorted."""
        turns = (turn for result in self.results for turn in result.turns)
        return sorted(turn.duration for turn in turns if turn.outcome in GOOD and turn.duration > 0)

    @property
    def tools(self) -> list[tuple[str, int]]:
        """How often each tool was called, the most frequent first."""
        turns = (turn for result in self.results for turn in result.turns)
        return Counter(str(call.get("tool_id")) for turn in turns for call in turn.tool_calls).most_common()

    def facts(self) -> list[str]:
        """A few lines: counts, times, tools."""
        lines = [summary_lines(self.summary)[0]]
        if durations := self.durations:
            summary = self.summary
            lines.append(f"turns: p50 {summary.p50:.2f} s, p95 {summary.p95:.2f} s, slowest {durations[-1]:.2f} s")
        if self.tools:
            lines.append("tools called: " + ", ".join(f"{name} ({count})" for name, count in self.tools))
        return lines


def load(path: str | Path) -> Report:
    """The report of a results file. Raises ConfigurationError for another file, OSError if it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; give the --results FILE of a batch")
    file = LineFile(path, "id", look_only=True)
    last: dict[str, Result] = {}

    def take(value: dict[str, Any]) -> None:
        result = Result.read(value)
        last[result.id] = result

    try:
        file.read(take)
    finally:
        file.close()
    return Report(path.name, tuple(sorted(last.values(), key=lambda result: _by_number(result.id))))


def _by_number(row_id: str) -> list[tuple[bool, int, str]]:
    """Sorts ``r2`` before ``r10``: rows without ids are in the input's order, though they were finished in another."""
    parts = re.split(r"([0-9]+)", row_id)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _ids(ids: Sequence[str]) -> str:
    more = f", and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more


def as_text(report: Report) -> str:
    lines = [f"{report.name}: {report.facts()[0]}", *report.facts()[1:]]
    if report.groups:
        lines += ["", "problems:"]
        lines += [f"{len(ids):6}  {problem}\n        rows {_ids(ids)}" for problem, ids in report.groups]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    summary = report.summary.to_json()
    del summary["seconds"], summary["skipped"], summary["left"]
    problems = [{"problem": problem, "count": len(ids), "rows": ids} for problem, ids in report.groups]
    return {**summary, "tools": dict(report.tools), "problems": problems}


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def cell(value: object) -> str:
        return html.escape(" ".join(str(value).split()), quote=False).replace("\\", "\\\\").replace("|", "\\|")

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]


def as_markdown(report: Report) -> str:
    lines = [f"# {report.name}", "", *(f"- {fact}" for fact in report.facts())]
    if report.groups:
        problems = [(len(ids), problem, _ids(ids)) for problem, ids in report.groups]
        lines += ["", "## Problems", "", *_table(("rows", "problem", "ids"), problems)]
    rows = [
        (result.id, "ok" if result.ok else result.problem, _question(result), result.text) for result in report.results
    ]
    return "\n".join([*lines, "", "## Rows", "", *_table(("id", "outcome", "question", "answer"), rows)])


def _question(result: Result) -> str:
    return "\n\n".join(turn.message for turn in result.turns)


def as_csv(report: Report) -> str:
    """One row for each, the input's other columns first. Begins with a mark by which Excel knows UTF-8."""
    columns = list(dict.fromkeys(name for result in report.results for name in result.columns))
    out = io.StringIO()
    writer = csv.writer(out)
    fixed = "message status ok text problem seconds turns tools session_id started".split()
    writer.writerow(["id", *map(_cell, columns), *fixed])
    for result in report.results:
        own = [_cell(result.columns.get(name)) for name in columns]
        tools = " ".join(str(call.get("tool_id")) for turn in result.turns for call in turn.tool_calls)
        texts = [_question(result), result.status, "yes" if result.ok else "no", result.text, result.problem]
        rest = [result.seconds, len(result.turns), _cell(tools), _cell(result.session_id), result.started]
        writer.writerow([_cell(result.id), *own, *map(_cell, texts), *rest])
    return "\ufeff" + out.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula is marked as a text: an answer must not run anything."""
    if value is None or isinstance(value, (bool, int, float)):
        return "" if value is None else value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.35rem .5rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}pre{white-space:pre-wrap;margin:.3rem 0;font:inherit}
.bad{color:#a40000}.bars{display:flex;align-items:flex-end;height:10rem;gap:2px;border-bottom:1px solid #888}
.bars div{flex:1;background:#3b6ea5;min-height:0}.axis{display:flex;justify-content:space-between;color:#666}
"""


def as_html(report: Report) -> str:
    """One page that needs nothing else: no scripts, no links, nothing loaded. All texts are escaped."""
    text = html.escape
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{text(report.name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{text(report.name)}</h1>",
        *(f"<p>{text(fact)}</p>" for fact in report.facts()),
        *_histogram(report.durations),
    ]
    if report.groups:
        parts.append("<h2>Problems</h2><table><tr><th>rows<th>problem<th>ids</tr>")
        parts += [
            f'<tr><td>{len(ids)}<td class="bad">{text(problem)}<td>{text(_ids(ids))}</tr>'
            for problem, ids in report.groups
        ]
        parts.append("</table>")
    parts.append("<h2>Rows</h2><table><tr><th>id<th>outcome<th>conversation<th>seconds</tr>")
    for result in report.results:
        turns = "".join(f"<pre><b>{text(turn.message)}</b></pre><pre>{text(turn.text)}</pre>" for turn in result.turns)
        outcome = text(result.status) if result.ok else f'<span class="bad">{text(result.problem)}</span>'
        parts.append(f"<tr><td>{text(result.id)}<td>{outcome}<td>{turns}<td>{result.seconds:.2f}</tr>")
    parts.append("</table></body></html>")
    return "\n".join(parts)


def _histogram(durations: list[float]) -> list[str]:
    if not durations:
        return []
    width = durations[-1] / _BINS
    counts = Counter(min(int(each / width), _BINS - 1) for each in durations)
    most = max(counts.values())
    bars = "".join(
        f'<div style="height:{100 * counts[n] / most:.1f}%" '
        f'title="{n * width:.2f} to {(n + 1) * width:.2f} s: {counts[n]} turns"></div>'
        for n in range(_BINS)
    )
    axis = f'<div class="axis"><span>0 s</span><span>{durations[-1]:.2f} s</span></div>'
    return ["<h2>Seconds of a turn</h2>", f'<div class="bars">{bars}</div>', axis]


def as_junit(report: Report, rows: Sequence[Row] = (), *, empty_fails: bool = False) -> str:
    """For CI systems. ``rows`` without a result are skipped. With ``empty_fails``, those that are empty have failed."""
    results = {result.id: result for result in report.results}
    wanted = [row.id for row in rows] or list(results)
    known = [results[name] for name in wanted if name in results]
    failed = sum(bool(result.failure(empty_fails=empty_fails)) for result in known)
    counts = {"tests": len(wanted), "failures": failed, "skipped": len(wanted) - len(known)}
    seconds = sum(result.seconds for result in known)
    suite = ElementTree.Element("testsuite", name=_xml(report.name), time=f"{seconds:.3f}")
    suite.attrib.update({name: str(count) for name, count in counts.items()})
    for name in wanted:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(Path(report.name).stem), name=_xml(name))
        result = results.get(name)
        if result is None:
            ElementTree.SubElement(case, "skipped", message="not finished")
            continue
        case.set("time", f"{result.seconds:.3f}")
        if why := result.failure(empty_fails=empty_fails):
            failure = ElementTree.SubElement(case, "failure", message=_xml(why))
            failure.text = _xml("\n\n".join(f"> {turn.message}\n\n{turn.text}" for turn in result.turns))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=False) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


@dataclass(frozen=True)
class Comparison:
    """What is different in a newer file of results: ids of rows, with a line each for those that got worse."""

    worse: dict[str, str]
    better: list[str]
    changed: list[str]  # the text
    missing: list[str]
    added: list[str]
    p50: tuple[float | None, float | None]
    p95: tuple[float | None, float | None]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def compare(old: Report, new: Report) -> Comparison:
    """Join two files of results by the rows' ids."""
    before = {result.id: result for result in old.results}
    after = {result.id: result for result in new.results}
    both = [name for name in after if name in before]
    was_well, is_well = ({name for name in both if _has_text(side[name])} for side in (before, after))
    return Comparison(
        worse={name: after[name].problem or EMPTY for name in both if name in was_well - is_well},
        better=[name for name in both if name in is_well - was_well],
        changed=[name for name in both if before[name].text != after[name].text],
        missing=[name for name in before if name not in after],
        added=[name for name in after if name not in before],
        p50=(old.summary.p50, new.summary.p50),
        p95=(old.summary.p95, new.summary.p95),
    )


def _has_text(result: Result) -> bool:
    """A model that fails can look like empty answers: a row that had one, and has none now, got worse."""
    return result.ok and result.status != "empty"


def comparison_text(found: Comparison) -> str:
    worse = f"{len(found.worse)} {'row' if len(found.worse) == 1 else 'rows'} got worse"
    lines = [f"{worse}, {len(found.better)} better, {len(found.changed)} have another text"]
    lines += [f"worse: row {name}: {problem}" for name, problem in found.worse.items()]
    for word, ids in (("better", found.better), ("only in the old file", found.missing), ("new", found.added)):
        if ids:
            lines.append(f"{word}: {_ids(ids)}")
    for name, (was, is_now) in (("p50", found.p50), ("p95", found.p95)):
        if was is not None and is_now is not None:
            change = f" ({(is_now - was) / was:+.0%})" if was else ""
            lines.append(f"turns: {name} {was:.2f} s, now {is_now:.2f} s{change}")
    return "\n".join(lines)
