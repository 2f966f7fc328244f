"""HumanSC3D (Fieraru et al., AAAI 2021): people who touch themselves, in a studio, four cameras, marker-based 3D labels.

Layout, frames and boxes: see `imar_studio`.
"""

from datasets.imar_studio import make_adapter

ADAPTER = make_adapter("humansc3d", "https://sc3d.imar.ro")
