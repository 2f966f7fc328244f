"""The report: one well-formed file that needs nothing else, with the right numbers in it."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from posepile.evaluation.scoring import mean_pose_baseline, mean_relative_pose, score_merged
from posepile.geometry.skeleton import load_skeleton, merge_skeletons
from posepile.visualization.report import ReportContent, ReportSamples, render_report, write_report


class PageReader(html.parser.HTMLParser):
    """Reads tables (lists of rows of texts), counts tags, checks that they are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open_tags, self.tags, self.attributes, self.tables, self.texts = [], [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open_tags

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in ("meta", "img", "br", "link", "wbr"):
            self.open_tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"th", "td"} & set(self.open_tags):
            self.tables[-1][-1][-1] += data.replace("\xa0", " ")


@pytest.fixture(name="content", scope="module")
def _content():
    rng = np.random.default_rng(0)
    merged = merge_skeletons([load_skeleton("h36m_17"), load_skeleton("coco_19")])
    true = rng.normal(0, 300, (20, merged.num_joints, 3)) + np.array([0, 0, 4000])
    validity = np.ones(true.shape[:2], bool)
    preds = {"initial": true + rng.normal(0, 60, true.shape), "finetuned": true + rng.normal(0, 30, true.shape)}
    metrics = {name: score_merged(pred, true, validity, merged) for name, pred in preds.items()}
    baseline = mean_pose_baseline(mean_relative_pose(true, validity, merged), true, validity, merged)
    log = [{"phase": phase, "step": step, "loss": 1 / step, "loss_2d": 1 / step, "learning_rate": 1e-4}
           for phase in ("initial", "finetune") for step in (10, 20, 30)]
    samples = ReportSamples(
        images=np.zeros((1, 32, 32, 3), np.uint8), joints3d_true=true[:1], validity=validity[:1],
        intrinsics=np.array([[[50.0, 0, 16], [0, 50, 16], [0, 0, 1]]]),
        joints3d_pred={name: pred[:1] for name, pred in preds.items()}, labels=["frame <7>"])
    return ReportContent(
        settings={"seed": 1, "training": {"steps": 30, "datasets": ["a", "b"], "empty": None}}, metrics=metrics,
        skeleton=merged, baseline=baseline, training_log=log, samples=samples,
        encoder=np.eye(6, merged.num_joints), decoder=np.eye(merged.num_joints, 6),
        measurements={"seconds": {"initial": 12.5}}, title="Run <demo> & co")


@pytest.fixture(name="page", scope="module")
def _page(content):
    return render_report(content)


def test_is_well_formed_and_needs_no_other_file(page):
    reader = PageReader(page)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    sources = [value for _, name, value in reader.attributes if name in ("src", "href")]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import", page)
    assert all(name == "alt" and value for tag, name, value in reader.attributes if tag == "img" and name != "src")


def test_headline_numbers_their_change_and_the_better_one(page, content):
    table = PageReader(page).tables[0]
    assert table[0] == ["", "mean pose", "initial", "finetuned", "change"]
    before, after = (content.metrics[model]["pooled"]["mpjpe"] for model in ("initial", "finetuned"))
    assert table[1][:4] == ["MPJPE mm", f"{content.baseline['pooled']['mpjpe']:.1f}", f"{before:.1f}", f"{after:.1f}"]
    assert float(table[1][4].replace("\u2212", "-")) == pytest.approx(after - before, abs=0.11)
    assert [row[0] for row in table[1:]] == ["MPJPE mm", "PA-MPJPE mm", "PCK@100 %", "CPS@200 %", "Inconsistency mm",
                                             "\u00b7 in depth mm", "\u00b7 in the image plane mm"]
    assert table[5][1] == "\u2013"  # the mean pose has no inconsistency
    assert f"<b>{after:.1f}</b>" in page and f"<b>{before:.1f}</b>" not in page


def test_change_for_the_worse_is_said_so(content):
    swapped = {"initial": content.metrics["finetuned"], "finetuned": content.metrics["initial"]}
    page = render_report(dataclasses.replace(content, metrics=swapped, samples=None, encoder=None, training_log=()))
    assert 'class="bad">+' in page and 'class="good"' not in page


