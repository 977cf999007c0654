"""What would run: topology and decisions in, argv and hotplug steps out. Pure."""
