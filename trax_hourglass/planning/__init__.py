"""What a run will take, said before it begins: sizes, operations, and programs for devices that need not be here."""