def test_every_format_has_its_table(page, content):
    tables = PageReader(page).tables
    for i, name in enumerate(("h36m_17", "coco_19")):
        score = content.metrics["finetuned"]["formats"][name]
        assert [row[3] for row in tables[1 + i][1:]] == [f"{score[key]:.1f}"
                                                         for key in ("mpjpe", "pa_mpjpe", "pck100", "cps200")]


def test_all_metrics_are_listed(page, content):
    tables = [table for table in PageReader(page).tables if table[0] == ["", "all formats", "h36m_17", "coco_19"]]
    assert len(tables) == 3  # mean pose, initial, finetuned
    record = content.metrics["initial"]["pooled"]
    shown = {row[0]: row[1] for row in tables[1][1:]}
    assert len(shown) == len(record)
    assert shown["AUC, 31 steps %"] == f"{record['auc31']:.1f}" and shown["poses scored"] == "40"


def test_text_from_outside_is_escaped(page):
    assert "Run &lt;demo&gt; &amp; co" in page and "frame &lt;7&gt;" in page
    assert "<demo>" not in page and "<7>" not in page


def test_settings_and_measurements(page):
    rows = [row for table in PageReader(page).tables for row in table]
    for row in (["seed", "1"], ["training.steps", "30"], ["training.datasets", "a, b"], ["training.empty", "none"],
                ["seconds.initial", "12.5"]):
        assert row in rows


def test_every_picture_has_a_sentence(page, content):
    # 1 inconsistency, 3 x 1 samples with one sentence for all, 3 training, 1 autoencoder
    assert page.count("<img ") == 1 + 3 + 3 + 1
    assert page.count("<figcaption>") == 5 and page.count('<figcaption class="head">') == 3
    for words in ("mm", "grid lines are 500 mm apart", "training step", "no unit"):
        assert words in page


@pytest.mark.parametrize("model", ["initial", "finetuned"])
def test_one_model_alone(content, model):
    samples = dataclasses.replace(content.samples, joints3d_pred={model: content.samples.joints3d_pred[model]})
    page = render_report(dataclasses.replace(content, metrics={model: content.metrics[model]}, samples=samples))
    assert PageReader(page).tables[0][0] == ["", "mean pose", model]
    assert "<b>" not in page and "change" not in PageReader(page).tables[0][0]


def test_five_models_have_a_column_and_a_picture_each_and_the_best_is_bold(content):
    names = ["initial", "finetuned", "finetuned_ema", "finetuned_latent", "finetuned_hybrid"]
    scores = {name: content.metrics["finetuned" if name == "finetuned_latent" else "initial"] for name in names}
    samples = dataclasses.replace(content.samples, joints3d_pred=dict.fromkeys(names, content.samples.joints3d_pred["initial"]))
    page = render_report(dataclasses.replace(content, metrics=scores, samples=samples))
    tables = PageReader(page).tables
    assert tables[0][0] == ["", "mean pose", *names]
    assert tables[0][1][2:] == [f"{scores[name]['pooled']['mpjpe']:.1f}" for name in names]
    best = f"<b>{scores['finetuned_latent']['pooled']['mpjpe']:.1f}</b>"
    assert best in page and f"<b>{scores['initial']['pooled']['mpjpe']:.1f}</b>" not in page
    assert [re.search(rf'class="head">{name}<', page) is not None for name in ("truth", *names)] == [True] * 6
    assert page.count("<b>") == 7 + 2 * 4  # one of each line: pooled and inconsistency, and per format


def test_undefined_numbers_are_dashes(content):
    metrics = {model: {"pooled": {"mpjpe": float("nan"), "pa_mpjpe": None}, "formats": {},
                       "inconsistency": {"total": None, "depth": None, "image_plane": None, "per_joint": {}}}
               for model in ("initial", "finetuned")}
    page = render_report(ReportContent(settings={}, metrics=metrics, skeleton=content.skeleton))
    assert [row[1:] for row in PageReader(page).tables[0][1:]] == [["\u2013"] * 3] * 7
    assert "<img" not in page


def test_writes_the_file(tmp_path, content):
    path = tmp_path / "runs" / "report.html"
    bare = dataclasses.replace(content, samples=None, encoder=None, training_log=())
    write_report(path, bare)
    assert path.read_text(encoding="utf-8") == render_report(bare)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
