"""Raw signals: the files they come in, their units, gaps and rates. Knows nothing of data sets."""
