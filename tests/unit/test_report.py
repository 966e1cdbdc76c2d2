"""The report on synthetic results of a few records, written by the tests themselves."""

from __future__ import annotations

import argparse
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import ConfigError
from rondo_bench.report import cmd
from rondo_bench.report.data import RECORD_TYPES, MitosisRecord, SloRecord, load_results
from rondo_bench.report.paper import mitosis_beside_paper, scale_beside_paper, slo_beside_paper
from rondo_bench.report.ratios import (
    OURS_TO_FUDG,
    OURS_TO_NODG,
    OURS_TO_PAPER,
    PAPER_TO_NODG,
    Grid,
    geometric_mean,
)
from rondo_bench.report.section import TITLES
from rondo_bench.report.style import LOOKS, SYSTEMS
from rondo_bench.report.tables import number

Json = dict[str, Any]

#: Goodput of each system for two models on ShareGPT: best NoDG is 4 and 8.
RATES: dict[str, dict[str, float]] = {
    "codellama-34b": {"nodg-rr": 3, "nodg-jsq": 4, "chunked-rr": 2, "chunked-jsq": 3.5,
                      "padg-paper": 5, "padg": 8, "fudg": 2, "fudg-ideal": 9},
    "qwen2-72b": {"nodg-rr": 8, "nodg-jsq": 7, "chunked-rr": 5, "chunked-jsq": 6,
                  "padg-paper": 4, "padg": 8, "fudg": 0, "fudg-ideal": 3},
}  # fmt: skip


def goodput(rate: float, **fields: Any) -> Json:
    return {"target": 0.99, "rate": rate, "low": rate * 0.9, "high": rate * 1.1, **fields}


def grid_records(gpu: str = "l20") -> list[Json]:
    return [
        goodput(rate, model=model, gpu=gpu, dataset="sharegpt", system=system, instances=8,
                dips=[0.5] if system == "padg-paper" else [],
                tuned={"chunk_tokens": 512} if "chunked" in system else {})
        for model, systems in RATES.items()
        for system, rate in systems.items()
    ]  # fmt: skip


def curve_record(rate: float, attainment: float) -> Json:
    latencies = {"ttft_p50": 0.2, "ttft_p99": 1.5, "tpot_p50": 0.04, "tpot_p99": None}
    shares = {"attainment": attainment, "attainment_ttft": 1.0, "attainment_tpot": attainment}
    return {"dataset": "alpaca", "system": "padg", "rate": rate, **shares, **latencies}


def slo_records() -> list[Json]:
    rates = {("padg", 5.0, 0.1): 10, ("padg", 1.0, 0.05): 4, ("nodg-rr", 5.0, 0.1): 8}
    rates |= {("nodg-jsq", 5.0, 0.1): 6, ("nodg-jsq", 1.0, 0.05): 2}
    return [
        goodput(rate, dataset="sharegpt", system=system, ttft_s=ttft_s, tpot_s=tpot_s)
        for (system, ttft_s, tpot_s), rate in rates.items()
    ]


def mitosis_records() -> list[Json]:
    series: dict[str, list[float]] = {
        "rate": [20, 50, 20],
        "instances": [8, 12, 9],
        "macros": [1, 2, 1],
    }
    series |= {"attainment": [1.0, 0.97, 1.0], "busy": [0.5, 0.8, 0.4]}
    points = [
        {"series": name, "t_s": 120.0 * index, "value": value}
        for name, values in series.items()
        for index, value in enumerate(values)
    ]
    return [*points, {"series": "event", "t_s": 119.0, "text": "split <6 + 6>"}]


def lengths_records() -> list[Json]:
    rates = {("exact", 0): 10, ("exact", 4): 12, ("mean", 0): 10, ("mean", 4): 9}
    rates |= {("ceiling", 0): 20, ("ceiling", 2): 25}
    cases = [("codellama-34b", 1), ("qwen2-72b", 2)]
    return [
        goodput(rate * factor if classes else rate, dataset="sharegpt", model=model, gpu="l20",
                prediction=prediction, classes=classes)
        for model, factor in cases
        for (prediction, classes), rate in rates.items()
    ]  # fmt: skip


