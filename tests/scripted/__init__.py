"""A made-up platform in several shapes: destinations here, their server beside them, over the sandbox's people."""
