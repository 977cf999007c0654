"""What was measured: its records, statistics, verdicts, comparisons and their forms. Pure but for the files."""