def experiments() -> dict[str, list[Json]]:
    case = {"dataset": "sharegpt", "system": "padg"}
    scale = {**case, "model": "codellama-34b"}
    return {
        "grid": grid_records(),
        "curves": [curve_record(5, 1.0), curve_record(9, 0.6)],
        "slo": slo_records(),
        "bursts": [goodput(r, **case, cv=cv) for cv, r in ((1.2, 9), (2.0, 5))],
        "scale": [goodput(r, **scale, instances=n) for n, r in ((1, 2), (4, 9))],
        "ablations": [
            goodput(8, dataset="sharegpt", variant="padg"),
            goodput(6, dataset="sharegpt", variant="mean"),
        ],
        "lengths": lengths_records(),
        "instances": [
            {"system": system, "instance_policy": policy, "dataset": "sharegpt", "target": 0.99,
             "prediction": "file", "rate": 10.0, "tuned": tuned, "instances": instances,
             "attainment": 0.991}
            for system, policy, tuned, instances in (
                ("fudg", "block-growth", {"prefill_instances": 1}, 8),
                ("chunked-jsq", "econoserve", {"order": "first-come"}, 7),
                ("padg", "block-growth", {}, None),
            )
        ],
        "beyond": [{"check": "low load", **case, "values": {"attainment": 0.9995}}],
        "mitosis": mitosis_records(),
        "parity": [
            {"workload": "chat", "metric": "ttft_p90", "live": 1.1, "simulated": 1.0,
             "error": -0.091}
        ],
        "speed": [{"what": "admission", "value": 21.5, "unit": "µs", "command": "make bench"}],
    }  # fmt: skip


def write(folder: Path, name: str, records: list[Json], **changed: Any) -> None:
    folder.mkdir(exist_ok=True)
    head = {"experiment": name, "command": f"rondo-bench experiment {name}", "machine": "x86"}
    content = {**head, "seeds": [1, 2], "requests": 100, "records": records, **changed}
    (folder / f"{name}.json").write_text(json.dumps(content))


def report(folder: Path, out: Path, markdown: Path | None = None) -> str:
    assert cmd.run(argparse.Namespace(results=folder, out=out, markdown=markdown)) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The page and the Markdown of all experiments."""
    folder = tmp_path_factory.mktemp("report")
    for name, records in experiments().items():
        write(folder / "sim", name, records)
    (folder / "sim/notes.toml").write_text('grid = """\nFirst & why.\n\nSecond\nwhy."""\n')
    page = report(folder / "sim", folder / "page.html", folder / "docs" / "README.md")
    return page, (folder / "docs" / "README.md").read_text()


class Page(HTMLParser):
    """Collects tags, ids and links; fails on a closing tag that closes nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "img"):
            self.open.pop()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_section_appears_with_its_plots_and_tables(full: tuple[str, str]) -> None:
    page = full[0]
    for name, title in TITLES.items():
        section = page.split(f'<section id="{name}">')[1].split("</section>")[0]
        assert f"<h2>{title}</h2>" in section
        assert "<table>" in section
        assert ("<svg" in section) == (name not in ("lengths", "instances", "beyond", "speed"))
        assert f"Made by: rondo-bench experiment {name} (seeds 1, 2; up to 100 requests" in section
    assert "Left out" not in page


def test_page_is_one_file_well_formed_with_unique_ids(full: tuple[str, str]) -> None:
    page = Page(full[0])
    assert page.open == []
    assert not {"script", "img", "link"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert set(re.findall(r"url\(#([^)]*)\)", full[0])) <= set(page.ids)
    assert "@import" not in full[0]


def test_colours_follow_the_scheme(full: tuple[str, str]) -> None:
    page = full[0]
    assert "prefers-color-scheme: dark" in page
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--c-padg)" in svgs
    assert "var(--ink)" in svgs
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", svgs) == []


def test_systems_are_told_apart() -> None:
    assert set(LOOKS) == set(SYSTEMS)
    for trait in ("light", "dark", "marker"):
        assert len({getattr(look, trait) for look in LOOKS.values()}) == len(LOOKS)


