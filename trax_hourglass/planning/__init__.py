"""Plans a run before it begins: sizes, FLOPs, and programs for devices that need not be here."""
