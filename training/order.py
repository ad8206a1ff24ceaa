"""The four stages in the order in which they run; each opens what the ones before it wrote."""

from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.dmd2 import DMD2Stage
from training.flow import FlowStage
from training.stage import Stage

STAGES: tuple[type[Stage], ...] = (AutoencoderStage, AlignStage, FlowStage, DMD2Stage)
