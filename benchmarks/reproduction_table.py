"""The figures of `benchmarks.reproduction` as text."""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from benchmarks.reproduction_directions import FIGURES

_BENCHMARKS = {"mupots": "MuPoTS", "3dpw": "3DPW", "mpi_inf_3dhp": "3DHP", "h36m": "H36M"}


def format_study(result: Mapping) -> str:
    """Models, then directions, then what it all rests on. Args: result: see `benchmarks.reproduction`."""
    return "\n".join([
        f"{result['num_seeds']} seeds; {result['steps']} steps of the initial phase, {result['finetune_steps']} of fine-tuning",
        f"crops of {result['crop_side']} px; trained in {result['training_minutes']} minutes",
        f"tested on {result['num_poses']} images of {result['num_people']} people",
        "", *_models(result["models"]), "", *_directions(result["directions"], result["confidence"]), "",
        ", ".join(f"{count} {verdict}" for verdict, count in result["verdicts"].items())])


def _models(models):
    """Lines: the mean over the seeds of every figure, and how far the seeds scatter."""
    for names, group in itertools.groupby(models.items(), key=lambda item: tuple(item[1])):
        yield f"{'mean and scatter of the seeds':32}" + "".join(f"{FIGURES[name].label:>22}" for name in names)
        for model, figures in group:
            yield f"{model:32}" + "".join(f"{np.mean(values):15.2f} ±{np.std(values, ddof=1):5.2f}"
                                          for values in figures.values())


def _directions(lines, confidence):
    """Lines: every difference under its statement."""
    yield (f"{'':34}{'difference':>10}  {f'{100 * confidence:g} % interval':20}{'from':8}{'verdict':24}"
           f"published: {', '.join(_BENCHMARKS.values())}")
    for text, group in itertools.groupby(lines, key=lambda line: line["direction"]):
        yield text
        for line in group:
            published = "  ".join(f"{value:+.1f}" for value in (line["published"] or {}).values())
            interval = f"[{line['low']:+.2f}, {line['high']:+.2f}]" if math.isfinite(line["low"]) else "-"
            larger = "seeds" if line["error_of_seeds"] > line["error_of_people"] else "people"
            yield (f"  {FIGURES[line['figure']].label:32}{line['estimate']:+10.2f}  {interval:20}{larger:8}{line['verdict']:24}"
                   f"{published}").rstrip()
