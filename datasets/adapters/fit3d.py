"""Fit3D (Fieraru et al., AIFit, CVPR 2021): people doing fitness exercises in a studio, four cameras, marker-based 3D labels.

Layout, frames and boxes: see `imar_studio`.
"""

from datasets.imar_studio import make_adapter

ADAPTER = make_adapter("fit3d", "https://fit3d.imar.ro")
