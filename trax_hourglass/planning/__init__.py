"""Plans a run in advance: sizes, FLOPs, and programs compiled for devices that need not be present."""
