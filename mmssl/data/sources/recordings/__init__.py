"""Data sets of recordings: sensors of subjects, cut into windows; and the sources that are such."""

from mmssl.data.sources.recordings.collection import Collection, Unit
from mmssl.data.sources.recordings.packing import pack_recordings, read_checksums
from mmssl.data.sources.recordings.windows import Layout, Sensor, Stretch

__all__ = ["Collection", "Layout", "Sensor", "Stretch", "Unit", "pack_recordings", "read_checksums"]
