"""The flat protocol: every metric as one mean over all poses and joints, no per-sequence or per-activity stage first.

It is the convention of the ablations in WACV 2023 (supplement S4): metric scale, all joints with the root, nothing
rescaled. What it does with poses that are partly annotated or predicted is said in `posepile.evaluation.metrics`.
"""

from posepile.evaluation.prediction_files import Poses, check_pair
from posepile.evaluation.protocols.record import flat_record, score_pair


def score(pred: Poses, true: Poses, confidence: float = 0.95) -> dict:
    """Scores one prediction per annotated pose, in any joint format.

    Args:
        pred, true: the same poses and joints in one order; the root is that of `true`, or else joint 0.
        confidence: of the intervals.

    Returns: see `record.flat_record`.
    Raises: ValueError for poses that do not fit together.
    """
    pred, true = check_pair(pred, true)
    return flat_record(score_pair(pred, true, 0 if true.root is None else true.root, confidence, protocol="flat",
                                  annotation="as given, not rescaled"))
