"""The report of an evaluation: one HTML file with tables, published numbers beside them, and pictures."""

import dataclasses
import html
import itertools
import pathlib
from collections.abc import Mapping, Sequence

from posepile.data.atomic_files import atomic_file
from posepile.evaluation.parts import Part, parts_of
from posepile.evaluation.primary_error import format_mean_primary_error
from posepile.evaluation.published import EXPLANATION, METRICS, SOURCE, published_rows
from posepile.evaluation.table import LABELS, format_exceptions, format_stamp, group_metrics
from posepile.visualization import page

REPORT_NAME = "report.html"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: PNG or JPEG bytes, what it shows, how to read it, and whether it takes the whole width of the page."""

    data: bytes
    title: str
    caption: str
    is_wide: bool = False


@dataclasses.dataclass(frozen=True)
class ShownCrops:
    """Some crops with their poses drawn, PNG or JPEG bytes each, and a line for each."""

    title: str
    pictures: Sequence[bytes]
    captions: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is drawn of one data set."""

    figures: Sequence[Picture] = ()
    crops: Sequence[ShownCrops] = ()


def write_report(folder: pathlib.Path, title: str, scores: Mapping[str, Mapping],
                 pictures: Mapping[str, Pictures] | None = None, mean: Mapping | None = None) -> None:
    """Writes report.html, which needs no other file and no network.

    Args:
        folder: is made if need be.
        title: of the page.
        scores: {data set: record}, see `parts.parts_of`.
        pictures: {data set: what is drawn of it}.
        mean: of `primary_error.mean_primary_error`.

    Raises: OSError.
    """
    text = render_report(title, scores, pictures or {}, mean).encode()
    with atomic_file(folder / REPORT_NAME) as file:
        file.write(text)


def render_report(title: str, scores: Mapping[str, Mapping], pictures: Mapping[str, Pictures],
                  mean: Mapping | None = None) -> str:
    """The report as the text of an HTML page; args as `write_report`."""
    summary = page.section("Summary", page.paragraph(html.escape(format_mean_primary_error(mean)))) if mean else ""
    return page.render_page(title, summary + "".join(
        _data_set_sections(name, record, pictures.get(name, Pictures())) for name, record in scores.items()))


def _data_set_sections(name, record, pictures):
    parts = parts_of(record)
    results = page.section(f"{name}: results", _parts_table(parts[:1]))
    sections = [f'<div class="beside">{results}{_published(name, parts[0])}</div>']
    if pictures.figures:
        wide, others = ("".join(f"<div><h3>{html.escape(figure.title)}</h3>"
                                f"{page.figure([figure.data], figure.caption, figure.title, 'full' * is_wide)}</div>"
                                for figure in pictures.figures if figure.is_wide == is_wide) for is_wide in (True, False))
        sections.append(page.section(f"{name}: where the errors are", f'{wide}<div class="cards wide">{others}</div>'))
    for crops in pictures.crops:
        sections.append(page.section(f"{name}: {crops.title}", _crops(crops)))
    blocks = [_parts_table(list(columns)) for _, columns in
              itertools.groupby(parts[1:], lambda part: part.name.partition("/")[0])]
    if blocks:
        sections.append(page.section(f"{name}: further parts", "".join(blocks)))
    groups = "".join(_group_table(part, group) for part in parts for group in part.groups)
    sections.append(page.section(f"{name}: break-downs", groups) if groups else "")
    return "".join(sections)


def _parts_table(parts: Sequence[Part]) -> str:
    """Parts of one kind beside each other, under their stamps."""
    shared = {key: value for key, value in parts[0].stamp.items() if all(part.stamp.get(key) == value for part in parts)}
    stamps = [page.paragraph(html.escape(format_stamp(shared) + format_exceptions(parts[0].metrics)))]
    stamps += [page.paragraph(f"<b>{html.escape(part.name)}</b>: {html.escape(own)}")
               for part in parts if (own := format_stamp(part.stamp, shared))]
    names = dict.fromkeys(metric for part in parts for metric in part.metrics if metric in LABELS)
    rows = [f"<tr><th>{_label(metric)}</th>{''.join(_cells(part, metric) for part in parts)}</tr>" for metric in names]
    names_shown = [part.name.rpartition("/")[2].replace("_", " ") for part in parts] if len(parts) > 1 else ["value"]
    heads = [text for part, name in zip(parts, names_shown, strict=True) for text in (name, _interval_head(part))]
    title = parts[0].name.partition("/")[0].replace("_", " ")
    return f"<h3>{html.escape(title)}</h3>{page.table(['', *heads], rows)}{''.join(stamps)}"


def _published(name, part: Part) -> str:
    """The published numbers of the benchmark, under those of this evaluation."""
    rows = published_rows(part.stamp.get("protocol", ""))
    if not rows:
        return ""

    def line(label, values):
        return f"<tr><th>{label}</th>{''.join(f'<td>{page.number(values.get(metric))}</td>' for metric in METRICS)}</tr>"

    table = page.table([f"{SOURCE}, supplement", *(LABELS[metric] for metric in METRICS)], [
        line("<b>this evaluation</b>", part.metrics), *(line(html.escape(row.label), row.metrics) for row in rows)])
    body = f'<div class="wrap">{table}</div>{page.paragraph(html.escape(EXPLANATION))}'
    return page.section(f"{name}: published numbers", body)


def _group_table(part: Part, group: str) -> str:
    members = part.groups[group]
    names = group_metrics(members)
    rows = [f"<tr><th>{html.escape(label)}</th>{''.join(_cells(member, metric) for metric in names)}"
            f"<td>{member.metrics.get('num_poses', '')}</td></tr>" for label, member in members.items()]
    heads = [text for metric in names for text in (LABELS[metric], _interval_head(part))]
    title = f"{part.name.replace('_', ' ')}: per {group}"
    return (f"<details><summary>{html.escape(title)}</summary>{page.paragraph(html.escape(format_stamp(part.stamp)))}"
            f"{page.table(['', *heads, 'poses'], rows)}</details>")


def _crops(crops: ShownCrops) -> str:
    figures = "".join(f'<figure><figcaption class="head">{html.escape(caption)}</figcaption>'
                      f"{page.image(picture, caption)}</figure>" for picture, caption in
                      zip(crops.pictures, crops.captions, strict=True))
    caption = ("MPJPE of each pose, and where it is from. In the image, from the front (as the camera sees it) and from the "
               "side (the camera at the left), moved so that both poses have one centre; the prediction in colours (left "
               "blue, right orange, centre green), the truth white. Grid: 500 mm.")
    return f'{page.paragraph(caption)}<div class="views">{figures}</div>'


def _cells(part, metric):
    low, high = part.intervals.get(metric, (None, None))
    interval = f"{page.number(low)} to {page.number(high)}" if page.is_number(low) else ""
    return f'<td>{page.number(part.metrics.get(metric))}</td><td class="unit">{interval}</td>'


def _interval_head(part):
    return f"{100 * part.stamp['confidence']:g} % interval"


def _label(metric):
    label, _, unit = LABELS[metric].rpartition(", ")
    return f"{html.escape(label)}{page.unit(unit)}"
