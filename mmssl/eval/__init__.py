"""Evaluation of frozen representations: features, probes, retrieval, health. Knows a model by `embed(batch)` alone."""

from mmssl.eval.features import Features, extract, frozen, join, on_device, take
from mmssl.eval.health import Verdict, alignment, collapsed, dimension_std, modality_gap, rankme, spread, uniformity
from mmssl.eval.probes import Labelled, ProbeResult, Score, chance, knn_probe, label_fraction, linear_probe, score
from mmssl.eval.retrieval import RetrievalResult, retrieval, retrieval_table, true_ranks
from mmssl.eval.tables import ProbeRow, ProbeTable, probe_table, render

__all__ = ["Features", "Labelled", "ProbeResult", "ProbeRow", "ProbeTable", "RetrievalResult", "Score", "Verdict",
           "alignment", "chance", "collapsed", "dimension_std", "extract", "frozen", "join", "knn_probe",
           "label_fraction", "linear_probe", "modality_gap", "on_device", "probe_table", "rankme", "render",
           "retrieval", "retrieval_table", "score", "spread", "take", "true_ranks", "uniformity"]
