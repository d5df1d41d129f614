"""Random histories: what every destination must hold, whatever broke on the way."""
