"""What a topology file says: the model, the strict loader and the rules that a file must meet."""
