"""How celladapt stands up to bad files, faults and long work: measured, and partly tested by ``tests``."""
