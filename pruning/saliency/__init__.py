"""Saliency: what the loss would miss if a weight, or a unit of a coupling group, were cut.

All methods read one pass of gradients over mini-batches of the user's classes. Letters: u = units of a coupling group,
C = channels of a tensor, W = a weight, L = mean cross entropy of a mini-batch.
"""

from pruning.saliency.scores import METHODS, OTHER_CLASSES, Others, Scores, score, score_all
from pruning.saliency.units import channel_scores_from_weights

__all__ = ["METHODS", "OTHER_CLASSES", "Others", "Scores", "channel_scores_from_weights", "score", "score_all"]
