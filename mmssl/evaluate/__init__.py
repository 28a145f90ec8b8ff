"""A trained run put to use: load it, probe or score it, embed shards or media files with it."""

from mmssl.evaluate.embedding import embed, embed_files
from mmssl.evaluate.loading import device_of, load, load_weights, open_model, probe_overrides, reading
from mmssl.evaluate.probing import ProbeReport, probe, project_pairs, retrieve
from mmssl.evaluate.scoring import ScoreReport, predict, score

__all__ = ["ProbeReport", "ScoreReport", "device_of", "embed", "embed_files", "load", "load_weights", "open_model",
           "predict", "probe", "probe_overrides", "project_pairs", "reading", "retrieve", "score"]
