"""How much each joint counts in a fit: dense marker sets and spines would else outweigh the rest of the body."""

import numpy as np

from posepile.geometry.skeleton import Skeleton, joint_indices

BALANCED = "balanced"


def parse_joint_weights(text: str, skeleton: Skeleton) -> np.ndarray | None:
    """Joint weights as the command line gives them.

    Args:
        text: "" for all joints alike; "balanced": the weights of each format's joints sum to the same, and a joint of
            several formats counts for each; or `smpl_24=0.5,nose_coco=3`: weights of formats and joints, 1 for the others.

    Returns: [num_joints] float64 with mean 1, or None for "".
    Raises: ValueError naming what is neither a format nor a joint, or is no weight.
    """
    formats = {fmt.name: joint_indices(skeleton, fmt) for fmt in skeleton.formats}
    if not text:
        return None
    if text == BALANCED:
        weights = np.zeros(skeleton.num_joints)
        for joints in formats.values() or [np.arange(skeleton.num_joints)]:
            weights[joints] += 1 / len(joints)
        return weights / weights.mean()
    weights = np.ones(skeleton.num_joints)
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < np.inf:
            raise ValueError(f"joint weight {item.strip()!r}: expected FORMAT_OR_JOINT=WEIGHT with a number of at least 0")
        if name not in formats and name not in skeleton.joint_names:
            raise ValueError(f"joint weight {item.strip()!r}: {name!r} is neither a format ({', '.join(formats)}) nor a joint "
                             f"of {skeleton.name}, such as {skeleton.joint_names[0]}")
        weights[formats[name] if name in formats else skeleton.index(name)] *= weight
    if not weights.any():
        raise ValueError(f"joint weights {text!r} leave no joint that counts")
    return weights / weights.mean()
