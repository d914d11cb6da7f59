"""The report: well-formed, self-contained, escaped, deterministic, and saying what the tables say."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from learnalign.config import Config, PoolConfig, RolloutConfig, SelectConfig
from learnalign.report import ReportFacts, render, summary
from learnalign.report.facts import STATES, by_source, find, spearman, warnings
from learnalign.report.figures import MAX_POINTS, thin
from learnalign.report.prompts import MAX_LEFT_OUT, MAX_SELECTED
from learnalign.report.wording import decimals, duration, number, share, shorten, visible

G = 8
VOID = {"meta", "br", "img", "link", "input", "hr"}
NASTY = 'Is <script>alert("x")</script> & <b>bold</b> [red]7[/red]\x1b[31m \u202e 5 < 7?'
MANIFEST = {
    "learnalign": "0.1.0",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "policy": {
        "name": "tiny-policy",
        "digest": "ab12",
        "parameters": 1234567,
        "device": "cpu",
        "dtype": "float32",
    },
    "pool": {"path": "/data/pool.jsonl", "sha256": "9f9f", "rows": 400},
    "stages": {
        "rollout": {"state": "done", "rows": 400, "seconds": 80.0, "notes": ["2 <skipped>"]},
        "sketch": {"state": "done", "rows": 200, "seconds": 20.0, "notes": []},
    },
}


def make(
    rates: Sequence[float],
    *,
    n: int,
    seed: int = 0,
    problems: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    states: dict[int, str] | None = None,
    manifest: dict[str, object] | None = None,
) -> ReportFacts:
    """A run of which only what a test is about has to be given: the rest follows from the success rates."""
    random, size, states = np.random.default_rng(seed), len(rates), states or {}
    p = np.asarray(rates, dtype=np.float64)
    natural = np.where(np.isnan(p), "skipped", np.where(p == 1, "mastered", np.where(p == 0, "unsolved", "learnable")))
    state = [states.get(i, str(s)) for i, s in enumerate(natural)]
    learnable = np.array([s == "learnable" for s in state], dtype=bool)
    alignment = np.where(learnable, random.normal(0.08, 0.05, size), np.nan)
    score = np.where(learnable, p * (1 - p) * alignment, 0.0)
    table = pa.table(
        {
            "row": pa.array(range(size), pa.int64()),
            "prompt_id": pa.array([f"id-{i}" for i in range(size)], pa.string()),
            "problem": pa.array(problems or [f"Problem number {i}?" for i in range(size)], pa.string()),
            "source": pa.array(sources or ["one"] * size, pa.string()),
            "responses": np.where(np.isnan(p), 0, G).astype(np.int64),
            "success_rate": p,
            "learnability": p * (1 - p),
            "score": score,
            "alignment": alignment,
            "gradient_norm": np.where(learnable, random.lognormal(0, 0.5, size), np.nan),
            "response_tokens": np.where(np.isnan(p), np.nan, random.lognormal(4, 1, size)),
            "state": pa.array(state, pa.string()),
            "reason": pa.array(["too <long>" if s in ("skipped", "excluded") else "" for s in state], pa.string()),
        }
    )
    order = np.lexsort((np.arange(size), -score, ~learnable))[:n].astype(np.int64)
    config = Config(pool=PoolConfig(path="pool.jsonl"), rollout=RolloutConfig(responses=G), select=SelectConfig(n=n))
    return ReportFacts("a run", config, MANIFEST if manifest is None else manifest, table, order)


def mixed(size: int = 400, n: int = 50, **more: object) -> ReportFacts:
    """A run with every state in it and two sources."""
    rates = np.random.default_rng(5).binomial(G, np.random.default_rng(6).beta(0.5, 0.7, size)) / G
    rates[[3, 7]], rates[[11, 13]] = np.nan, 0.5
    sources = ["algebra" if i % 4 else "geometry" for i in range(size)]
    return make(rates, n=n, sources=sources, states={11: "excluded", 13: "dropped"}, **more)  # type: ignore[arg-type]


DEGENERATE = {
    "one prompt": make([0.5], n=1),
    "one prompt, nothing learnable": make([0.0], n=1),
    "all mastered": make([1.0] * 20, n=5),
    "all unsolved": make([0.0] * 20, n=5),
    "all skipped": make([float("nan")] * 20, n=5),
    "all excluded": make([0.5] * 4, n=2, states=dict.fromkeys(range(4), "excluded")),
    "nothing selected": replace(make([0.5, 0.25], n=1), selected=np.zeros(0, dtype=np.int64)),
    "equal rates": make([0.5] * 30, n=5),
    "empty pool": make([], n=1),
    "odd rates": make([0.1, 0.33, 0.77, 1.0], n=2),
    "nothing recorded": make([1.0, 0.0], n=1, manifest={}),
    "odd manifest": make(
        [1.0, 0.0], n=1, manifest={"stages": {"rollout": None, "sketch": {"seconds": "?"}}, "policy": "p"}
    ),
    "no time passed": make([1.0, 0.0], n=1, manifest={"stages": {"rollout": {"rows": 2, "seconds": 0.0}}}),
}


class Page(HTMLParser):
    """Checks that tags balance and that ids are unique; keeps attributes, texts and table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.loads.append(value or "")
            assert not name.startswith("on"), f"event handler {name}"

    def handle_endtag(self, tag: str) -> None:
        assert self.stack
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "text"):
            self.text.append(data)
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def facts() -> ReportFacts:
    return mixed(problems=[NASTY + "\n" + "long " * 900 if i % 2 else NASTY for i in range(400)])


