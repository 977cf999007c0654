"""`vpctl soak`: faults under traffic on a topology that runs, and what came of them."""
