"""What watches and keeps a run, as Lightning callbacks: metrics, progress, checkpoints, validation."""

from mmssl.callbacks.checkpoint_files import FORMAT, AtomicIO, read_checkpoint
from mmssl.callbacks.checkpoints import Checkpoints
from mmssl.callbacks.metrics import MetricsWriter
from mmssl.callbacks.monitor import ValidationMonitor
from mmssl.callbacks.progress import Progress

__all__ = ["FORMAT", "AtomicIO", "Checkpoints", "MetricsWriter", "Progress", "ValidationMonitor", "read_checkpoint"]