@pytest.fixture(scope="module")
def html(facts: ReportFacts) -> str:
    return render(facts)


def test_page_is_well_formed(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    anchors = [link[1:] for link in page.loads if link.startswith("#")]
    assert anchors
    assert set(anchors) <= set(page.ids)
    assert page.tags.count("svg") == 4


def test_page_is_self_contained(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in page.loads)
    assert {target.lstrip("#") for target in re.findall(r"url\(([^)]*)\)", html)} <= set(page.ids)
    assert "@import" not in html
    assert "://" not in html


def test_texts_of_the_pool_are_escaped(html: str) -> None:
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &lt;b&gt;" in html
    assert "alert(" in "".join(Page(html).text)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)
    named = replace(
        make([0.0], n=1), title="<i>&</i>", manifest={"stages": {"<u>": {"seconds": 1.0, "notes": ["<u>"]}}}
    )
    assert not {"i", "u"} & set(Page(render(named)).tags)


def test_same_facts_give_the_same_bytes(html: str, facts: ReportFacts) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert render(facts) == html


def test_states_on_the_page_equal_the_table(facts: ReportFacts, html: str) -> None:
    state = np.array(facts.scores.column("state").to_pylist())
    rows = {row[0]: row for row in Page(html).rows}
    for name in STATES:
        here = state == name
        assert rows[name][1] == f"{here.sum():,}"
        assert rows[name][2] == f"{100 * here.mean():.1f}%"
        assert rows[name][3] == f"{here[facts.selected].sum():,}"
    assert all((state == name).any() for name in STATES), "the example has to have every state"
    assert ["all", "400", "100.0%", "50", ""] in Page(html).rows


def test_comparison_equals_means_of_the_table(facts: ReportFacts, html: str) -> None:
    table = facts.scores.to_pydict()
    p, tokens = np.array(table["success_rate"]), np.array(table["response_tokens"])
    learnable = np.array(table["state"]) == "learnable"
    rows = {row[0]: row for row in Page(html).rows}
    groups = (np.isfinite(p), learnable, facts.selected)
    assert rows["Success rate p, mean"][1:] == [f"{p[g].mean():.3f}" for g in groups]
    assert rows["Learnability p(1\u2212p), mean"][1:] == [f"{(p * (1 - p))[g].mean():.3f}" for g in groups]
    assert rows["Response length in tokens, mean"][1:] == [f"{tokens[g].mean():.1f}" for g in groups]


def test_selected_prompts_are_listed_in_rank_order(facts: ReportFacts, html: str) -> None:
    rows = [row for row in Page(html).rows if len(row) == 7 and row[1].startswith("id-")]
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 51)]
    assert [row[1] for row in rows] == [f"id-{i}" for i in facts.selected]
    score = np.array(facts.scores.column("score"))[facts.selected]
    shown = np.array([float(row[2].replace("\u2212", "-")) for row in rows])
    np.testing.assert_allclose(shown, score, atol=5e-6)


def test_lists_and_texts_are_cut_and_say_so() -> None:
    size = 1200
    rates = [0.5 if i % 2 else float("nan") for i in range(size)]
    html = render(make(rates, n=550, problems=["<" * 5_000] * size))
    assert len(html) < 5_000_000
    assert f"The first {MAX_SELECTED} of 550" in html
    assert f"The first {MAX_LEFT_OUT} are listed" in html
    assert html.count('class="n rank"') == MAX_SELECTED
    assert "[5,000 characters in all]" in html


def test_page_of_a_large_pool_is_small() -> None:
    random = np.random.default_rng(0)
    html = render(make(random.integers(0, G + 1, 60_000) / G, n=6_000))
    assert len(html.encode()) < 2_000_000
    assert "Drawn: 2,500 of the 6,000 selected and 2,500 of the" in html


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_runs(name: str) -> None:
    facts = DEGENERATE[name]
    page = Page(render(facts))
    text = "".join(page.text)
    assert "nan" not in re.sub("[^a-z ]", " ", text.lower()).split()
    assert "What was asked and what was found" in text
    assert printed(facts)


def test_missing_manifest_is_said() -> None:
    page = Page(render(DEGENERATE["nothing recorded"]))
    rows = {row[0]: row for row in page.rows if row}
    assert rows["policy: digest"][1] == "not recorded"
    assert "Not recorded." in page.text


def test_times_and_rates() -> None:
    page = Page(render(mixed()))
    rows = {row[0].split()[0]: row for row in page.rows if row and row[0]}
    assert rows["rollout"][2:] == ["1 min 20 s", "80.0%", "400", "5"]
    assert rows["sketch"][2:] == ["20.0 s", "20.0%", "200", "10"]
    assert f"{398 * G:,} responses sampled: {398 * G / 80:.3g} responses" in "".join(page.text)


