"""Evaluation of frozen representations: features, probes, retrieval, health. Knows a model by `embed(batch)` alone."""

from mmssl.eval.features import Features, extract, feature_names, feature_sets, frozen, join, on_device, take
from mmssl.eval.health import Verdict, alignment, collapsed, dimension_std, modality_gap, rankme, spread, uniformity
from mmssl.eval.intervals import paired_interval, resample, seed_interval, weighted
from mmssl.eval.low_rank import LowRank
from mmssl.eval.nearest import nearest
from mmssl.eval.neighbours import KNN, knn_probe
from mmssl.eval.online import OnlineLinear
from mmssl.eval.penalised import SVM, Linear, Ridge, linear_probe
from mmssl.eval.probes import (
    Fitted,
    Probe,
    ProbeResult,
    carry_out,
    chance,
    label_draw,
    label_fraction,
    learnable,
    rarest_class,
    run_probe,
    usable,
)
from mmssl.eval.retrieval import RetrievalResult, places, retrieval, retrieval_table, summary, true_ranks
from mmssl.eval.rows import Labelled, Rows, Stacked, WithinGroups
from mmssl.eval.scores import METRICS, Scores, score_guesses, scores
from mmssl.eval.tables import ProbeRow, ProbeTable, probe_table, render

__all__ = ["Features", "Fitted", "KNN", "Labelled", "Linear", "LowRank", "METRICS", "OnlineLinear", "Probe",
           "ProbeResult", "ProbeRow", "ProbeTable", "RetrievalResult", "Ridge", "Rows", "SVM", "Scores", "Stacked",
           "Verdict", "WithinGroups", "alignment", "carry_out", "chance", "collapsed", "dimension_std", "extract",
           "feature_names", "feature_sets", "frozen", "join", "knn_probe", "label_draw", "label_fraction", "learnable",
           "linear_probe", "modality_gap", "nearest", "on_device", "paired_interval", "places", "probe_table", "rankme",
           "rarest_class", "render", "resample", "retrieval", "retrieval_table", "run_probe", "score_guesses", "scores",
           "seed_interval", "spread", "summary", "take", "true_ranks", "uniformity", "usable", "weighted"]
