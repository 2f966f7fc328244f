"""What the paper found, as differences between models whose sign can be looked at: METHOD 9 of WACV 2023, tables S2 and S4, S6.

A model is named by its training, see `benchmarks.reproduction.VARIANTS`, and its file: "x4/finetuned".
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Figure:
    """What is measured of a model. Attributes: label: with the unit; more_is_better."""

    label: str
    more_is_better: bool


FIGURES = {
    "mpjpe": Figure("MPJPE, mm", False),
    "pa_mpjpe": Figure("PA-MPJPE, mm", False),
    "pck100": Figure("PCK@100, %", True),
    "cps200": Figure("CPS@200, %", True),
    "cps200 - pck100": Figure("CPS@200 - PCK@100, %", True),
    "cps400": Figure("CPS@400, %", True),
    "inconsistency": Figure("inconsistency, mm", False),
    "zero_weights": Figure("weights below 1e-3, %", True),
    "negative_weights": Figure("negative weights, %", False),
}


@dataclasses.dataclass(frozen=True)
class Direction:
    """A difference, and whether it is said to be for the better.

    Attributes:
        text: the statement.
        difference: {model: coefficient}.
        figures: of FIGURES, whose differences are looked at.
        improves: True: for the better; False: for the worse; None: nothing is published on it.
        published: {label of `published_rows`: coefficient}; empty: there are no such rows.
    """

    text: str
    difference: Mapping[str, int]
    figures: tuple[str, ...]
    improves: bool | None
    published: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _minus(a: Mapping[str, int] | str, b: Mapping[str, int] | str) -> dict[str, int]:
    """a - b, each a name or a difference of such."""
    a, b = ({x: 1} if isinstance(x, str) else x for x in (a, b))
    return {**a, **{name: -coefficient for name, coefficient in b.items()}}


def _lengths(phase: str) -> list[Direction]:
    rows = {length: f"S2: {row} steps, {phase}" for length, row in (("default", "100k"), ("x2", "200k"), ("x4", "400k"))}
    return [Direction(f"{text} helps, {phase}", _minus(f"{long}/{phase}", f"{short}/{phase}"), figures, True,
                      _minus(rows[long], rows[short]))
            for text, long, short, figures in (
                ("Training 2 times as long", "x2", "default", _FEW),
                ("Training 4 instead of 2 times as long", "x4", "x2", _FEW),
                ("Training 4 times as long", "x4", "default", (*_PUBLISHED, _CPS_MOST, "cps400")))]


def _consistency() -> list[Direction]:
    figures = (*_PUBLISHED, _CPS_MOST, "cps400", "inconsistency")
    few = (*_FEW, "inconsistency")
    return [
        Direction("Fine-tuning with consistency helps", _minus("default/finetuned", "default/initial"), figures, True,
                  _minus("S2: 100k steps, finetuned", "S2: 100k steps, initial")),
        Direction("Fine-tuning with consistency helps after training 4 times as long", _minus("x4/finetuned", "x4/initial"),
                  figures, True, _minus("S2: 400k steps, finetuned", "S2: 400k steps, initial")),
        Direction("It is the consistency that helps: fine-tuning with it against without", _minus(
            "default/finetuned", "default/finetuned_none"), figures, True),
        *(Direction(f"Fine-tuning in the way {way} helps", _minus(f"default/finetuned_{way}", "default/initial"), few, True)
          for way in ("latent", "hybrid")),
        *(Direction(f"{way} against regularize", _minus(f"default/finetuned_{way}", "default/finetuned"), few, None)
          for way in ("latent", "hybrid"))]


def _ghost(name: str, row: str, with_steps: str, without: str) -> list[Direction]:
    """Args: row: of table S4; with_steps, without: trainings with and without the inference-mode steps."""
    figures = ("mpjpe", "pck100", "cps200", "cps400")
    costs = {phase: _minus(f"{without}/{phase}", f"{with_steps}/{phase}") for phase in ("initial", "finetuned")}
    published = {phase: _published_cost(row, phase) for phase in costs}
    return [
        *(Direction(f"Without the inference-mode steps {name} is worse, {phase}", cost, figures, False, published[phase])
          for phase, cost in costs.items()),
        Direction(f"With the inference-mode steps {name} is better than plain BatchNorm",
                  _minus(f"{with_steps}/finetuned", "plain/finetuned"), ("mpjpe",), True,
                  _minus(_s4(row, "with", "finetuned"), _s4("Normal BN", "with", "finetuned"))),
        Direction(f"Without them {name} is worse than plain BatchNorm",
                  _minus(f"{without}/finetuned", "plain_without/finetuned"), figures, False,
                  _minus(_s4(row, "without", "finetuned"), _s4("Normal BN", "without", "finetuned"))),
        Direction(f"Leaving them out costs {name} more than plain BatchNorm", _minus(costs["finetuned"], _PLAIN_COST), figures,
                  False, _minus(published["finetuned"], _published_cost("Normal BN", "finetuned")))]


def _published_cost(row: str, phase: str) -> dict[str, int]:
    return _minus(_s4(row, "without", phase), _s4(row, "with", phase))


def _s4(row: str, with_or_without: str, phase: str) -> str:
    return f"S4: {row}, {with_or_without} inference-mode BN steps, {phase}"


_PUBLISHED = ("mpjpe", "pa_mpjpe", "pck100", "cps200")
_FEW = ("mpjpe", "cps200", "cps400")
_CPS_MOST = "cps200 - pck100"  # better where the share of correct poses gains more points than that of correct joints
_PLAIN_COST = _minus("plain_without/finetuned", "plain/finetuned")
DIRECTIONS = (
    *_lengths("initial"), *_lengths("finetuned"), *_consistency(),
    *_ghost("Ghost BN 16", "Ghost BN 16", "default", "ghost_16_without"),
    *_ghost("Ghost BN 3D/2D", "Ghost BN (3D/2D)", "ghost_3d_2d", "ghost_3d_2d_without"),
    Direction("Plain BatchNorm without the inference-mode steps, finetuned", _PLAIN_COST, ("mpjpe", "cps200"), None,
              _published_cost("Normal BN", "finetuned")),
    Direction("The l1 penalty makes the autoencoder's weights sparse and nearly non-negative",
              _minus("default/autoencoder", "default/autoencoder_without_l1"), ("zero_weights", "negative_weights"), True))
