"""CHI3D (Fieraru et al., CVPR 2020): pairs of people who touch each other, in a studio, four cameras, 3D labels.

Layout, frames and boxes: see `imar_studio`. The labels are of two people, [2, frames, 25, 3]; only person 0 wears markers, the
pose of person 1 is a fit. Both are kept. (An older release has one person, [frames, 25, 3].)
"""

from datasets.imar_studio import make_adapter

ADAPTER = make_adapter("chi3d", "https://ci3d.imar.ro")
