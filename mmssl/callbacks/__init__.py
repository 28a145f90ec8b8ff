"""What watches and keeps a run, as Lightning callbacks: metrics, progress, checkpoints, validation."""

from mmssl.callbacks.checkpoint_files import FORMAT, AtomicIO, read_checkpoint
from mmssl.callbacks.checkpoints import Checkpoints
from mmssl.callbacks.metrics import MetricsWriter
from mmssl.callbacks.monitor import ValidationMonitor
from mmssl.callbacks.online import OnlineProbes
from mmssl.callbacks.pictures import Pictures
from mmssl.callbacks.progress import Progress
from mmssl.callbacks.scores import EarlyEnd, ScoreMonitor, ended_early

__all__ = ["FORMAT", "AtomicIO", "Checkpoints", "EarlyEnd", "MetricsWriter", "OnlineProbes", "Pictures",
           "Progress", "ScoreMonitor", "ValidationMonitor", "ended_early", "read_checkpoint"]
