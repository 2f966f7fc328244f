import html
import re

import pytest

from posepile.evaluation.evaluation_report import Picture, Pictures, ShownCrops, render_report, write_report
from posepile.evaluation.primary_error import mean_primary_error
from tests.posepile.evaluation.scored_records import h36m_record, model_record, mupots_record


def text_of(page):
    """What a reader sees, one space between the words."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page[page.index("<body>"):])).split())


@pytest.fixture(name="page", scope="module")
def _page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "new"
    scores = {"h36m": h36m_record(confidence=0.9), "mupots": mupots_record(), "mine": model_record()}
    pictures = {"mine": Pictures([Picture(b"\x89PNGwide", "Error per joint", "mm & more", is_wide=True),
                                  Picture(b"\x89PNGcurve", "PCK curve", "how to read it")],
                                 [ShownCrops("Worst 1", [b"\xff\xd8crop"], ["12 mm: <test> 3"])])}
    write_report(folder, "Evaluation of <a>", scores, pictures, mean_primary_error(scores, dict.fromkeys(scores, "mpjpe")))
    return (folder / "report.html").read_text()


def test_needs_no_other_file(page):
    assert "http:" not in page and "https:" not in page and "<script" not in page and "<link" not in page
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("data:image/png") == 2 and page.count("data:image/jpeg") == 1


def test_shows_numbers_under_their_stamps(page):
    text, record = text_of(page), h36m_record(confidence=0.9)
    low, high = record["intervals"]["metrics"]["mpjpe"]
    assert f"value 90 % interval MPJPE mm 3.0 {low:.1f} to {high:.1f} PA-MPJPE" in text
    assert "all poses; 17 joints; root pelvis; annotation: metric (D3_Positions)" in text
    assert "Mean primary error: 1.7 mm (h36m MPJPE 3.0, mupots MPJPE 1.0, mine MPJPE 1.2)" in text
    assert "matched/universal_rescaled : annotation: universal (univ_annot3); bones of annotated length" in text
    assert "flat: per activity" in text and "all formats: per format" in text and "right_wrist 51.0" in text


def test_published_numbers_stand_beside_those_of_their_benchmark(page):
    text = text_of(page)
    assert "h36m: published numbers" in text and "mupots: published numbers" in text and "mine: published" not in text
    assert "S2: 400k steps, finetuned 45.2 33.3 94.4 90.1" in text
    assert "S4: Normal BN, with inference-mode BN steps, initial 46.3 34.6 94.2 89.9" in text


def test_texts_are_escaped_and_crops_have_captions(page):
    assert "<title>Evaluation of &lt;a&gt;</title>" in page and "12 mm: &lt;test&gt; 3" in page and "mm &amp; more" in page
    assert "<test>" not in page and "<a>" not in page
    text = text_of(page)
    assert "mine: Worst 1" in text and text.index("Error per joint") < text.index("PCK curve") < text.index("mine: Worst 1")


def test_undefined_numbers_are_dashes():
    record = h36m_record()
    record["metrics"]["mpjpe"] = None
    record["intervals"]["metrics"]["mpjpe"] = [None, None]
    record["poses"].update(num_undefined=2, num_nonfinite=2)
    text = text_of(render_report("title", {"h36m": record}, {}))
    assert "MPJPE mm \N{EN DASH} PA-MPJPE" in text
    assert "2 of them with an undefined metric: 2 with a prediction that is not finite" in text