def test_warnings_name_the_shortage() -> None:
    facts = make([0.5, 0.25, 1.0, 0.0, 0.0], n=4)
    told = warnings(find(facts))
    assert told[0].startswith("Only 2 prompts are learnable, but 4 were asked for. The last 2 places")
    assert "1 mastered, 1 unsolved" in told[0]
    assert not warnings(find(make([0.5, 0.25, 1.0], n=2)))
    assert "No prompt is learnable" in warnings(find(DEGENERATE["all mastered"]))[0]


def test_warning_of_a_selection_from_one_source() -> None:
    sources = ["rare"] * 20 + ["common"] * 80
    facts = make([0.5] * 100, n=20, sources=sources)
    own, other = (replace(facts, selected=np.arange(a, a + 20)) for a in (0, 50))
    assert any("“rare”" in line for line in warnings(find(own)))
    assert not any("source" in line for line in warnings(find(other)))


def test_sources_add_up(facts: ReportFacts) -> None:
    rows = by_source(find(facts))
    assert [row[0] for row in rows] == ["algebra", "geometry"]
    assert [sum(column) for column in list(zip(*rows, strict=True))[1:]] == [
        400,
        facts.scores.column("state").to_pylist().count("learnable"),
        50,
    ]
    assert by_source(find(make([0.5, 0.5], n=1))) == []


def test_spearman_against_ranks_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 4.0, np.nan]), np.array([10.0, 30.0, 20.0, 40.0, 1.0])
    rx, ry = np.array([1, 2.5, 2.5, 4]), np.array([1, 3, 2, 4])
    rho, n = spearman(x, y)
    assert n == 4
    assert rho == pytest.approx(np.corrcoef(rx, ry)[0, 1])
    grown = np.random.default_rng(0).normal(size=50)
    assert spearman(grown, np.exp(grown))[0] == pytest.approx(1.0)
    assert spearman(grown, -(grown**3))[0] == pytest.approx(-1.0)
    assert np.isnan(spearman(grown, np.ones(50))[0])
    assert np.isnan(spearman(grown[:2], grown[:2])[0])


@pytest.mark.parametrize(("ours", "others"), [(0, 9000), (50, 9000), (9000, 9000), (9000, 10), (10, 10), (0, 0)])
def test_thinning_keeps_the_selection_and_the_bound(ours: int, others: int) -> None:
    picked = np.arange(ours + others) < ours
    drawn = np.ones(ours + others, dtype=np.bool_)
    if len(drawn):
        drawn[-1] = False
    kept = thin(drawn, picked)
    assert kept.sum() == min(drawn.sum(), MAX_POINTS)
    assert not (kept & ~drawn).any()
    if ours <= MAX_POINTS // 2:
        assert (kept & picked).sum() == (drawn & picked).sum()


def printed(facts: ReportFacts, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False, color_system=None).print(summary(facts))
    return out.getvalue()


def test_summary_says_what_was_found(facts: ReportFacts) -> None:
    text = printed(facts)
    words = " ".join(text.split())
    assert "Asked for 50 prompts from pool.jsonl, which holds 400, for the policy tiny-policy." in words
    assert "50 prompts were selected" in words
    state = np.array(facts.scores.column("state").to_pylist())
    for name in ("learnable", "mastered", "unsolved"):
        assert re.search(rf"^ *{name} +{(state == name).sum():,} ", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if "Is <script>" in line]
    assert len(lines) == 10
    assert [int(line.split()[0]) for line in lines] == list(range(1, 11))
    assert "[red]7[/red]" in lines[0]
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_summary_fits_a_narrow_terminal(facts: ReportFacts) -> None:
    text = printed(facts, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert re.search(r"^ *10 +0\.\d{4,} +0\.\d{3} ", text, re.MULTILINE)


def test_wording() -> None:
    assert duration(0.416) == "0.42 s"
    assert duration(59.96) == "1 min 00 s"
    assert duration(3599.7) == "1 h 00 min"
    assert duration(11_070) == "3 h 04 min"
    assert share(1, 3) == "33.3%"
    assert share(1, 100_000) == "<0.1%"
    assert share(99_999, 100_000) == ">99.9%"
    assert share(0, 0) == "–"  # noqa: RUF001
    assert number(-0.0001, 2) == "0.00"
    assert number(-1234.5, 1) == "\u22121,234.5"
    assert number(float("nan"), 2) == "–"  # noqa: RUF001
    assert decimals([0.0123, -0.4, float("nan")]) == 4
    assert decimals([]) == 1
    assert shorten("a b\n c", 10) == "a b c"
    assert shorten("one two three four", 10) == "one two…"
    assert len(shorten("x" * 99, 10)) == 10
    assert visible("a\x1b\x00\tb\r\n") == "a\ufffd\ufffd\tb\n"


def test_import_loads_neither_matplotlib_nor_rich() -> None:
    code = "import sys, learnalign.report; print({'matplotlib', 'rich', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