def test_text_from_files_is_escaped(full: tuple[str, str]) -> None:
    assert "split &lt;6 + 6&gt;" in full[0]
    assert '<p class="note">First &amp; why.</p>' in full[0]
    assert '<p class="note">Second why.</p>' in full[0]


def test_ratios_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "grid", grid_records())
    results = load_results(tmp_path)
    one, two = Grid(results.experiments["grid"].records).select("l20", 0.99)
    assert [one.ratio(r) for r in (OURS_TO_NODG, OURS_TO_PAPER, PAPER_TO_NODG, OURS_TO_FUDG)] == [
        8 / 4,
        8 / 5,
        5 / 4,
        8 / 2,
    ]
    assert two.ratio(OURS_TO_NODG) == 8 / 8
    assert two.ratio(OURS_TO_FUDG) is None  # FuDG served nothing: no ratio, not an infinite one


def test_geometric_means_by_hand(full: tuple[str, str]) -> None:
    assert geometric_mean([2.0, 8.0, None]) == pytest.approx(4.0)
    assert geometric_mean([0.0, 2.0]) == 0.0
    assert geometric_mean([None]) is None
    # of 2 and 1; of 1.6 and 2; of 1.25 and 0.5; of 4 alone
    means = (math.sqrt(2), math.sqrt(3.2), math.sqrt(0.625), 4.0)
    total = re.search(r'<tr class="total">.*?</tr>', full[0], re.DOTALL)
    assert total is not None
    assert re.findall(r"([\d.]+)×", total.group()) == [f"{mean:.2f}" for mean in means]


def test_goodput_cells_show_interval_best_and_dips(full: tuple[str, str]) -> None:
    assert '<td class="best">8<small>7.2–8.8</small></td>' in full[0]
    assert "<td>5 †<small>4.5–5.5</small></td>" in full[0]
    assert "chunk_tokens 512" in full[0]


def test_markdown_has_ratios_and_the_papers_figures(full: tuple[str, str]) -> None:
    text = full[1]
    assert "[../page.html](../page.html)" in text
    assert "| L20 | P99 | 2 | 1.41× (least 1.00×) | 1.79× (least 1.60×) |" in text
    # paper's policy over the better of nodg-rr and nodg-jsq: sqrt(5/4 · 4/8); ours sqrt(8/4 · 8/8)
    assert "| over vLLM, all cases | 1.96× | 0.79× | 1.41× |" in text
    assert "| chat | ttft_p90 | 1.1 | 1 | -9.1 % |" in text


def test_classes_over_all_alike_by_hand(full: tuple[str, str]) -> None:
    text = full[1]
    assert "| P99 | ShareGPT | CodeLlama-34B | 10 (9–11) | 1.20× | 0.90× |" in text
    assert "| geometric mean |  |  | — | 1.70× | 1.27× |" in text  # of 1.2, 2.4 and of 0.9, 1.8
    assert "| ShareGPT | Qwen2-72B | 20 (18–22) | 2.50× |" in text


def test_losses_by_a_tighter_objective_by_hand() -> None:
    records = [SloRecord(**record) for record in slo_records()]
    table = slo_beside_paper(records)
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["our PaDG"] == ["—", "60 %"]
    assert rows["vLLM"] == ["60 %", "75 %"]  # 8 by round robin falls to 2 by shortest queue
    assert rows["Sarathi"] == ["73 %", "—"]


def test_growth_and_course_of_scaling(tmp_path: Path) -> None:
    write(tmp_path, "scale", experiments()["scale"])
    growth = scale_beside_paper(load_results(tmp_path).experiments["scale"].records)
    assert growth is not None
    assert [cell.text for cell in growth.rows[0][3:]] == ["4.96×", "—", "4.50×"]
    course = mitosis_beside_paper([MitosisRecord(**record) for record in mitosis_records()])
    ours = {row[0].text: row[2].text for row in course.rows}
    assert ours["instances"] == "8 → 12, last 9"
    assert ours["instances at the first split"] == "12 (at 120 s)"
    assert ours["least attainment of a sample"] == "97.0 %"


