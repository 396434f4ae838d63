"""NuSegSSDA: NuSegUDA, and the masks of those target images that have one (Haq, Ma and Huang, Front. Big Data 2023)."""

from celladapt.methods.cellsegssda import CellSegSSDA
from celladapt.methods.nuseguda import NuSegUDA


class NuSegSSDA(CellSegSSDA, NuSegUDA):
    """Semi-supervised: CellSegSSDA's L_seg with NuSegUDA's other losses. Without any labelled target image it is NuSegUDA."""
