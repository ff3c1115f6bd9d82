"""The commands: parse, one library call, show."""
