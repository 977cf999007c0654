"""The command line: one module per verb, `render` alone prints, nothing heavy is imported before it is needed."""
