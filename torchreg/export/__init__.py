"""What leaves the house: files, graphs and scripts, from a module and plain records."""
