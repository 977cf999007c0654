"""What is done at run time to plug, unplug and repair a link: one file for each kind that needs more than QMP."""