def test_missing_files_are_said(tmp_path: Path) -> None:
    write(tmp_path / "sim", "speed", experiments()["speed"])
    write(tmp_path / "sim", "parity", [])
    page = report(tmp_path / "sim", tmp_path / "page.html", tmp_path / "README.md")
    for name in RECORD_TYPES:
        assert (f"Left out: there is no {name}.json." in page) == (name not in ("speed", "parity"))
    assert "Left out: parity.json holds no record." in page
    assert "21.5 µs" in page
    assert "No data: " + TITLES["grid"] in (tmp_path / "README.md").read_text()


def test_partial_grid_leaves_gaps(tmp_path: Path) -> None:
    records = [r for r in grid_records("h100") if r["system"] in ("padg", "chunked-jsq")][:3]
    write(tmp_path / "sim", "grid", records)
    page = report(tmp_path / "sim", tmp_path / "page.html")
    assert "2.29×" in page  # 8 / 3.5; of the other case only one side is there
    assert "EcoServe&#39;s figures on L20" not in page


def test_results_of_nothing_but_failure(tmp_path: Path) -> None:
    case = {"model": 'm" <1>', "dataset": "a b<", "system": "padg-paper"}
    write(tmp_path / "sim", "grid", [goodput(0, **case, gpu="l20")])
    write(tmp_path / "sim", "scale", [goodput(0, **case, instances=n) for n in (1, 4)])
    curve = [{**curve_record(1, 0), "ttft_p99": 0.0}, {**curve_record(2, 0), "ttft_p99": None}]
    write(tmp_path / "sim", "curves", curve)
    write(tmp_path / "sim", "mitosis", [{"series": "event", "t_s": 1, "text": "x"}])
    page = Page(report(tmp_path / "sim", tmp_path / "page.html"))
    assert page.open == []
    assert all(re.fullmatch(r"[\w.-]+", name) for name in page.ids)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rate": "fast"}, "$.records[1].rate"),
        ({"rate": -1.0}, "$.records[1].rate"),
        ({"target": 99}, "$.records[1].target"),
        ({"system": None}, "$.records[1].system"),
        ({"low": 9.0, "high": 8.0}, "$.records[1]"),
        ({"system": "nodg-rr"}, "$.records[1]"),  # a second time
    ],
)
def test_malformed_record_names_file_and_field(tmp_path: Path, change: Json, field: str) -> None:
    records = grid_records()
    records[1] = {**records[1], **change}
    write(tmp_path, "grid", records)
    with pytest.raises(ConfigError) as caught:
        load_results(tmp_path)
    assert caught.value.setting.endswith("grid.json")
    assert field in caught.value.problem


def test_malformed_files_are_named(tmp_path: Path) -> None:
    records = mitosis_records()
    del records[0]["value"]
    write(tmp_path / "a", "mitosis", records)
    with pytest.raises(ConfigError, match=r"mitosis\.json.*`value`.*records\[0\]"):
        load_results(tmp_path / "a")
    write(tmp_path / "b", "slo", [], experiment="grid")
    with pytest.raises(ConfigError, match=r"slo\.json.*`experiment`"):
        load_results(tmp_path / "b")
    write(tmp_path / "c", "speed", [])
    (tmp_path / "c/notes.toml").write_text('gird = "why"\n')
    with pytest.raises(ConfigError, match=r"notes\.toml.*`gird`"):
        load_results(tmp_path / "c")
    (tmp_path / "c/speed.json").write_text("{")
    with pytest.raises(ConfigError, match=r"speed\.json"):
        load_results(tmp_path / "c")


def test_no_results_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds none"):
        load_results(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        load_results(tmp_path / "absent")


def test_same_data_same_bytes(tmp_path: Path) -> None:
    for name in ("slo", "mitosis"):
        write(tmp_path / "sim", name, experiments()[name])
    first = report(tmp_path / "sim", tmp_path / "1.html")
    assert report(tmp_path / "sim", tmp_path / "2.html") == first


def test_numbers_have_three_digits() -> None:
    numbers = (0, 0.0004567, 0.12345, 12.345, 1234.5, None)
    assert [number(n) for n in numbers] == ["0", "0.00046", "0.123", "12.3", "1,234", "—"]
